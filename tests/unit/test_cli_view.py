"""`pvrl view` as a person meets it, and pictures on terminals that draw them."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from pyvision_rl.cli.main import app
from pyvision_rl.cli.pictures import kitty, pictures, protocol_of, sixel
from pyvision_rl.cli.view import has_screen
from pyvision_rl.media import image_media
from pyvision_rl.show import render_run
from tests.unit.test_view_payloads import payload_of
from tests.view_example import write_run

ROOT = Path(__file__).parents[2]
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("cli") / "r", 2)


def pvrl(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_export_says_what_it_wrote(run: Path, tmp_path: Path) -> None:
    result = pvrl("view", run, "--export", tmp_path / "out", "--limit-steps", "2", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["result"]["trajectories"] == 20
    assert told["result"]["page"] == str(tmp_path / "out" / "index.html")
    assert (tmp_path / "out/index.html").is_file()
    again = pvrl("view", run, "--export", tmp_path / "out")
    assert again.exit_code == 2
    assert "not an empty folder" in again.stderr


def test_single_file_says_what_it_wrote(run: Path, tmp_path: Path) -> None:
    result = pvrl("view", run, "--single-file", tmp_path / "one.html", "--no-tokens")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"wrote {tmp_path / 'one.html'}: 40 trajectories, ")
    assert result.stdout.splitlines()[-1].startswith("next: open ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--export", "a", "--single-file", "b"), "name one of them"),
        (("--export", "a", "--port", "80"), "for serving"),
        (("--single-file", "a", "--no-open"), "for serving"),
        (("--max-mb", "3"), "--single-file"),
        (("--limit-steps", "x"), "--limit-steps 'x'"),
        (("--single-file", "a", "--max-mb", "0.001"), "larger than 0.001 MB"),
    ],
)
def test_what_does_not_go_together_is_refused(
    run: Path, tmp_path: Path, monkeypatch, options: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = pvrl("view", run, *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    result = pvrl("view", tmp_path, "--no-open")
    assert result.exit_code == 1
    assert "no run folder" in result.stderr


def test_a_served_run_ends_with_ctrl_c(run: Path) -> None:
    command = [sys.executable, "-m", "pyvision_rl.cli.main", "view", str(run), "--no-open"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        url = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert url is not None
        with urllib.request.urlopen(f"{url[0]}data/run.js", timeout=120) as answer:
            told = payload_of(answer.read(), "run")
        assert told["live"]
        assert len(told["notes_token"]) > 20
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, error
    assert "Traceback" not in error
    assert out.strip() == "ended"


def test_a_browser_is_opened_where_there_is_a_screen() -> None:
    assert has_screen({"DISPLAY": ":0"}, "linux")
    assert has_screen({"WAYLAND_DISPLAY": "wayland-0"}, "linux")
    assert not has_screen({"DISPLAY": ""}, "linux")
    assert has_screen({}, "darwin")


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/x"}, None),
        ({"TERM": "xterm-256color"}, None),
        ({}, None),
    ],
)
def test_terminals_are_told_by_their_environment(environment: dict[str, str], found: str) -> None:
    assert protocol_of(environment) == found


def printed(run: Path, protocol: str, *, terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=terminal, color_system=None)
    console.print(render_run(run, 1, "needle-11", 0, pictures(protocol)))
    return out.getvalue()


@pytest.mark.parametrize(
    ("protocol", "mark"),
    [("kitty", "\x1b_Ga=T"), ("iterm", "\x1b]1337;File=inline=1"), ("sixel", "\x1bP0;1q")],
)
def test_pictures_are_drawn_on_terminals_only(run: Path, protocol: str, mark: str) -> None:
    # The task's picture, and the two that code showed.
    assert printed(run, protocol, terminal=True).count(mark) == 3
    assert "\x1b" not in printed(run, protocol, terminal=False)
    assert "\x1b" not in printed(run, "none", terminal=True)


def test_kitty_gets_the_picture_in_pieces_it_takes() -> None:
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", kitty(NOISE))
    assert len(pieces) > 1
    assert all(len(data) <= 4096 for _, data in pieces)
    assert [head[-1] for head, _ in pieces] == ["1"] * (len(pieces) - 1) + ["0"]
    data = base64.b64decode("".join(data for _, data in pieces), validate=True)
    with Image.open(io.BytesIO(data)) as image:
        assert image_media(image) == image_media(NOISE)


def test_sixels_are_the_picture() -> None:
    """Read back by the format's own rules (DEC STD 070): bits downwards, ! repeats, $ returns."""
    image = Image.new("RGB", (9, 8), "white")
    image.paste((255, 0, 0), (1, 1, 6, 7))
    code = sixel(image)
    head, body = re.fullmatch(
        r'\x1bP0;1q"1;1;9;8((?:#\d+;2;\d+;\d+;\d+)+)(.*)\x1b\\', code
    ).groups()  # type: ignore[union-attr]
    palette = {
        int(k): [round(int(v) * 2.55) for v in rgb.split(";")]
        for k, rgb in re.findall(r"#(\d+);2;([\d;]+)", head)
    }
    seen = np.zeros((8, 9, 3), int)
    for band, line in enumerate(body.split("-")):
        for part in line.split("$"):
            color, columns = re.fullmatch(r"#(\d+)(.*)", part).groups()  # type: ignore[union-attr]
            spread = re.sub(r"!(\d+)(.)", lambda m: m[2] * int(m[1]), columns)
            assert len(spread) == 9
            for x, character in enumerate(spread):
                for bit in range(6):
                    if (ord(character) - 63) >> bit & 1:
                        seen[6 * band + bit, x] = palette[int(color)]
    assert np.array_equal(seen, np.asarray(image))


def test_a_picture_that_is_gone_is_named_all_the_same(run: Path, tmp_path: Path) -> None:
    gone = write_run(tmp_path / "r", 1)
    for file in (gone / "media").glob("*.png"):
        file.write_bytes(b"junk")
    shown = printed(gone, "kitty", terminal=True)
    assert "\x1b_G" not in shown
    assert "640×420" in shown


def test_an_unknown_protocol_is_refused(run: Path) -> None:
    result = pvrl("show", run, "--images", "ascii")
    assert result.exit_code == 2
    assert "kitty" in result.stderr
