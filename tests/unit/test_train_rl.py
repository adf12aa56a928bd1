"""The RL loop: it trains, it accounts for everything, and a stopped run loses nothing."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from pyvision_rl.config import Config
from pyvision_rl.errors import ConfigError, TaskError, TrainError
from pyvision_rl.metrics import check_failures
from pyvision_rl.runs import RunReader
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.train.collecting import TaskStream, _shuffled
from pyvision_rl.train.interrupts import Interrupted
from pyvision_rl.train.rl import run_rl
from pyvision_rl.types import EndReason, Group, Task, Trajectory
from tests.fakes import Colours
from tests.tiny_models import ROUNDING, make_tiny

TIMES = ("time", "sample_s", "update_s")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_tiny(folder)
    return folder


def config(model: Path, **sections: dict[str, object]) -> Config:
    base: dict[str, dict[str, object]] = {
        "tasks": {"name": "tests.fakes:Colours"},
        "prompts": {"template": "minimal"},
        "policy": {"model": str(model), "max_new_tokens": 12, "threads": 1},
        "sandbox": {"name": "scripted"},
        "rollout": {"group_size": 4, "max_tool_calls": 2, "max_context_tokens": 1500},
        "rewards": {"name": "tests.fakes:ParityGrader"},
        "selection": {"groups_per_step": 2, "oversample": 1.5},
        "train": {"learning_rate": 1e-3, "steps": 4, "save_every": 2, "keep_checkpoints": 9},
    }
    return Config.model_validate(
        {"seed": 3} | {k: base.get(k, {}) | sections.get(k, {}) for k in {*base, *sections}}
    )


def metrics(out: Path) -> list[dict[str, object]]:
    lines = RunReader(out).metrics()
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def weights(out: Path, step: int) -> bytes:
    return (out / "checkpoints" / f"step_{step:06d}" / "model.safetensors").read_bytes()


def test_a_resumed_run_continues_bit_identically(model: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_rl(config(model), whole)
    run_rl(config(model, train={"steps": 2}), parts)
    assert weights(parts, 2) == weights(whole, 2)
    run_rl(config(model), parts, resume=parts)
    assert metrics(parts) == metrics(whole)
    assert weights(parts, 4) == weights(whole, 4)
    assert weights(whole, 2) != weights(whole, 4), "the test can only mean something if it learns"


def test_a_run_with_every_term_of_the_objective_resumes_bit_identically(
    model: Path, tmp_path: Path
) -> None:
    # The reference of a resumed run is the model that the run began with, not its checkpoint.
    terms = {
        "minibatches": 2,
        "epochs": 2,
        "old_logprobs": "learner",
        "tis_cap": 2.0,
        "dual_clip": 3.0,
        "kl_coefficient": 0.05,
        "save_every": 1,
    }
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_rl(config(model, train={**terms, "steps": 2}), whole)
    run_rl(config(model, train={**terms, "steps": 1}), parts)
    run_rl(config(model, train={**terms, "steps": 2}), parts, resume=parts)
    assert metrics(parts) == metrics(whole)
    assert weights(parts, 2) == weights(whole, 2)
    first, second = metrics(whole)
    assert first["train_num_optimizer_steps"] == second["train_num_optimizer_steps"] == 4
    assert float(str(second["train_kl_reference"])) > 0.0


def test_sampling_and_training_agree_on_log_probabilities(model: Path, tmp_path: Path) -> None:
    run_rl(config(model), tmp_path / "run")
    worst = max(float(str(m["train_mismatch"])) for m in metrics(tmp_path / "run"))
    assert worst <= ROUNDING, worst


def test_every_generated_trajectory_is_in_the_folder_with_its_fate(
    model: Path, tmp_path: Path
) -> None:
    run_rl(config(model, train={"steps": 1}), tmp_path / "run")
    reader = RunReader(tmp_path / "run")
    saved = list(reader.trajectories(1))
    (numbers,) = metrics(tmp_path / "run")
    assert len(saved) == numbers["trajectories"] == 3 * 4
    assert sum(s.kept for s in saved) == numbers["kept"] <= 2 * 4
    dropped = sum(float(str(v)) for k, v in numbers.items() if k.startswith("dropped_"))
    assert dropped == sum(not s.kept for s in saved)
    assert all(s.advantage is not None and s.trajectory.reward is not None for s in saved)


def test_sigterm_finishes_the_step_saves_and_says_how_to_go_on(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def report(line: str) -> None:
        if line.startswith("step 1/"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted) as stopped:
        run_rl(config(model, train={"save_every": 100}), out, report=report)
    assert stopped.value.code == 143
    assert stopped.value.resume == f"pvrl rl --resume {out}"
    run_rl(config(model, train={"save_every": 100}), out, resume=out)
    assert [m["step"] for m in metrics(out)] == [1, 2, 3, 4]


def test_a_batch_that_cannot_be_filled_is_an_error_on_request(model: Path, tmp_path: Path) -> None:
    hopeless = config(
        model, rewards={"name": "match"}, selection={"on_short": "error", "max_rounds": 2}
    )
    with pytest.raises(TrainError, match=r"step 1: 0 of 6 groups survived .* in 2 rounds"):
        run_rl(hopeless, tmp_path / "run")


def test_an_empty_step_is_noted_and_changes_nothing(model: Path, tmp_path: Path) -> None:
    run_rl(config(model, rewards={"name": "match"}, train={"steps": 1}), tmp_path / "run")
    assert RunReader(tmp_path / "run").events()[0]["name"] == "empty_step"
    assert metrics(tmp_path / "run")[0]["dropped_zero_std"] == 12


def test_evaluation_during_training_is_in_the_metrics(model: Path, tmp_path: Path) -> None:
    run_rl(config(model, train={"steps": 2, "eval_every": 2}), tmp_path / "run")
    first, second = metrics(tmp_path / "run")
    assert "eval_accuracy" not in first
    assert {"eval_accuracy", "eval_accuracy_c0", "eval_tool_calls_c1"} <= second.keys()


def test_the_checkpoint_is_an_ordinary_hugging_face_directory(model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    result = run_rl(config(model, train={"steps": 1}), tmp_path / "run")
    loaded = AutoModelForImageTextToText.from_pretrained(result.model)
    assert loaded.config.model_type == "qwen2_5_vl"
    assert AutoTokenizer.from_pretrained(result.model).chat_template


def test_run_json_runs_again(model: Path, tmp_path: Path) -> None:
    from pyvision_rl.config_file import load_config

    run_rl(config(model, train={"steps": 1}), tmp_path / "run")
    assert load_config(tmp_path / "run" / "run.json") == config(model, train={"steps": 1})
    assert json.loads((tmp_path / "run" / "run.json").read_text())["verb"] == "rl"


def test_an_unreadable_task_is_skipped_noted_and_does_not_stop_the_run() -> None:
    class Torn(Colours):
        def __getitem__(self, index: int) -> Task:
            if index == 3:
                raise TaskError("colour-3: the image is torn")
            return super().__getitem__(index)

    stream = TaskStream(Torn(None), 8, seed=1)  # type: ignore[arg-type]
    assert len({t.id for t in stream.take(7)}) == 7
    assert stream.skipped() == [("skipped_task", "colour-3: the image is torn")]
    assert stream.skipped() == []


def test_a_set_without_a_readable_task_is_an_error() -> None:
    class Empty(Colours):
        def __getitem__(self, index: int) -> Task:
            raise TaskError("torn")

    with pytest.raises(TaskError, match="torn"):
        TaskStream(Empty(None), 8, seed=1).take(1)  # type: ignore[arg-type]


def test_many_failed_episodes_stop_the_run_and_are_kept_to_be_looked_at(
    model: Path, tmp_path: Path
) -> None:
    broken = config(
        model,
        policy={"name": "tests.fakes:Unreachable"},
    )
    with pytest.raises(ConfigError, match="in-process policy"):
        run_rl(broken, tmp_path / "none")
    with pytest.raises(TrainError, match=r"step 1: 2 of 4 episodes failed: .*max_failed_share"):
        check_failures([_half_failed()], 0.1, "step 1")
    assert "2 of 4 episodes failed" in check_failures([_half_failed()], 0.5, "step 1")


def _half_failed() -> Group:
    task = Colours(None)[0]  # type: ignore[arg-type]
    ends = [EndReason.FAILED, EndReason.ANSWERED] * 2
    return Group(task, tuple(Trajectory(task.id, i, (), (), (), e) for i, e in enumerate(ends)))


def test_greedy_sampling_is_refused_before_work_starts(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="temperature = 0"):
        run_rl(config(model, policy={"temperature": 0.0}), tmp_path / "run")


def test_an_unknown_filter_is_refused_before_work_starts(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="zero_stdd"):
        run_rl(config(model, selection={"filters": ("zero_stdd",)}), tmp_path / "run")


def test_each_epoch_visits_every_task_once_in_a_seeded_order() -> None:
    tasks: TaskSet = Colours(None)  # type: ignore[arg-type]
    first = [t.id for t in TaskStream(tasks, 8, seed=1).take(16)]
    assert len(set(first[:8])) == len(set(first[8:])) == 8
    assert first[:8] != first[8:]
    assert [t.id for t in TaskStream(tasks, 8, seed=2).take(8)] != first[:8]
    assert [t.id for t in TaskStream(tasks, 8, seed=1, position=5).take(3)] == first[5:8]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_the_task_order_is_a_permutation(count: int) -> None:
    assert sorted(_shuffled(i, count, 9) for i in range(count)) == list(range(count))
