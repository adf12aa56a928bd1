"""The numbers of a study, read from the folders of its units.

In: run folders. Out: a ``Row`` per model and seed: its numbers by name, and per-task scores of its
evaluations. What is missing keeps its reason. Judges nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyvision_rl.evaluation.evaluate import Judged
from pyvision_rl.runs import RunReader
from pyvision_rl.study.config import START, StudyConfig
from pyvision_rl.study.names import EVALUATED, TRAINED
from pyvision_rl.study.notes import DONE, FAILED
from pyvision_rl.study.plan import Planner
from pyvision_rl.study.running import Finished
from pyvision_rl.types import EndReason
from pyvision_rl.usage import NUMBERS, used

Scores = dict[str, dict[str, float]]
"""Metric, one of ``names.EVALUATED`` -> task -> mean over its samples."""


@dataclass(frozen=True, slots=True)
class Row:
    """One model at one seed."""

    model: str
    """A variant, or a start."""
    seed: int
    numbers: dict[str, float]
    """``<evaluation>.<metric>[.<category>]`` and ``train.<metric>`` -> value."""
    tasks: dict[str, Scores] = field(default_factory=dict)
    """Evaluation -> scores by task."""
    categories: dict[str, dict[str, str]] = field(default_factory=dict)
    """Evaluation -> task -> category."""
    curves: tuple[Mapping[str, Any], ...] = ()
    """Lines of the RL run's ``metrics.jsonl``; nothing of a run that did not finish."""
    missing: tuple[str, ...] = ()
    """Why numbers are missing, a line each."""


def read_rows(study: StudyConfig, planner: Planner, finished: Finished, out: Path) -> list[Row]:
    """Return a row for every model and seed, also for those that failed."""
    return [_row(study, planner, finished, out, m.name, m.seed) for m in planner.models()]


def _row(
    study: StudyConfig, planner: Planner, finished: Finished, out: Path, model: str, seed: int
) -> Row:
    numbers: dict[str, float] = {}
    tasks: dict[str, Scores] = {}
    categories: dict[str, dict[str, str]] = {}
    missing: list[str] = []
    curves: list[Mapping[str, Any]] = []
    if model.split("-")[0] != START:
        name = planner.rl_unit(model, seed)
        if (reason := _why_missing(finished, name)) is None:
            curves = list(RunReader(out / name).metrics())
            numbers |= training_numbers(curves, study.final_steps)
        else:
            missing.append(reason)
    for evaluation in study.evaluations:
        name = planner.evaluation_unit(model, seed, evaluation.name)
        if (reason := _why_missing(finished, name)) is not None:
            missing.append(reason)
            continue
        result = json.loads((out / name / "result.json").read_text(encoding="utf-8"))
        found = evaluation_numbers(result)
        numbers |= {f"{evaluation.name}.{key}": value for key, value in found.items()}
        judged = [(s.task.input, s.trajectory) for s in RunReader(out / name).trajectories()]
        tasks[evaluation.name] = task_scores(judged)
        categories[evaluation.name] = {task.id: task.category for task, _ in judged}
    return Row(
        model, seed, numbers, tasks, categories, tuple(curves), tuple(dict.fromkeys(missing))
    )


def _why_missing(finished: Finished, name: str) -> str | None:
    """Return why a unit has no results; None if it has."""
    if (cause := finished.blocked.get(name)) is not None:
        name = cause
    note = finished.notes.get(name)
    if note is None:
        return f"{name} was not run"
    if note.status == DONE:
        return None
    assert note.status == FAILED
    last = note.tail.strip().splitlines()[-1:] or ["no output"]
    return f"{name} failed (exit code {note.exit_code}): {last[0]}"


def training_numbers(lines: Sequence[Mapping[str, Any]], final_steps: int) -> dict[str, float]:
    """Return the ``train`` metrics: means over the last steps of a run that have them."""
    last = lines[-final_steps:]
    values = {name: [line[name] for line in last if name in line] for name in TRAINED}
    return {f"train.{name}": math.fsum(v) / len(v) for name, v in values.items() if v}


def evaluation_numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of one ``result.json``, overall and by category."""
    numbers: dict[str, float] = {}
    scores = {"": result["overall"], **{f".{k}": v for k, v in result["categories"].items()}}
    for suffix, score in scores.items():
        # An evaluation in which nothing could be graded has no rates.
        if score["episodes"] > score["ungraded"]:
            numbers[f"accuracy{suffix}"] = score["accuracy"]
            numbers[f"tool_calls{suffix}"] = score["tool_calls"]
            numbers[f"zero_tool_share{suffix}"] = 1 - score["tool_share"]
            numbers |= {f"{name}{suffix}": score[name] for name in NUMBERS if name in score}
    for count in ("failed", "ungraded"):
        numbers[count] = float(result["overall"][count])
    return numbers


def task_scores(judged: Iterable[Judged]) -> Scores:
    """Return the mean scores of each task, as ``evaluate`` counts them.

    A failed episode is wrong; an ungraded one is left out. So is what was not counted.
    """
    values: dict[str, dict[str, list[float]]] = {name: {} for name in EVALUATED}
    for task, trajectory in judged:
        if trajectory.reward is None and trajectory.end is not EndReason.FAILED:
            continue
        correct = trajectory.reward is not None and trajectory.reward.correct
        numbers = {
            "accuracy": float(correct),
            "tool_calls": float(trajectory.num_tool_calls),
            "zero_tool_share": float(trajectory.num_tool_calls == 0),
            **used(task, trajectory),
        }
        for name, value in numbers.items():
            values[name].setdefault(task.id, []).append(value)
    return {
        name: {task: math.fsum(v) / len(v) for task, v in found.items()}
        for name, found in values.items()
    }
