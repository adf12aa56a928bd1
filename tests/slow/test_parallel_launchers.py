"""torchrun and accelerate start runs of several processes, and pass Ctrl-C on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyvision_rl.resuming import can_go_on
from tests.tiny_models import make_tiny

pytestmark = pytest.mark.slow
"""A launcher and two processes import torch for 20 seconds each."""

ROOT = Path(__file__).parents[2]
CONFIG = """
seed = 3
[tasks]
name = "tests.fakes:Colours"
[prompts]
template = "minimal"
[policy]
model = "{model}"
device = "cpu"
max_new_tokens = 12
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
learning_rate = 1e-4
steps = {steps}
save_every = 100000
parallel = "fsdp2"
num_processes = 2
"""
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    # With --cpu it starts one process, unless there is MPI; the other way asks for no GPU.
    "accelerate": ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
}


def start(launcher: str, folder: Path, steps: int) -> subprocess.Popen[bytes]:
    make_tiny(folder / "model")
    file = folder / "run.toml"
    file.write_text(CONFIG.format(model=folder / "model", steps=steps))
    words = ["-m", "pyvision_rl.cli.main", "rl", str(file), "--out", str(folder / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, *LAUNCHERS[launcher], *words]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_starts_a_run(launcher: str, tmp_path: Path) -> None:
    process = start(launcher, tmp_path, 2)
    assert process.wait(280) == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "out" / "final" / "model.safetensors").exists()
    assert (tmp_path / "log").read_text().count("step 1/2") == 1


def test_ctrl_c_to_torchrun_saves_a_whole_step(tmp_path: Path) -> None:
    process = start("torchrun", tmp_path, 100_000)
    lines = tmp_path / "out" / "metrics.jsonl"
    until = time.monotonic() + 280
    while not (lines.exists() and lines.read_text()) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    assert can_go_on("rl", tmp_path / "out"), (tmp_path / "log").read_text()
