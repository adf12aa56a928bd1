"""Means and counts that every benchmark's report begins with.

In: scored items. Out: means over items (each item's samples averaged first), counts, and notes on
what is missing. Knows no benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from pyvision_rl.suites.base import Report, Scored, Settings, Suite, settings_of


def fact(item: Scored, name: str) -> str:
    """Return a fact of the item as text, empty if it has none of that name."""
    value = item.task.gold.facts.get(name)
    return "" if value is None else str(value)


def graded(items: Iterable[Scored]) -> list[Scored]:
    """Return the items of which at least one sample was graded."""
    return [item for item in items if item.scores]


def mean(items: Sequence[Scored]) -> float:
    """Return the mean score of graded items; there must be one."""
    return average([item.mean for item in items])


def average(values: Sequence[float]) -> float:
    """Return the mean of at least one number."""
    return math.fsum(values) / len(values)


def grouped(items: Iterable[Scored], key: Callable[[Scored], str]) -> dict[str, list[Scored]]:
    """Return the items by key, keys sorted."""
    found: dict[str, list[Scored]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return {name: found[name] for name in sorted(found)}


def counted(items: Sequence[Scored]) -> dict[str, int]:
    """Return how many items and samples were scored, failed, and could not be graded."""
    usable = graded(items)
    return {
        "items": len(usable),
        "ungraded": len(items) - len(usable),
        "samples": sum(len(item.scores) for item in items),
        "failed": sum(sum(item.failed) for item in items),
    }


def notes(suite: Suite, protocol: str, items: Sequence[Scored], whole: int | None) -> list[str]:
    """Return what a reader must know before comparing the numbers.

    Args:
        suite: The benchmark.
        protocol: The name that was asked for.
        items: All items of the run.
        whole: How many the published benchmark has; None if several numbers are right.
    """
    settings: Settings = settings_of(suite, protocol)
    found = []
    if settings.second_hand:
        found.append(f"second-hand protocol: {settings.source}")
    if whole is not None and len(items) != whole:
        found.append(f"{len(items)} of {whole} items: not comparable with published numbers")
    if left_out := len(items) - len(graded(items)):
        found.append(f"{left_out} items could not be graded and are in no number")
    samples = {len(item.scores) for item in graded(items)}
    if len(samples) > 1:
        found.append(f"items have {min(samples)} to {max(samples)} graded samples")
    want = settings.samples
    if want is not None and samples and samples != {want}:
        found.append(f"the protocol asks for {want} samples of each item")
    return found


def nothing(headline: str, items: Sequence[Scored], said: Sequence[str]) -> Report:
    """Return the report of a run of which nothing could be graded: no numbers, not zeros."""
    return Report(headline, {}, counted(items), tuple(said))
