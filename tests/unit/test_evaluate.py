"""Evaluation counts every failure, averages over tasks, and goes on after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pyvision_rl import assemble
from pyvision_rl.collect import run_rollout
from pyvision_rl.config import Config
from pyvision_rl.errors import RewardError, RunError
from pyvision_rl.evaluation import evaluate
from pyvision_rl.evaluation.evaluate import Judged, result_of, score
from pyvision_rl.evaluation.run import run_eval
from pyvision_rl.types import EndReason, Reward, TaskInput, Trajectory
from tests.tiny_models import make_tiny


def episode(task: str, correct: bool | None, end: EndReason = EndReason.ANSWERED) -> Trajectory:
    reward = None if correct is None else Reward({"accuracy": float(correct)}, correct)
    return Trajectory(task, 0, (), (), (), end, None, reward)


def item(
    task: str, correct: bool | None, end: EndReason = EndReason.ANSWERED, category: str = ""
) -> Judged:
    return TaskInput(task, "?", category=category), episode(task, correct, end)


def test_standard_error_is_over_tasks_not_over_samples() -> None:
    # Task a: 2 of 2 right, task b: 0 of 2. Means 1 and 0: mean 0.5, sd 0.7071, se 0.5.
    items = [item("a", True)] * 2 + [item("b", False)] * 2
    got = score(items)
    assert (got.tasks, got.episodes, got.accuracy) == (2, 4, 0.5)
    assert got.accuracy_se == pytest.approx(0.5)


def test_of_one_task_the_error_is_not_known_and_not_zero() -> None:
    got = score([item("a", True), item("a", False)])
    assert (got.accuracy, got.accuracy_se) == (0.5, None)
    assert "eval_accuracy_se" not in result_of([item("a", True)]).metrics()


def test_a_failed_episode_counts_as_wrong_and_an_ungraded_one_is_left_out() -> None:
    items = [
        item("a", True),
        item("b", None, EndReason.FAILED),
        item("c", None),
    ]
    got = score(items)
    assert (got.accuracy, got.failed, got.ungraded, got.tasks) == (0.5, 1, 1, 2)


def test_categories_are_scored_apart() -> None:
    items = [item("a", True, category="easy"), item("b", False, category="hard")]
    got = result_of(items)
    assert got.overall.accuracy == 0.5
    assert {n: s.accuracy for n, s in got.categories.items()} == {"easy": 1.0, "hard": 0.0}


def test_where_nothing_was_graded_no_rate_is_told() -> None:
    for items in ([], [item("a", None, category="easy")]):
        found = result_of(items)
        assert (found.overall.accuracy, found.overall.accuracy_se) == (None, None)
        assert not any("accuracy" in name or "calls" in name for name in found.metrics())


def test_the_share_that_was_run_and_graded_is_told() -> None:
    items = [
        item("a", True),
        item("b", None, EndReason.FAILED),
        item("c", None),
        item("d", False),
    ]
    assert result_of(items).metrics()["eval_graded_share"] == 0.5


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("model")
    make_tiny(folder)
    return Config.model_validate(
        {
            "tasks": {"name": "tests.fakes:Colours"},
            "prompts": {"template": "minimal"},
            "policy": {"model": str(folder), "max_new_tokens": 6, "threads": 1},
            "sandbox": {"name": "scripted"},
            "rollout": {"max_tool_calls": 1, "max_context_tokens": 900},
            "rewards": {"name": "tests.fakes:ParityGrader"},
            "eval": {"samples": 2},
        }
    )


def test_run_eval_writes_every_episode_and_the_result(config: Config, tmp_path: Path) -> None:
    result = run_eval(config, tmp_path / "run")
    assert (result.overall.tasks, result.overall.episodes) == (8, 16)
    assert set(result.categories) == {"c0", "c1"}
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert {name: written[name] for name in ("overall", "categories")} == result.to_json()


def test_a_resumed_evaluation_equals_a_whole_one(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble, "CHUNK", 3)
    whole = run_eval(config, tmp_path / "whole")
    rollouts = tmp_path / "whole" / "rollouts"
    assert len(list(rollouts.iterdir())) == 3
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "rollouts" / "step_000003.jsonl").unlink()
    before = (tmp_path / "cut" / "rollouts" / "step_000001.jsonl").stat().st_mtime_ns
    resumed = run_eval(config, tmp_path / "cut", resume=tmp_path / "cut")
    assert resumed == whole
    after = (tmp_path / "cut" / "rollouts" / "step_000001.jsonl").stat().st_mtime_ns
    assert after == before, "finished chunks are not run again"


def test_the_result_does_not_depend_on_what_the_folder_keeps(
    config: Config, tmp_path: Path
) -> None:
    none = config.model_copy(update={"run": config.run.model_copy(update={"rollouts": "none"})})
    assert run_eval(none, tmp_path / "none") == run_eval(config, tmp_path / "all")


def test_only_an_evaluation_of_the_same_config_can_be_gone_on_with(
    config: Config, tmp_path: Path
) -> None:
    run_eval(config, tmp_path / "run")
    other = config.model_copy(update={"seed": 9})
    with pytest.raises(RunError, match=r"another \[seed\] section"):
        run_eval(other, tmp_path / "run", resume=tmp_path / "run")
    run_rollout(config, tmp_path / "rollout")
    with pytest.raises(RunError, match="a run of 'rollout'; eval cannot go on in it"):
        run_eval(config, tmp_path / "rollout", resume=tmp_path / "rollout")


def test_a_folder_from_before_a_key_was_known_can_be_gone_on_with(
    config: Config, tmp_path: Path
) -> None:
    whole = run_eval(config, tmp_path / "run")
    info = tmp_path / "run" / "run.json"
    kept = json.loads(info.read_text())
    del kept["config"]["watch"]
    del kept["config"]["rewards"]["max_ungraded_share"]
    info.write_text(json.dumps(kept))
    more = config.rewards.model_copy(
        update={"judge": config.rewards.judge.model_copy(update={"max_calls": 9})}
    )
    again = config.model_copy(update={"rewards": more})
    assert run_eval(again, tmp_path / "run", resume=tmp_path / "run") == whole


def test_an_evaluation_that_nobody_could_grade_is_an_error_and_keeps_its_episodes(
    config: Config, tmp_path: Path
) -> None:
    rewards = config.rewards.model_copy(update={"name": "tests.fakes:BrokenGrader"})
    broken = config.model_copy(update={"rewards": rewards})
    with pytest.raises(RewardError, match=r"none of 16 episodes could be graded: .*the judge is"):
        run_eval(broken, tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["overall"]["accuracy"] is None
    assert result["overall"]["ungraded"] == 16


def test_two_evaluations_of_one_model_are_equal(config: Config, tmp_path: Path) -> None:
    assert run_eval(config, tmp_path / "a") == run_eval(config, tmp_path / "b")
    assert evaluate.held_out(config)[1] == 8
