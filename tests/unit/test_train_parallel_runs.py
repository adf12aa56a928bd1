"""Runs of two processes: they leave what one would, resume, and end together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_train_rl import metrics, weights

from pyvision_rl.config_file import find_config, load_config
from pyvision_rl.export.write import export_model
from pyvision_rl.models.load import load_model
from pyvision_rl.resuming import can_go_on
from pyvision_rl.runs import RunReader
from pyvision_rl.train.rl import run_rl
from pyvision_rl.train.sft import run_sft
from tests.parallel_runs import Runner
from tests.sft_wiring import write_pairs
from tests.tiny_models import make_tiny

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
max_tool_calls = 2
max_context_tokens = 1500
[rewards]
name = "tests.fakes:ParityGrader"
[selection]
groups_per_step = 2
oversample = 1.5
[train]
learning_rate = 1e-4
steps = 4
save_every = 2
keep_checkpoints = 9
micro_batch_tokens = 900
parallel = "fsdp2"
[[sft.stages]]
name = "s"
steps = 4
batch_size = 4
eval_share = 0.3
[[sft.stages.data]]
kind = "pairs"
path = "{pairs}"
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    make_tiny(folder / "model")
    found = folder / "run.toml"
    pairs = write_pairs(folder)
    found.write_text(CONFIG.format(model=folder / "model", pairs=pairs))
    return found


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as started:
        yield started


@pytest.fixture(scope="module")
def whole(runner: Runner, file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each verb by two processes that nobody disturbed."""
    place = tmp_path_factory.mktemp("whole")
    for verb in ("sft", "rl"):
        log = place / f"{verb}.log"
        codes = runner.run(2, log, argv=[verb, file, "--out", place / verb])
        assert codes == [0, 0], log.read_text()
    return {"sft": place / "sft", "rl": place / "rl", "place": place}


def lines(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "step_s"} for line in metrics(out)]


def assert_close(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs) > 0
    for one, two in zip(ours, theirs, strict=True):
        assert one.keys() == two.keys()
        for name, value in one.items():
            wanted = value if isinstance(value, str) else pytest.approx(value, abs=1e-5, rel=1e-4)
            assert two[name] == wanted, name


def test_sft_of_two_processes_is_that_of_one(
    file: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    config = load_config(find_config(str(file)), ("train.parallel=none",))
    run_sft(config, tmp_path / "alone")
    assert_close(lines(tmp_path / "alone"), lines(whole["sft"]))


def test_rl_of_two_processes_samples_the_episodes_of_one(
    file: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    config = load_config(find_config(str(file)), ("train.parallel=none", "train.steps=2"))
    run_rl(config, tmp_path / "alone")
    for step in (1, 2):
        ours, theirs = (
            [
                (s.trajectory.token_ids, s.trajectory.reward)
                for s in RunReader(out).trajectories(step)
            ]
            for out in (tmp_path / "alone", whole["rl"])
        )
        assert ours == theirs, step
    assert_close(lines(tmp_path / "alone"), lines(whole["rl"])[:2])


def test_only_process_0_talks(whole: dict[str, Path]) -> None:
    text = (whole["place"] / "rl.log").read_text()
    assert text.count("step 1/4") == 1
    assert text.count("wrote ") == 1


@pytest.mark.parametrize("verb", ["sft", "rl"])
def test_two_processes_resume_with_the_same_bits(
    verb: str, runner: Runner, whole: dict[str, Path], tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    shutil.copytree(whole[verb], parts, symlinks=True)
    shutil.rmtree(parts / "checkpoints" / "step_000004")
    log = tmp_path / "log"
    assert runner.run(2, log, argv=[verb, "--resume", parts]) == [0, 0], log.read_text()
    assert lines(parts) == lines(whole[verb])
    assert weights(parts, 4) == weights(whole[verb], 4)
    assert weights(parts, 4) != weights(parts, 2), "it must learn for this to mean something"


@pytest.mark.parametrize("verb", ["sft", "rl"])
def test_one_process_goes_on_where_two_stopped(
    verb: str, whole: dict[str, Path], tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    shutil.copytree(whole[verb], parts, symlinks=True)
    shutil.rmtree(parts / "checkpoints" / "step_000004")
    config = load_config(parts, ("train.parallel=none",))
    if verb == "sft":
        run_sft(config, parts, resume=parts)
    else:
        run_rl(config, parts, resume=parts)
    assert_close(lines(parts)[:3], lines(whole[verb])[:3])


def test_what_two_processes_leave_is_an_ordinary_model(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    export_model(whole["rl"], tmp_path / "model")
    exported = load_model(str(tmp_path / "model"), device="cpu").module
    trained = load_model(str(whole["rl"] / "final"), device="cpu").module
    for name, value in trained.state_dict().items():
        assert value.equal(exported.state_dict()[name]), name


def long_run(runner: Runner, file: Path, out: Path, log: Path, number: int, to: slice) -> list[int]:
    """Start a run without end, send a signal after a step or two, and return the exit codes."""
    argv = ["rl", file, "--out", out, "--set", "train.steps=9999", "--set", "train.save_every=999"]

    def begun() -> bool:
        numbers = out / "metrics.jsonl"
        return numbers.exists() and numbers.read_text().count("\n") >= 2

    def send(pids: list[int]) -> None:
        for pid in pids[to]:
            os.kill(pid, number)

    return runner.run(2, log, argv=argv, when=begun, do=send)


def test_a_process_that_dies_ends_the_run_and_is_named(
    runner: Runner, file: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    codes = long_run(runner, file, tmp_path / "out", log, signal.SIGKILL, slice(1, 2))
    assert codes == [1, -signal.SIGKILL]
    assert "process 0 of 2 lost another one" in log.read_text()
    (event,) = [e for e in RunReader(tmp_path / "out").events() if e["name"] == "failed"]
    assert "lost another one" in json.dumps(event)


def test_the_others_end_when_process_0_dies(runner: Runner, file: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    codes = long_run(runner, file, tmp_path / "out", log, signal.SIGKILL, slice(0, 1))
    assert codes == [-signal.SIGKILL, 1]
    assert "process 1 of 2 lost another one" in log.read_text()


@pytest.mark.parametrize("which", [0, 1])
def test_a_process_without_memory_ends_the_run_at_once_and_says_what_takes_less(
    which: int, runner: Runner, file: Path, tmp_path: Path
) -> None:
    log, began = tmp_path / "log", time.monotonic()
    codes = runner.run(2, log, argv=["sft", file, "--out", tmp_path / "out"], full=which)
    assert codes == [1, 1]
    assert time.monotonic() - began < 200  # and not train.parallel_timeout_s
    said = log.read_text()
    assert "the GPU's memory is full" in said
    assert "train.gradient_checkpointing = true" in said
    assert f"process {1 - which} of 2 lost another one" in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_saves_a_whole_step(
    number: int, code: int, runner: Runner, file: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    assert long_run(runner, file, out, log, number, slice(0, 2)) == [code, 0], log.read_text()
    assert can_go_on("rl", out)
    assert len(list((out / "checkpoints").glob("step_*"))) == 1


def test_without_a_launcher_there_are_no_processes(
    runner: Runner, file: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    assert runner.run(1, log, argv=["rl", file, "--out", tmp_path / "out"]) == [2]
    assert "torchrun" in log.read_text()
    assert not (tmp_path / "out").exists()


def test_another_number_of_processes_than_named_is_refused(
    runner: Runner, file: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    argv = ["rl", file, "--out", tmp_path / "out", "--set", "train.num_processes=3"]
    assert runner.run(2, log, argv=argv) == [2, 0]
    assert "train.num_processes = 3; the launcher started 2" in log.read_text()
