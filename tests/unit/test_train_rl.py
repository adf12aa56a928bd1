"""The RL loop: it trains, it accounts for everything, and a stopped run loses nothing."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pyvision_rl.checks.rl import check_rl
from pyvision_rl.config import Config, RewardsConfig
from pyvision_rl.errors import CheckpointError, ConfigError, TaskError, TrainError
from pyvision_rl.metrics import check_failures
from pyvision_rl.rewards.base import Grade
from pyvision_rl.rollout import derive_seed
from pyvision_rl.runs import RunReader, RunWriter
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.train.interrupts import Interrupted
from pyvision_rl.train.learner import Learner
from pyvision_rl.train.rl import run_rl
from pyvision_rl.train.task_stream import TaskStream, _shuffled
from pyvision_rl.types import Batch, EndReason, Group, Task, Trajectory, UpdateStats
from tests.fakes import Colours, ParityGrader
from tests.measured import Copying
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


def events(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in e.items() if k != "time"} for e in RunReader(out).events()]


def weights(out: Path, step: int) -> bytes:
    return (out / "checkpoints" / f"step_{step:06d}" / "model.safetensors").read_bytes()


def test_a_resumed_run_does_not_hold_the_state_it_went_on_from(model: Path, tmp_path: Path) -> None:
    out, held = tmp_path / "out", list[bool]()
    run_rl(config(model, train={"steps": 2}), out)
    run_rl(config(model), out, resume=out, learner=partial(Copying, held=held))
    assert held == [False, False]


def test_a_resumed_run_continues_bit_identically(model: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_rl(config(model), whole)
    run_rl(config(model, train={"steps": 2}), parts)
    assert weights(parts, 2) == weights(whole, 2)
    run_rl(config(model), parts, resume=parts)
    assert metrics(parts) == metrics(whole)
    assert weights(parts, 4) == weights(whole, 4)
    assert weights(whole, 2) != weights(whole, 4), "the test can only mean something if it learns"


def test_a_resumed_run_continues_bit_identically_with_carried_groups(
    model: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    carry = {"groups_per_step": 1, "oversample": 3, "carry_over": True, "max_staleness": 2}
    carry |= {"max_per_round": {"category:c0": 1}}
    run_rl(config(model, selection=carry), whole)
    run_rl(config(model, selection=carry, train={"steps": 2}), parts)
    run_rl(config(model, selection=carry), parts, resume=parts)
    assert metrics(parts) == metrics(whole)
    assert weights(parts, 4) == weights(whole, 4)
    third = metrics(whole)[2]
    assert third["carried_in"], "the test can only mean something if something was carried"


def test_a_carried_trajectory_is_written_with_its_fate_in_every_step_it_is_offered(
    model: Path, tmp_path: Path
) -> None:
    carry = {"groups_per_step": 1, "oversample": 3, "carry_over": True}
    run_rl(config(model, selection=carry, train={"steps": 2}), tmp_path / "run")
    reader = RunReader(tmp_path / "run")
    saved = [list(reader.trajectories(step)) for step in (1, 2)]
    for numbers, lines in zip(metrics(tmp_path / "run"), saved, strict=True):
        offered = float(str(numbers["trajectories"])) + float(str(numbers["carried_in"]))
        assert len(lines) == offered
        assert sum(s.reason == "carried" for s in lines) == numbers["carried_out"]
        assert sum(s.kept for s in lines) == numbers["kept"]
    waiting = {(s.task.id, s.trajectory.rollout) for s in saved[0] if s.reason == "carried"}
    again = {(s.task.id, s.trajectory.rollout) for s in saved[1]}
    assert waiting
    assert waiting <= again


def test_terms_of_the_reward_are_trained_on_and_in_the_metrics(model: Path, tmp_path: Path) -> None:
    terms = {"format": {"bonus": 0.25}, "curiosity": {"weight": 1.0, "target_share": 1.0}}
    rewards = {"terms": terms}
    run_rl(config(model, rewards=rewards, train={"steps": 1}), tmp_path / "run")
    (numbers,) = metrics(tmp_path / "run")
    parts = [float(str(numbers[f"reward_{p}"])) for p in ("accuracy", "tool_use", *sorted(terms))]
    assert sum(parts) == pytest.approx(numbers["reward"])
    saved = [s.trajectory for s in RunReader(tmp_path / "run").trajectories(1)]
    assert all(t.reward is not None and terms.keys() <= t.reward.parts.keys() for t in saved)


@pytest.mark.parametrize(
    "selection",
    [
        {"advantage": "leave_one_out", "recompute_advantages": True, "rank_by": "accuracy_std"},
        {
            "advantage": "binary_baseline",
            "rank_unit": "trajectory",
            "filter_order": "group_first",
            "min_survivors": 1,
            "filters": ("zero_std", "end_reason", "malformed"),
            "reserve_ends": ("answered", "malformed", "turn_limit"),
            "max_malformed_share": 1.0,
            "carry_over": True,
        },
    ],
)
def test_a_run_with_other_rules_of_selection_accounts_for_everything(
    selection: dict[str, object], model: Path, tmp_path: Path
) -> None:
    run_rl(config(model, selection=selection, train={"steps": 2}), tmp_path / "run")
    for numbers in metrics(tmp_path / "run"):
        dropped = sum(float(str(v)) for k, v in numbers.items() if k.startswith("dropped_"))
        made = float(str(numbers["trajectories"])) + float(str(numbers["carried_in"]))
        assert made == dropped + float(str(numbers["kept"])) + float(str(numbers["carried_out"]))
        assert float(str(numbers["kept"])) > 0


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


class Torn(Colours):
    """Tasks of which one cannot be read."""

    def __getitem__(self, index: int) -> Task:
        if index == 3:
            raise TaskError("colour-3: the image is torn")
        return super().__getitem__(index)


class StopsInTheSecondStep:
    """Finds every answer wrong; sends SIGTERM at the 40th, which is in the second step."""

    def __init__(self, config: RewardsConfig) -> None:
        self.graded = 0

    async def __call__(self, task: Task, trajectory: Trajectory) -> Grade:
        self.graded += 1
        if self.graded == 40:
            os.kill(os.getpid(), signal.SIGTERM)
        return Grade(0.0, False, "")


def test_sigterm_between_rounds_drops_the_step_and_a_resumed_run_makes_it_again(
    model: Path, tmp_path: Path
) -> None:
    # Three rounds of three groups of four: 36 episodes a step.
    more = {"selection": {"max_rounds": 3}, "train": {"steps": 3, "save_every": 100}}
    more |= {"tasks": {"name": "test_train_rl:Torn"}}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_rl(config(model, rewards={"name": "match"}, **more), whole)
    stops = config(model, rewards={"name": "test_train_rl:StopsInTheSecondStep"}, **more)
    with pytest.raises(Interrupted):
        run_rl(stops, parts)
    assert [m["step"] for m in metrics(parts)] == [1]
    named = [(e["step"], e["name"]) for e in RunReader(parts).events()]
    assert (1, "skipped_task") in named
    assert set(named[named.index((2, "dropped_step")) :]) == {
        (2, "dropped_step"),
        (2, "skipped_task"),
    }
    assert not (parts / "rollouts" / "step_000002.jsonl").exists()
    run_rl(config(model, rewards={"name": "match"}, **more), parts, resume=parts)
    assert metrics(parts) == metrics(whole)
    assert weights(parts, 3) == weights(whole, 3)
    assert events(parts) == events(whole)


def test_a_run_whose_metrics_have_a_hole_is_refused_until_a_checkpoint_before_it_is_the_last(
    model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run_rl(config(model), out)
    before, file = metrics(out), out / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(CheckpointError, match=r"lost step 3; .* step 4"):
        run_rl(config(model), out, resume=out)
    assert file.read_bytes().count(b"\n") == 3, "nothing was touched"
    shutil.rmtree(out / "checkpoints" / "step_000004")
    run_rl(config(model), out, resume=out)
    assert metrics(out) == before


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


class WrongInTheFirstStep(ParityGrader):
    """Finds the twelve answers of the first step wrong, whatever they are."""

    def __init__(self, config: RewardsConfig) -> None:
        super().__init__(config)
        self.graded = 0

    async def __call__(self, task: Task, trajectory: Trajectory) -> Grade:
        self.graded += 1
        found = await super().__call__(task, trajectory)
        return Grade(0.0, False, "") if self.graded <= 12 else found


class CountsUpdates(Learner):
    """Saves how many updates it made, as checkpoints once did, and meets a NaN in a later one."""

    def __init__(self, *args: Any, spoilt: int = 0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.updates, self.spoilt = 0, spoilt

    def update(self, batch: Batch, temperature: float) -> UpdateStats:
        self.updates += 1
        if self.updates == self.spoilt:
            batch = replace(batch, samples=(replace(batch.samples[0], advantage=math.nan),))
        return super().update(batch, temperature)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"step": self.updates}


def test_an_empty_step_counts_for_the_rate_and_in_errors(model: Path, tmp_path: Path) -> None:
    train = {"schedule": "cosine", "warmup_steps": 1, "save_every": 2}
    chosen = config(model, rewards={"name": "test_train_rl:WrongInTheFirstStep"}, train=train)
    out = tmp_path / "run"
    with pytest.raises(TrainError, match=r"step 3: the loss of samples \[0\] is nan"):
        run_rl(chosen, out, learner=partial(CountsUpdates, spoilt=2))
    run_rl(config(model, train=train), out, resume=out)
    rates = [line.get("train_learning_rate") for line in metrics(out)]
    # Half a cosine over the three steps behind the warm-up, of which the first begins step 2.
    curve = [1e-3 * 0.5 * (1 + math.cos(math.pi * n / 3)) for n in range(3)]
    assert rates == [None, *map(pytest.approx, curve)]


def test_evaluation_during_training_is_in_the_metrics(model: Path, tmp_path: Path) -> None:
    run_rl(config(model, train={"steps": 2, "eval_every": 2}), tmp_path / "run")
    first, second = metrics(tmp_path / "run")
    assert "eval_accuracy" not in first
    assert {"eval_accuracy", "eval_accuracy_c0", "eval_tool_calls_c1"} <= second.keys()


def test_what_cannot_be_evaluated_is_found_before_the_first_step(
    model: Path, tmp_path: Path
) -> None:
    torn = {"tasks": {"name": "test_train_rl:Torn"}}
    with pytest.raises(TaskError, match="colour-3: the image is torn"):
        run_rl(config(model, train={"steps": 2, "eval_every": 2}, eval=torn), tmp_path / "run")
    assert not metrics(tmp_path / "run")
    direct = {"tools": False, "direct_template": "nowhere.txt"}
    with pytest.raises(ConfigError, match=r"nowhere\.txt"):
        run_rl(config(model, train={"steps": 2, "eval_every": 2}, eval=direct), tmp_path / "direct")
    assert not metrics(tmp_path / "direct")
    # What is not asked need not be readable.
    asked = {**torn, "num_tasks": 3}
    run_rl(config(model, train={"steps": 2, "eval_every": 2}, eval=asked), tmp_path / "some")


def test_curves_may_begin_before_the_first_step(model: Path, tmp_path: Path) -> None:
    train, counts = {"steps": 2, "eval_every": 2}, {"name": "test_service_metrics:Counting"}
    run_rl(config(model, train=train, rewards=counts), tmp_path / "without")
    with_it = config(model, train=train | {"eval_at_start": True}, rewards=counts)
    run_rl(with_it, tmp_path / "with")
    start, *steps = metrics(tmp_path / "with")
    assert start["step"] == 0
    assert {"eval_accuracy", "eval_tool_calls_c1"} <= start.keys()
    assert "reward" not in start
    assert steps == metrics(tmp_path / "without"), "looking changes nothing"


def test_checkpoints_are_kept_for_good_for_the_best_and_the_latest(
    model: Path, tmp_path: Path
) -> None:
    kept = {"steps": 5, "save_every": 1, "keep_checkpoints": 1, "keep_every": 2, "eval_every": 1}
    # Every evaluation is as good as the first, which therefore stays the best.
    out = tmp_path / "run"
    result = run_rl(config(model, train=kept, eval={"temperature": 0.0}), out)
    scores = [float(str(m["eval_accuracy"])) for m in metrics(out)]
    best = scores.index(max(scores)) + 1
    left = {int(p.name.removeprefix("step_")) for p in (out / "checkpoints").iterdir()}
    assert left == {2, 4, 5, best}
    assert result.best == out / "best"
    assert (out / "best").resolve().name == f"step_{best:06d}"
    assert (out / "final").resolve().name == "step_000005"


def test_a_run_ends_early_when_evaluations_rise_no_more(model: Path, tmp_path: Path) -> None:
    train = {"eval_every": 1, "patience": 1, "learning_rate": 1e-12, "steps": 9}
    told: list[str] = []
    out = tmp_path / "run"
    result = run_rl(config(model, train=train), out, report=told.append)
    # Weights that hardly change: the second evaluation is the first one again.
    assert result.steps == 2
    assert result.ended_early == (
        "eval_accuracy has not risen in 1 evaluations since step 1 (train.patience = 1)"
    )
    assert f"ended after step 2: {result.ended_early}" in told
    assert (out / "final").resolve().name == "step_000002"
    again = run_rl(config(model, train=train), out, resume=out)
    assert (again.steps, again.ended_early) == (2, result.ended_early)


def test_the_seed_reaches_tasks_episodes_and_evaluation(model: Path, tmp_path: Path) -> None:
    def run(seed: int, name: str) -> tuple[list[dict[str, object]], list[str], list[object]]:
        chosen = config(model, train={"steps": 1, "eval_every": 1})
        run_rl(chosen.model_copy(update={"seed": seed}), tmp_path / name)
        saved = list(RunReader(tmp_path / name).trajectories(1))
        tokens: list[object] = [s.trajectory.token_ids for s in saved]
        return metrics(tmp_path / name), [s.task.id for s in saved], tokens

    first, same, other = run(3, "first"), run(3, "same"), run(4, "other")
    assert first == same
    assert random.random() == random.Random(derive_seed(4, "generators")).random()
    assert first[1] != other[1], "the order of tasks"
    shared = set(zip(first[1], first[2], strict=True)) & set(zip(other[1], other[2], strict=True))
    assert len(shared) < 6, "episodes of a task that both have drawn"
    assert first[0][0]["eval_tool_calls"] is not None


def test_alarms_of_a_real_run_are_in_its_result_and_its_folder(model: Path, tmp_path: Path) -> None:
    told: list[str] = []
    # Wrong whatever is answered: nothing to learn from.
    hopeless = config(model, rewards={"name": "match"}, watch={"window": 2})
    result = run_rl(hopeless, tmp_path / "run", report=told.append)
    assert result.alarms == {"batch_too_hard": "raised at step 2, still on"}
    alarms = [e for e in RunReader(tmp_path / "run").events() if e["name"] == "alarm"]
    assert [(e["step"], e["text"][:16]) for e in alarms] == [(2, "batch_too_hard: ")]
    assert told[-1] == "alarm batch_too_hard: raised at step 2, still on"
    again = run_rl(hopeless, tmp_path / "run", resume=tmp_path / "run")
    assert again.alarms == result.alarms


def test_a_run_killed_before_its_first_checkpoint_starts_over(model: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_rl(config(model, train={"steps": 2}), whole)
    with RunWriter(parts, config(model), verb="rl") as writer:
        writer.metrics(1, {"reward": 9.0})
        writer.event("empty_step", "of the life before", 1)
    run_rl(config(model, train={"steps": 2}), parts, resume=parts)
    assert metrics(parts) == metrics(whole)
    assert weights(parts, 2) == weights(whole, 2)
    assert RunReader(parts).events() == []


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
        check_failures([_half_failed()], config(model), "step 1")
    lenient = config(model, rollout={"max_failed_share": 0.5})
    assert "2 of 4 episodes failed" in check_failures([_half_failed()], lenient, "step 1")


def _half_failed() -> Group:
    task = Colours(None)[0]  # type: ignore[arg-type]
    ends = [EndReason.FAILED, EndReason.ANSWERED] * 2
    return Group(task, tuple(Trajectory(task.id, i, (), (), (), e) for i, e in enumerate(ends)))


def test_greedy_sampling_is_refused_before_work_starts(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="temperature = 0"):
        run_rl(config(model, policy={"temperature": 0.0}), tmp_path / "run")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"selection": {"min_survivors": 5}}, r"min_survivors = 5 is above rollout.group_size = 4"),
        (
            {"selection": {"carry_over": True}, "train": {"old_logprobs": "learner"}},
            r"carry_over .* wants train.tis_cap above 0",
        ),
        (
            {"train": {"kl_coefficient": 0.1, "kl_reference": "/nowhere"}},
            r"train.kl_reference: /nowhere is no model directory",
        ),
        (
            {"train": {"mixed_precision": "fp16"}, "policy": {"dtype": "bfloat16"}},
            r'"fp16" .* policy.dtype = "bfloat16" wants to be "float32"',
        ),
        (
            {
                "train": {"mixed_precision": "fp16", "master_weights": True},
                "policy": {"dtype": "float16"},
            },
            r'"fp16" .* policy.dtype = "float16" wants to be "float32"',
        ),
        ({"policy": {"dtype": "float16"}}, r'"float16" rounds gradients to nothing'),
        (
            {"policy": {"dtype": "float16"}, "train": {"master_weights": True, "lora_rank": 0}},
            r'"float16" rounds gradients to nothing',
        ),
        (
            {"policy": {"dtype": "float16"}, "train": {"lora_rank": 4}},
            r'"float16" rounds gradients to nothing',
        ),
    ],
)
def test_sections_that_do_not_fit_are_refused_before_the_model_is_loaded(
    sections: dict[str, dict[str, object]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_rl(config(tmp_path / "no model", **sections), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("dtype", "train"),
    [
        ("float32", {}),
        ("float32", {"master_weights": True}),
        ("bfloat16", {"lora_rank": 4}),
        ("float16", {"lora_rank": 4}),
    ],
)
def test_fp16_is_for_whatever_trains_float32(dtype: str, train: dict[str, object]) -> None:
    check_rl(config(Path("m"), policy={"dtype": dtype}, train={"mixed_precision": "fp16"} | train))


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
