"""What RL notes: the best checkpoint, early stops, alarms and trackers survive a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pyvision_rl.config import Config
from pyvision_rl.errors import ConfigError
from pyvision_rl.runs import RunReader, RunWriter
from pyvision_rl.tracking.base import check_trackers
from pyvision_rl.train.journal import Journal

FAKE, BROKEN = "tests.fakes:FileTracker", "tests.fakes:BrokenTracker"
CALLS = {"tool_calls": 1.0, "executions": 1.0}


def config(train: dict[str, Any] | None = None, **run: Any) -> Config:
    return Config.model_validate(
        {"train": {"eval_every": 1} | (train or {}), "run": run, "watch": {"window": 2}}
    )


def note(
    path: Path,
    config: Config,
    lines: dict[int, dict[str, float]],
    *,
    resume_step: int | None = None,
    ids: dict[str, str] | None = None,
) -> tuple[Journal, list[str]]:
    """Note some steps; return the journal and what people were told."""
    told: list[str] = []
    with (
        RunWriter(path, config, "rl", resume_step) as writer,
        Journal(config, writer, told.append, ids) as journal,
    ):
        for step, numbers in lines.items():
            journal.step(step, numbers)
    return journal, told


def evaluations(*values: float) -> dict[int, dict[str, float]]:
    return {step: {"eval_accuracy": value} for step, value in enumerate(values, 1)}


@pytest.mark.parametrize(
    ("values", "best", "ended"),
    [
        ((), None, ""),
        ((0.5,), 1, ""),
        ((0.5, 0.7, 0.7), 2, ""),
        ((0.5, 0.7, 0.7, 0.6), 2, "eval_accuracy has not risen in 2 evaluations since step 2"),
        ((0.5, 0.9), 2, "eval_accuracy reached 0.9 (train.stop_at = 0.9)"),
    ],
)
def test_best_checkpoint_and_early_stop_are_the_same_after_a_resume(
    values: tuple[float, ...], best: int | None, ended: str, tmp_path: Path
) -> None:
    chosen = config({"stop_at": 0.9, "patience": 2})
    first, _ = note(tmp_path / "run", chosen, evaluations(*values))
    again, _ = note(tmp_path / "run", chosen, {}, resume_step=len(values))
    for journal in (first, again):
        assert journal.best_step == best
        assert journal.ended.startswith(ended)
        assert bool(journal.ended) == bool(ended)


def test_a_resume_from_an_earlier_step_forgets_later_evaluations(tmp_path: Path) -> None:
    note(tmp_path / "run", config(), evaluations(0.5, 0.9))
    again, _ = note(tmp_path / "run", config(), {}, resume_step=1)
    assert again.best_step == 1


def test_the_evaluation_before_the_first_step_is_no_checkpoint(tmp_path: Path) -> None:
    journal, _ = note(tmp_path / "run", config(), {0: {"eval_accuracy": 0.9}})
    assert journal.best_step is None
    again, _ = note(tmp_path / "run", config(), {}, resume_step=0)
    assert again.started


@pytest.mark.parametrize(("graded", "best"), [(0.89, 2), (0.9, 1)])
def test_an_evaluation_that_was_hardly_graded_decides_nothing(
    tmp_path: Path, graded: float, best: int
) -> None:
    few = {"eval_accuracy": 1.0, "eval_graded_share": graded}
    lines = {1: few, 2: {"eval_accuracy": 0.5, "eval_graded_share": 1.0}}
    journal, _ = note(tmp_path / "run", config({"stop_at": 0.9}), lines)
    assert journal.best_step == best
    assert bool(journal.ended) is (best == 1)
    names = [event["name"] for event in RunReader(tmp_path / "run").events()]
    assert names == (["no_best_metric"] if best == 2 else [])


def test_an_evaluation_without_the_chosen_metric_is_noted(tmp_path: Path) -> None:
    note(
        tmp_path / "run",
        config({"best_metric": "eval_accuracy_maps"}),
        {1: {"eval_accuracy": 0.5}, 2: {}},
    )
    (event,) = RunReader(tmp_path / "run").events()
    assert (event["name"], event["step"]) == ("no_best_metric", 1)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"stop_at": 0.9, "eval_every": 0}, "set eval_every"),
        ({"patience": 1, "eval_every": 0}, "set eval_every"),
        ({"best_metric": "accuracy"}, "best_metric"),
        ({"best_metric": "eval_acuracy"}, "best_metric"),
        ({"best_metric": "eval_accuracyhard"}, "best_metric"),
    ],
)
def test_an_early_stop_that_cannot_work_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(section)


def test_alarms_are_events_lines_and_part_of_the_summary(tmp_path: Path) -> None:
    lines = {s: CALLS | {"tool_calls": 1.0 if s < 5 else 0.1} for s in range(1, 8)}
    journal, told = note(tmp_path / "run", config(), lines)
    (event,) = RunReader(tmp_path / "run").events()
    assert (event["name"], event["step"]) == ("alarm", 6)
    assert told == [
        f"alarm at step 6: {event['text']}",
        "alarm interaction_collapse: raised at step 6, still on",
    ]
    # Going on from step 5, the alarm is raised again at step 6, and its event is there once.
    again, told = note(tmp_path / "run", config(), {6: lines[6], 7: lines[7]}, resume_step=5)
    (same,) = RunReader(tmp_path / "run").events()
    assert same["text"] == event["text"]
    assert again.alarms() == journal.alarms()
    # Going on from step 7, it is still on and not raised twice.
    later, told = note(tmp_path / "run", config(), {8: lines[7]}, resume_step=7)
    assert later.alarms() == journal.alarms()
    assert len(RunReader(tmp_path / "run").events()) == 1


def test_a_tracker_has_every_step_once_after_a_resume_from_an_earlier_one(tmp_path: Path) -> None:
    chosen = config(trackers=[FAKE], project="p")
    first, _ = note(tmp_path / "run", chosen, evaluations(0.1, 0.2, 0.3))
    assert first.tracker_ids == {FAKE: "p-run"}
    again = {3: {"eval_accuracy": 0.3}, 4: {"eval_accuracy": 0.4}}
    # Another name, but the same run: the id is what counts.
    other = config(trackers=[FAKE], project="p", run_name="other")
    second, _ = note(tmp_path / "run", other, again, resume_step=2, ids=first.tracker_ids)
    assert second.tracker_ids == first.tracker_ids
    content = (tmp_path / "p-run.tracked").read_text()
    assert [json.loads(line) for line in content.splitlines()] == [
        {"step": s, "eval_accuracy": s / 10} for s in (1, 2, 3, 4)
    ]


def test_a_tracker_that_fails_is_counted_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal, told = note(tmp_path / "run", config(trackers=[BROKEN, FAKE]), evaluations(0.1, 0.2))
    assert len(RunReader(tmp_path / "run").metrics()) == 2
    assert len(list(tmp_path.glob("*.tracked"))) == 1
    # Two steps and the end.
    assert told == [f"tracker {BROKEN}: 3 calls failed; metrics.jsonl has everything"]
    assert RunReader(tmp_path / "run").events()[0]["name"] == "tracker_failed"
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert journal.tracker_ids[BROKEN] == "lost"


def test_an_unknown_tracker_is_refused_with_the_known_ones() -> None:
    check_trackers([FAKE, BROKEN])
    with pytest.raises(ConfigError, match=r"tensorbord.*mean 'tensorboard'"):
        check_trackers(["tensorbord"])


def test_a_tracker_whose_package_is_missing_names_the_extra() -> None:
    from importlib.util import find_spec

    for name in ("tensorboard", "trackio", "wandb"):
        if find_spec(name) is None:
            with pytest.raises(ConfigError, match=rf"{name}.*pyvision-rl\[track\]"):
                check_trackers([name])
        else:
            check_trackers([name])
