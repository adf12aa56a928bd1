"""Ctrl-C and SIGTERM in a real process: the step is finished, saved, and resumable."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyvision_rl.resuming import can_go_on
from tests.tiny_models import make_tiny

ROOT = Path(__file__).parents[2]
CONFIG = """
seed = 3
[tasks]
name = "tests.fakes:Colours"
[prompts]
template = "minimal"
[policy]
model = "{model}"
max_new_tokens = 12
threads = 1
[sandbox]
name = "scripted"
[rollout]
group_size = 4
max_context_tokens = 1500
[rewards]
name = "tests.fakes:ParityGrader"
[selection]
groups_per_step = 2
[train]
learning_rate = 1e-3
steps = 100000
save_every = 100000
"""


def pvrl(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pyvision_rl.cli.main", *words],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_prints_the_resume_command(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    make_tiny(tmp_path / "model")
    (tmp_path / "run.toml").write_text(CONFIG.format(model=tmp_path / "model"))
    out = tmp_path / "out"
    process = pvrl("rl", str(tmp_path / "run.toml"), "--out", str(out))
    deadline = time.monotonic() + 120
    metrics = out / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert f"pvrl rl --resume {out}" in said
    steps = len(metrics.read_text().splitlines())
    assert (out / "final" / "model.safetensors").exists()
    again = pvrl("rl", "--resume", str(out), "--set", f"train.steps={steps + 1}")
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert len(metrics.read_text().splitlines()) == steps + 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_a_second_signal_does_not_wait_for_the_step(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    make_tiny(tmp_path / "model")
    endless = CONFIG.replace("ParityGrader", "SlowGrader").format(model=tmp_path / "model")
    (tmp_path / "run.toml").write_text(endless)
    process = pvrl("rl", str(tmp_path / "run.toml"), "--out", str(tmp_path / "out"))
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / "run.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    # The loop listens from the next moment on.
    time.sleep(1)
    process.send_signal(number)
    assert process.stderr is not None
    said = process.stderr.readline()
    assert f"{number.name}: stopping after this step; once more stops at once" in said
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said


def test_a_run_goes_on_from_whole_checkpoints_or_judged_episodes_only(tmp_path: Path) -> None:
    manifest = tmp_path / "checkpoints/step_000002/MANIFEST.json"
    manifest.parent.mkdir(parents=True)
    assert not can_go_on("rl", tmp_path)
    manifest.write_text("{}")
    # A checkpoint without its run is none.
    assert not can_go_on("rl", tmp_path)
    (tmp_path / "run.json").write_text("{}")
    assert [v for v in ("rl", "sft", "eval", "new-model") if can_go_on(v, tmp_path)] == [
        "rl",
        "sft",
    ]
