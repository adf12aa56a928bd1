"""A run that is killed at any point, or meets a full disk, loses nothing that was saved."""

from __future__ import annotations

import json
import random
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_train_rl import config, metrics, weights

from pyvision_rl.errors import CheckpointError, RunError, TrainError
from pyvision_rl.runs import RunReader, RunWriter
from pyvision_rl.train.checkpoints import find_problem, step_path
from pyvision_rl.train.rl import run_rl
from tests.killable import Runner
from tests.tiny_models import make_tiny

NUM_STEPS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as started:
        yield started


@pytest.fixture(scope="module")
def values(model: Path) -> dict[str, Any]:
    """The config of all runs here: checkpoints at even steps, evaluations at every third."""
    train = {"steps": NUM_STEPS, "keep_checkpoints": 2, "keep_every": 4, "eval_every": 3}
    chosen = config(
        model,
        train=train | {"eval_at_start": True},
        eval={"num_tasks": 2},
        run={"trackers": ["tests.fakes:FileTracker"]},
    )
    return chosen.model_dump(mode="json")


@pytest.fixture(scope="module")
def whole(runner: Runner, values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert runner.run(values, out) == 0
    return out


def rollouts(out: Path) -> list[dict[str, Any]]:
    """Return every trajectory, without the times it took."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if k not in ("sample_s", "duration_s")}
        return [timeless(v) for v in value] if isinstance(value, list) else value

    files = sorted((out / "rollouts").glob("*.jsonl"))
    return [timeless(json.loads(line)) for file in files for line in file.read_text().splitlines()]


def events(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in e.items() if k != "time"} for e in RunReader(out).events()]


def assert_same(out: Path, whole: Path) -> None:
    """The resumed run left what the undisturbed one did, and nothing else."""
    assert metrics(out) == metrics(whole)
    assert [m["step"] for m in metrics(out)] == list(range(NUM_STEPS + 1))
    assert rollouts(out) == rollouts(whole)
    assert events(out) == events(whole)
    for step in (4, NUM_STEPS):
        assert weights(out, step) == weights(whole, step)
        assert not find_problem(step_path(out / "checkpoints", step), content=True)
    for link in ("final", "best"):
        assert (out / link).resolve().name == (whole / link).resolve().name
    left = {p.name for p in (out / "checkpoints").iterdir()}
    assert left == {p.name for p in (whole / "checkpoints").iterdir()}
    assert not list(out.rglob("*.part"))
    (tracked,) = out.parent.glob("*.tracked")
    steps = [json.loads(line)["step"] for line in tracked.read_text().splitlines()]
    assert steps == list(range(NUM_STEPS + 1))


def lines(out: Path) -> int:
    file = out / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


Until = Callable[[int], bool]


def while_saving(out: Path, draw: random.Random) -> Until:
    """While a checkpoint is being written: so many files are in its temporary folder."""
    wanted = draw.randrange(6)

    def until(_: int) -> bool:
        # The folder may be renamed while it is being listed.
        try:
            folder = next((out / "checkpoints").glob(".saving_*"), None)
            return folder is not None and sum(1 for _ in folder.iterdir()) >= wanted
        except OSError:
            return False

    return until


def after_metrics(out: Path, draw: random.Random) -> Until:
    """Right after a line of metrics: before the checkpoint, if there is one."""
    wanted = lines(out) + draw.randint(1, 2)
    return lambda _: lines(out) >= wanted


def after_rollouts(out: Path, draw: random.Random) -> Until:
    """When a step's rollouts are there and its metrics are not."""
    return lambda _: (
        sum(1 for _ in (out / "rollouts").glob("step_*.jsonl")) > max(0, lines(out) - 1)
    )


def harm(out: Path, draw: random.Random) -> None:
    """Cut a line as a crash of the machine may, and leave half-written files."""
    for name in ("metrics.jsonl", "events.jsonl"):
        if (out / name).exists():
            with (out / name).open("ab") as file:
                file.write(b'{"step": 5, "time": 17'[: draw.randint(1, 22)])
    (out / "rollouts" / "step_000009.jsonl.part").write_bytes(b"{")


def disturb(runner: Runner, values: dict[str, Any], out: Path, seed: int, kinds: list[Any]) -> int:
    """Kill the run at one point after the other, going on each time; return how many hit."""
    draw, killed = random.Random(seed), 0
    for kind in kinds:
        going_on = (out / "run.json").exists()
        code = runner.run(values, out, resume=going_on, until=kind(out, draw))
        assert code in (0, -9), code
        killed += code == -9
        if (out / "run.json").exists():
            harm(out, draw)
    assert runner.run(values, out, resume=(out / "run.json").exists()) == 0
    return killed


def test_a_killed_run_ends_as_if_it_had_never_been_killed(
    runner: Runner, values: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    kinds = [after_rollouts, while_saving, after_metrics, while_saving]
    # The last one may come too late, when the run has ended.
    assert disturb(runner, values, tmp_path / "run", 1, kinds) >= 3
    assert_same(tmp_path / "run", whole)


@pytest.mark.slow  # Twenty runs with about ten kills each.
@pytest.mark.parametrize("seed", range(20))
def test_kills_at_many_points_change_nothing(
    runner: Runner, values: dict[str, Any], whole: Path, tmp_path: Path, seed: int
) -> None:
    kinds = random.Random(seed).choices([after_rollouts, while_saving, after_metrics], k=10)
    disturb(runner, values, tmp_path / "run", seed, kinds)
    assert_same(tmp_path / "run", whole)


def test_a_full_disk_leaves_the_last_checkpoint_whole_and_is_told(
    runner: Runner, values: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    size = (whole / "final" / "model.safetensors").stat().st_size
    files = [f for f in whole.rglob("*.jsonl") if f.is_file()]
    # Records fit, weights do not.
    assert max(f.stat().st_size for f in files) < size // 2

    def fill(pid: int) -> bool:
        if (out / "final").exists():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size // 2, size // 2))
        return False

    assert runner.run(values, out, until=fill) == 1
    (failed,) = [e for e in events(out) if e["name"] == "failed"]
    assert "cannot save" in failed["text"]
    assert not list((out / "checkpoints").glob(".saving_*")), "it would keep the disk full"
    assert not find_problem((out / "final").resolve(), content=True)
    assert runner.run(values, out, resume=True) == 0
    assert_same(out, whole)


def test_a_line_the_disk_refuses_is_not_half_there(tmp_path: Path) -> None:
    from pyvision_rl.config import Config

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunWriter(tmp_path / "run", Config(), "rl") as writer:
        writer.metrics(1, {"x": 1.0})
        before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
        try:
            # Ten bytes of the next line still fit.
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
            with pytest.raises(RunError, match=r"cannot write .*metrics.jsonl"):
                writer.metrics(2, {"x": 2.0})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
        writer.metrics(2, {"x": 2.0})
    assert [m["step"] for m in RunReader(tmp_path / "run").metrics()] == [1, 2]


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_rl(config(model, train={"steps": 2}), out)
    before = weights(out, 2)
    # A divisor of 1e-300 makes the loss of single precision infinite.
    divided = config(model, train={"loss_norm": "constant", "constant_tokens": 1e-300})
    with pytest.raises(TrainError, match=r"step 3: .* (inf|nan)") as failed:
        run_rl(divided, out, resume=out)
    (note,) = failed.value.__notes__
    assert "step_000002 is whole; go on with: pvrl rl --resume" in note
    assert events(out)[-1]["name"] == "failed"
    assert weights(out, 2) == before
    run_rl(config(model), out, resume=out)
    assert [m["step"] for m in metrics(out)] == [1, 2, 3, 4]
    assert "failed" not in [e["name"] for e in events(out)]


def test_a_checkpoint_cut_in_half_is_named_and_the_one_before_is_used(
    model: Path, tmp_path: Path
) -> None:
    out, told = tmp_path / "run", []
    run_rl(config(model), out)
    last = weights(out, 4)
    file = out / "checkpoints" / "step_000004" / "model.safetensors"
    file.write_bytes(last[: len(last) // 2])
    run_rl(config(model), out, resume=out, report=told.append)
    assert "step_000004 is not a whole checkpoint: model.safetensors" in told[0]
    assert "step_000002 instead" in told[0]
    assert [e["text"] for e in events(out) if e["name"] == "damaged_checkpoint"] == [told[0]]
    assert weights(out, 4) == last
    second = out / "checkpoints" / "step_000002"
    (second / "trainer.pt").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="step_000002 is not a whole"):
        run_rl(config(model), out, resume=second)
