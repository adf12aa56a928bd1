"""Differences between variants: effect, interval, p-value, and how many seeds spoke.

In: rows and the comparisons of a study. Out: a ``Difference`` per comparison and metric, corrected
together. A pair of seeds of which one has no number is left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pyvision_rl.statistics import (
    Interval,
    Numbers,
    Test,
    holm,
    paired_test,
    seed_interval,
    task_interval,
    unpaired_test,
)
from pyvision_rl.study.config import ComparisonConfig, StudyConfig
from pyvision_rl.study.reading import Row

_SEED = 0
"""Of random draws: the same numbers give the same tables."""
_Seeds = Mapping[int, Row]


@dataclass(frozen=True, slots=True)
class Difference:
    """``variant`` minus ``against``, in one metric."""

    variant: str
    against: str
    metric: str
    paired: bool
    seeds: tuple[int, ...]
    """Of ``variant`` whose numbers were used."""
    against_seeds: tuple[int, ...]
    missing: int
    """Seeds of either side, or pairs of seeds, that should be there and have no number."""
    effect: float | None
    """Difference of means over seeds; None without a number on both sides."""
    interval: Interval | None
    over_tasks: bool
    """Whether the interval also says how the choice of tasks spreads; otherwise over seeds only."""
    test: Test | None
    p_holm: float | None
    """Corrected for all tests of the study."""


def compare(study: StudyConfig, rows: Sequence[Row]) -> list[Difference]:
    """Return every difference that the study asks for.

    Args:
        study: The config.
        rows: Of all models and seeds, also of those without numbers.
    """
    by_model: dict[str, dict[int, Row]] = {}
    for row in rows:
        by_model.setdefault(row.model, {})[row.seed] = row
    found = [
        _difference(study, comparison, metric, by_model)
        for comparison in study.comparisons
        for metric in comparison.metrics
    ]
    tested = [k for k, d in enumerate(found) if d.test is not None]
    corrected = holm([d.test.p for d in found if d.test is not None])
    for index, p in zip(tested, corrected, strict=True):
        found[index] = replace(found[index], p_holm=p)
    return found


def _difference(
    study: StudyConfig,
    comparison: ComparisonConfig,
    metric: str,
    by_model: Mapping[str, _Seeds],
) -> Difference:
    every, others = (by_model.get(n, {}) for n in (comparison.variant, comparison.against))
    mine, theirs = (
        {seed: row for seed, row in rows.items() if metric in row.numbers}
        for rows in (every, others)
    )
    if comparison.paired:
        both = [seed for seed in mine if seed in theirs]
        mine, theirs = {s: mine[s] for s in both}, {s: theirs[s] for s in both}
    first = [row.numbers[metric] for row in mine.values()]
    second = [row.numbers[metric] for row in theirs.values()]
    effect = interval = test = None
    tables = _task_tables(mine, theirs, metric)
    if first and second:
        effect = math.fsum(first) / len(first) - math.fsum(second) / len(second)
        draws, paired = study.draws, comparison.paired
        if paired:
            pairs = [a - b for a, b in zip(first, second, strict=True)]
            test = paired_test(pairs, draws=draws, seed=_SEED)
        else:
            test = unpaired_test(first, second, draws=draws, seed=_SEED)
        if tables is None:
            interval = seed_interval(first, second, paired=paired)
        else:
            a, b, crossed = tables
            interval = task_interval(a, b, paired=paired, draws=draws, seed=_SEED, crossed=crossed)
    return Difference(
        comparison.variant,
        comparison.against,
        metric,
        comparison.paired,
        tuple(mine),
        tuple(theirs),
        _num_missing(every, mine, others, theirs, paired=comparison.paired),
        effect,
        interval,
        tables is not None,
        test,
        None,
    )


def _num_missing(
    every: _Seeds, mine: _Seeds, others: _Seeds, theirs: _Seeds, *, paired: bool
) -> int:
    if paired:
        return len(every.keys() | others.keys()) - len(mine)
    return len(every) - len(mine) + len(others) - len(theirs)


def _task_tables(mine: _Seeds, theirs: _Seeds, metric: str) -> tuple[Numbers, Numbers, bool] | None:
    """Return scores as seeds x tasks for both, and whether all seeds met the same tasks.

    None for what has no score per task.
    """
    evaluation, _, rest = metric.partition(".")
    name, _, category = rest.partition(".")
    rows = [*mine.values(), *theirs.values()]
    scores = []
    for row in rows:
        found = row.tasks.get(evaluation, {}).get(name, {})
        of = row.categories.get(evaluation, {})
        scores.append({t: v for t, v in found.items() if not category or of[t] == category})
    if not all(scores) or not rows:
        return None
    # The tasks that were met, whether or not they could be graded.
    met = [
        {t for t, c in row.categories[evaluation].items() if not category or c == category}
        for row in rows
    ]
    tasks = sorted(set.union(*met))
    table = np.array([[s.get(task, math.nan) for task in tasks] for s in scores])
    crossed = all(m == met[0] for m in met)
    return table[: len(mine)], table[len(mine) :], crossed
