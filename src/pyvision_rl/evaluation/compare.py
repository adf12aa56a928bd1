"""Two evaluations of the same tasks, item by item.

In: two run folders. Out: which items both, one or none got right, a paired test, and the difference
with an interval, overall and by category. Runs of different tasks are refused; on request the items
in common are compared, and the others counted. Reads only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from pyvision_rl.errors import RunError
from pyvision_rl.evaluation.items import Item
from pyvision_rl.evaluation.numbers import Interval, bootstrap, margins_test, mcnemar
from pyvision_rl.evaluation.page import number, share
from pyvision_rl.evaluation.reading import Episodes, read_items
from pyvision_rl.present import markdown
from pyvision_rl.statistics import paired_test

Key: TypeAlias = tuple[str, int]
"""A task's id, and which of those with it."""
_FEW = 16
"""Items up to which all signs are gone through."""
_SHOWN = 20
FLIPS = ("both_right", "only_a", "only_b", "both_wrong")


@dataclass(frozen=True, slots=True)
class Part:
    """One comparison: of all items, or of a category. B minus A."""

    items: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    interval: Interval | None
    p: float
    test: str
    flips: Mapping[str, int]
    """By ``FLIPS``. An item is right where more than half of its samples are."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Items that are in no comparison."""

    only_in_a: int
    only_in_b: int
    other_content: int
    """The same id, but another question, answer or picture."""
    without_grade: int
    """In one of the runs no sample has a grade."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs, compared."""

    a: str
    b: str
    overall: Part
    categories: Mapping[str, Part]
    left_out: LeftOut
    superseded: int
    """Episodes of both runs in whose place a later one of the same sample was compared."""
    ids: Mapping[str, tuple[str, ...]]
    """By ``FLIPS``: the items."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def page(self) -> str:
        """Return the comparison for people, as Markdown."""
        head = ["", "items", "A", "B", "B - A", "95 % interval", "p", *FLIPS]
        parts = {"all": self.overall, **self.categories}
        lines = [_line(name, part) for name, part in parts.items()]
        left = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in asdict(self.left_out).items())
        told = [f"- {name}: {_listed(self.ids[name])}" for name in ("only_a", "only_b")]
        interval = self.overall.interval
        return "\n".join(
            [
                f"A: {self.a}\nB: {self.b}\n",
                markdown(head, lines),
                f"Test: {self.overall.test}. Interval: {interval.method if interval else 'none'}.",
                f"Left out: {left}; superseded episodes {self.superseded}.\n",
                *told,
            ]
        )


@dataclass(frozen=True, slots=True)
class _Pair:
    """One item in both runs."""

    key: Key
    category: str
    a: float
    """Share of its samples that are right."""
    b: float
    single: bool
    """One sample in each run."""


def compare(a: Path, b: Path, *, common: bool = False) -> Comparison:
    """Return what differs between two runs.

    Args:
        a: A run folder with graded episodes.
        b: Another one.
        common: Compare the items in common where the runs are of different tasks.

    Raises:
        RunError: A folder cannot be read, or the runs are of different tasks.
    """
    runs = Episodes(a), Episodes(b)
    first, second = (_by_key(read_items(run)) for run in runs)
    shared = [key for key in first if key in second]
    same = [key for key in shared if _content(first[key]) == _content(second[key])]
    pairs = [p for key in same if (p := _pair(key, first[key], second[key])) is not None]
    left = LeftOut(
        len(first) - len(shared),
        len(second) - len(shared),
        len(shared) - len(same),
        len(same) - len(pairs),
    )
    if not common and (left.only_in_a or left.only_in_b or left.other_content):
        raise RunError(
            f"{a} and {b} are of different tasks: {left.only_in_a} are only in the first, "
            f"{left.only_in_b} only in the second, {left.other_content} have another question, "
            "answer or picture; --common compares the others"
        )
    if not pairs:
        raise RunError(f"{a} and {b} have no graded task in common")
    categories = sorted({p.category for p in pairs if p.category})
    ids: dict[str, list[str]] = {name: [] for name in FLIPS}
    for pair in pairs:
        ids[_flip(pair)].append(pair.key[0])
    return Comparison(
        str(a),
        str(b),
        _part(pairs),
        {name: _part([p for p in pairs if p.category == name]) for name in categories},
        left,
        sum(run.superseded for run in runs),
        {name: tuple(found) for name, found in ids.items()},
    )


def _by_key(items: Sequence[Item]) -> dict[Key, list[Item]]:
    """The samples of each item; tasks that share an id are told apart by their order."""
    by_index: dict[int, list[Item]] = {}
    for item in items:
        by_index.setdefault(item.index, []).append(item)
    found: dict[Key, list[Item]] = {}
    seen: dict[str, int] = {}
    for index in sorted(by_index):
        name = by_index[index][0].task.id
        found[name, seen.get(name, 0)] = by_index[index]
        seen[name] = seen.get(name, 0) + 1
    return found


def _content(items: Sequence[Item]) -> tuple[Any, ...]:
    task = items[0].task
    media = tuple(m.sha256 for m in task.input.media)
    return task.input.question, task.gold.answer, task.gold.answer_type, media


def _pair(key: Key, first: Sequence[Item], second: Sequence[Item]) -> _Pair | None:
    shares = []
    for items in (first, second):
        counted = [float(bool(i.sample.correct)) for i in items if i.sample.counts]
        if not counted:
            return None
        shares.append((math.fsum(counted) / len(counted), len(counted)))
    (a, num_a), (b, num_b) = shares
    return _Pair(key, first[0].task.input.category, a, b, num_a == num_b == 1)


def _flip(pair: _Pair) -> str:
    right = pair.a > 0.5, pair.b > 0.5
    return FLIPS[{(True, True): 0, (True, False): 1, (False, True): 2}.get(right, 3)]


def _part(pairs: Sequence[_Pair]) -> Part:
    a, b = [p.a for p in pairs], [p.b for p in pairs]
    differences = [p.b - p.a for p in pairs]
    flips = dict.fromkeys(FLIPS, 0)
    for pair in pairs:
        flips[_flip(pair)] += 1
    if all(p.single for p in pairs):
        p, test = mcnemar(flips["only_a"], flips["only_b"]), "exact McNemar"
    else:
        p, test = _signs(differences)
    count = len(pairs)
    return Part(
        count,
        math.fsum(a) / count,
        math.fsum(b) / count,
        math.fsum(differences) / count,
        bootstrap(differences),
        p,
        test,
        flips,
    )


def _signs(differences: Sequence[float]) -> tuple[float, str]:
    """The paired permutation test over items."""
    if len(differences) <= _FEW:
        found = paired_test(differences, draws=1, seed=0)
        assert found is not None
        return found.p, "paired permutation over items, exact"
    p = margins_test(np.asarray(differences)[:, None], seed=0)
    return p, "paired permutation over items, 10000 draws"


def _line(name: str, part: Part) -> list[str]:
    interval = part.interval
    between = f"{share(interval.low)} to {share(interval.high)}" if interval else "-"
    shares = (share(part.accuracy_a), share(part.accuracy_b), share(part.difference))
    counts = (str(part.flips[flip]) for flip in FLIPS)
    return [name.replace("|", "/"), str(part.items), *shares, between, number(part.p), *counts]


def _listed(ids: Sequence[str]) -> str:
    more = f", and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return (", ".join(ids[:_SHOWN]) or "none") + more
