"""A run folder may come from anybody: its names lead nowhere, and its odd lines stop nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_view_index import data, file_of

from pyvision_rl.evaluation.export import export_log
from pyvision_rl.view.export import export_folder
from pyvision_rl.view.payloads import Shelf
from pyvision_rl.view.server import hosts_of
from pyvision_rl.view.single import export_file
from pyvision_rl.view.site import Options, RunSite
from tests.view_example import write_run

COLOUR = (12, 200, 99)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "given" / "r", 1)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A picture of this machine that no run folder may reach."""
    file = tmp_path / "secret.png"
    Image.new("RGB", (31, 17), COLOUR).save(file)
    return file


def rename(run: Path, digest: str, name: str) -> None:
    """Have every line call a picture by another name."""
    text = file_of(run, 1).read_text()
    assert digest in text
    file_of(run, 1).write_text(text.replace(digest, name))


def handed_out(run: Path, out: Path) -> bytes:
    """All that is served and exported of a run, in one."""
    export_folder(run, out / "site")
    export_file(run, out / "one.html")
    export_log(run, out / "log", "openai")
    export_log(run, out / "urls", "openai", data_urls=True)
    return b"".join(f.read_bytes() for f in sorted(out.rglob("*")) if f.is_file())


def inside(out: Path) -> bool:
    """Whether nothing was written but where it belongs."""
    return {f.name for f in out.iterdir()} == {"site", "one.html", "log", "urls"}


@pytest.mark.parametrize("far", [False, True])
def test_a_name_that_is_no_hash_reaches_no_file(
    run: Path, secret: Path, tmp_path: Path, far: bool
) -> None:
    picture = sorted((run / "media").glob("*.png"))[0]
    name = str(secret.with_suffix("")) if far else "../../../secret"
    rename(run, picture.stem, name)
    assert (run / "media" / f"{name}.png").is_file()
    site = RunSite(run, Options())
    assert name not in site.images()
    assert site.get(f"media/{name}.png", {}) is None
    before = set(tmp_path.rglob("*"))
    given = handed_out(run, tmp_path / "out")
    assert secret.read_bytes() not in given
    assert inside(tmp_path / "out")
    new = set(tmp_path.rglob("*")) - before
    assert all((tmp_path / "out") in (path, *path.parents) for path in new)
    assert "missing:" in (tmp_path / "out" / "log" / "messages.jsonl").read_text()


def test_a_link_under_the_name_of_a_picture_is_no_picture(
    run: Path, secret: Path, tmp_path: Path
) -> None:
    picture = sorted((run / "media").glob("*.png"))[0]
    picture.unlink()
    picture.symlink_to(secret)
    site = RunSite(run, Options())
    assert picture.stem not in site.images()
    for name in (f"media/{picture.name}", f"thumbs/{picture.stem}.webp"):
        assert site.get(name, {}) is None
    told = data(site, "run")["num_media"]
    assert told["here"] == told["named"] - 1
    assert secret.read_bytes() not in handed_out(run, tmp_path / "out")


def test_the_file_of_a_video_is_no_picture_of_a_message(
    run: Path, secret: Path, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in file_of(run, 1).read_text().splitlines()]
    facts = {"kind": "video", "num_frames": 5, "fps": 5.0, "duration_s": 1.0}
    for line in lines:
        for part in (p for message in line["prompt"] for p in message["parts"] if "media" in p):
            part["media"] |= {"sha256": "../../film", **facts}
    file_of(run, 1).write_text("".join(json.dumps(line) + "\n" for line in lines))
    noted = {"../../film": {"file": str(secret)}}
    (run / "media" / "videos.json").write_text(json.dumps(noted))
    assert secret.read_bytes() not in handed_out(run, tmp_path / "out")
    assert inside(tmp_path / "out")


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(line: dict[str, Any]) -> None:
        inner: Any = line
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        put("answer", value=5),
        put("answer", value=[]),
        put("reason", value=["x"]),
        put("rollout", value=["x"]),
        put("task", "id", value=["x"]),
        put("task", "question", value=None),
        put("task", "category", value=["x"]),
        put("task", "media", 0, "sha256", value=["x"]),
        put("task", "media", 0, "width", value="wide"),
        put("turns", 0, "num_tokens", value="many"),
        put("turns", 0, "execution", "sources", 0, "box", value=["a", "b", "c", "d"]),
        put("reward", "correct", value="yes"),
    ],
)
def test_a_line_of_odd_values_is_named_and_the_rest_shown(
    run: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    lines = [json.loads(line) for line in file_of(run, 1).read_text().splitlines()]
    change(lines[0])
    file_of(run, 1).write_text("".join(json.dumps(line) + "\n" for line in lines))
    site = RunSite(run, Options())
    told = data(site, "run")
    assert any(p.startswith("step_000001.jsonl, line 1: not a tr") for p in told["problems"])
    assert told["steps"][0]["num"] == 19
    assert len(data(site, "index")["step"]) == 19
    groups = data(site, "c000001-00")["groups"]
    assert [len(g["trajectories"]) for g in groups] == [3, 4, 4, 4, 4]


def test_tokens_that_cannot_be_read_are_left_out_alone(run: Path, tmp_path: Path) -> None:
    text = file_of(run, 1).read_text()
    file_of(run, 1).write_text(text.replace('"segments": [', '"segments": [5, ', 1))
    site = RunSite(run, Options())
    assert site.get("data/t000001-00.js", {}) is None
    assert len(data(site, "c000001-00")["groups"]) == 5
    export_folder(run, tmp_path / "site")
    names = {f.name for f in (tmp_path / "site/data").iterdir()}
    assert names == {"run.js", "index.js", "notes.js", "c000001-00.js"}
    export_file(run, tmp_path / "one.html")


def test_a_fault_of_the_list_of_videos_is_told_until_it_is_mended(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    (tmp_path / "videos.json").write_text("{")
    assert shelf.videos() == {}
    assert shelf.problems
    (tmp_path / "videos.json").write_text("{}")
    assert shelf.videos() == {}
    assert not shelf.problems


def test_browsers_leave_out_the_port_of_http() -> None:
    assert hosts_of(8123) == {"127.0.0.1:8123", "localhost:8123"}
    assert hosts_of(80) == {"127.0.0.1", "localhost", "127.0.0.1:80", "localhost:80"}
