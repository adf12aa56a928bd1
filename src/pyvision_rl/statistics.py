"""What differences over seeds are worth: spreads, permutation tests, bootstrap intervals, Holm.

In: numbers, one per seed, or one per seed and task. Out: records of means, p-values and intervals.
Pure functions of their arguments: random draws come from a given seed. Reads no files.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
MAX_EXACT = 1 << 16
"""Arrangements that a permutation test goes through one by one."""
_MAX_DRAWN = 1 << 19
"""Numbers that a bootstrap draws at once: 4 MB."""
_TIE = 1e-9
"""Statistics nearer than this, relative to the largest, are equal: sums come in any order."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A number over seeds."""

    mean: float
    sd: float | None
    """Sample standard deviation; None for one seed."""
    se: float | None
    """Of the mean."""
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Test:
    """A two-sided permutation test of a difference of means."""

    p: float
    smallest_p: float
    """What the most extreme data could reach with so many seeds."""
    exact: bool
    """Whether all arrangements were gone through; otherwise a random sample of them."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


def spread(values: Sequence[float]) -> Spread | None:
    """Return mean, deviation, error and range over seeds; None without a value."""
    count = len(values)
    if not count:
        return None
    mean = math.fsum(values) / count
    sd = se = None
    if count > 1:
        sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1))
        se = sd / math.sqrt(count)
    return Spread(mean, sd, se, min(values), max(values), count)


def paired_test(differences: Sequence[float], *, draws: int, seed: int) -> Test | None:
    """Return the sign-flip test of differences within pairs; None without a pair.

    Under the hypothesis of no difference every sign is as likely as the other. The statistic is
    the absolute sum.
    """
    values = np.asarray(differences, dtype=np.float64)
    count = len(values)
    if not count:
        return None
    observed = abs(values.sum())
    smallest = 2.0 ** (1 - count)
    if 2**count <= MAX_EXACT:
        bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return Test(_share_as_large(np.abs((1.0 - 2.0 * bits) @ values), observed), smallest, True)
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(draws, count))
    return _sampled(np.abs(signs @ values), observed, smallest)


def unpaired_test(
    first: Sequence[float], second: Sequence[float], *, draws: int, seed: int
) -> Test | None:
    """Return the test that shuffles who belongs to which group; None if a group is empty.

    The statistic is the absolute difference of means.
    """
    if not first or not second:
        return None
    values = np.asarray([*first, *second], dtype=np.float64)
    size, count = len(first), len(values)
    arrangements = math.comb(count, size)
    # The mirrored arrangement is as extreme, and is another one only if the groups are of a size.
    smallest = min(1.0, (2.0 if 2 * size == count else 1.0) / arrangements)

    def statistic(chosen: NDArray[np.intp]) -> Numbers:
        sums = values[chosen].sum(axis=1)
        rest = values.sum() - sums
        return np.asarray(np.abs(sums / size - rest / (count - size)))

    observed = float(statistic(np.arange(size)[None, :])[0])
    if arrangements <= MAX_EXACT:
        every = np.array(list(itertools.combinations(range(count), size)), dtype=np.intp)
        return Test(_share_as_large(statistic(every), observed), smallest, True)
    generator = np.random.default_rng(seed)
    order = generator.permuted(np.tile(np.arange(count), (draws, 1)), axis=1)
    return _sampled(statistic(order[:, :size]), observed, smallest)


def _share_as_large(statistics: Numbers, observed: float) -> float:
    return float(np.mean(statistics >= observed - _TIE * max(1.0, observed)))


def _sampled(statistics: Numbers, observed: float, smallest: float) -> Test:
    """Return the test of a random sample of arrangements, the observed one counted in."""
    draws = len(statistics)
    as_large = _share_as_large(statistics, observed) * draws
    return Test((1 + as_large) / (1 + draws), max(smallest, 1 / (1 + draws)), False)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p-values corrected for being several, by Holm's method: those of a whole study."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return tuple(adjusted)


def seed_interval(
    first: Sequence[float], second: Sequence[float], *, paired: bool
) -> Interval | None:
    """Return the 95 % interval of a difference of means over seeds, first minus second.

    Student's t: of the differences within pairs, or of two groups with their own spreads and the
    smaller one's degrees of freedom, which is never too narrow. (Percentiles of a bootstrap never
    leave the range of what was seen, and so hold the truth in 94 of 100 studies of five pairs at
    best.) None with fewer than two seeds in a group.
    """
    smaller = min(len(first), len(second))
    if smaller < 2:
        return None
    groups = [[a - b for a, b in zip(first, second, strict=True)]] if paired else [first, second]
    spreads = [found for group in groups if (found := spread(group)) is not None]
    center = spreads[0].mean - (0.0 if paired else spreads[1].mean)
    error = math.hypot(*(each.se or 0.0 for each in spreads))
    half = student_quantile(0.975, smaller - 1) * error
    return Interval(center - half, center + half)


def task_interval(
    first: Numbers,
    second: Numbers,
    *,
    paired: bool,
    draws: int,
    seed: int,
    crossed: bool = True,
) -> Interval | None:
    """Return the interval of a difference of mean scores over seeds and tasks, first minus second.

    A hierarchical bootstrap: seeds are drawn with replacement, and tasks are. Percentiles over few
    seeds are too narrow, so the tails are those at which a normal distribution is as wide as
    Student's t over n seeds times sqrt(n / (n - 1)) ("expanded percentiles", Hesterberg 2015).

    Args:
        first: Seeds x tasks, NaN where a score is missing; a row needs one score at least.
        second: The same tasks.
        paired: Draw the same seeds in both: row k of both belongs to one seed.
        draws: Number of bootstrap samples.
        seed: Of the draws.
        crossed: All seeds met the same tasks, so a drawn task is drawn for every seed; otherwise
            each seed's tasks are drawn by themselves.

    Returns:
        None with fewer than two seeds in a group: nothing is known of the spread over seeds.
    """
    smaller = min(len(first), len(second))
    if smaller < 2:
        return None
    generator = np.random.default_rng(seed)
    differences = np.empty(draws)
    at_once = max(1, _MAX_DRAWN // first.shape[1])
    for start in range(0, draws, at_once):
        chunk = differences[start : start + at_once]
        chunk[:] = _drawn_differences(generator, first, second, len(chunk), paired, crossed)
    tail = _tail(smaller)
    low, high = np.nanquantile(differences, (tail, 1 - tail))
    return Interval(float(low), float(high))


def _drawn_differences(
    generator: np.random.Generator,
    first: Numbers,
    second: Numbers,
    draws: int,
    paired: bool,
    crossed: bool,
) -> Numbers:
    """Return the difference of mean scores in each of some draws."""
    seeds = _weights(generator, len(first), draws)
    others = seeds if paired else _weights(generator, len(second), draws)
    tasks = first.shape[1]
    if crossed:
        same = _weights(generator, tasks, draws)
        mine = theirs = [same] * max(len(first), len(second))
    else:
        mine = [_weights(generator, tasks, draws) for _ in first]
        theirs = mine if paired else [_weights(generator, tasks, draws) for _ in second]
    return _drawn_means(first, seeds, mine) - _drawn_means(second, others, theirs)


def _weights(generator: np.random.Generator, count: int, draws: int) -> Numbers:
    """Return how often each of ``count`` things was drawn, draws x count."""
    drawn = generator.integers(count, size=(draws, count))
    drawn += count * np.arange(draws)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=draws * count)
    return counts.reshape(draws, count).astype(np.float64)


def _drawn_means(scores: Numbers, seeds: Numbers, tasks: Sequence[Numbers]) -> Numbers:
    """Return per draw the mean over drawn seeds of the mean over drawn tasks with a score."""
    present = (~np.isnan(scores)).astype(np.float64)
    filled = np.nan_to_num(scores)
    rows = range(len(scores))
    sums = np.stack([tasks[k] @ filled[k] for k in rows], axis=1)
    counts = np.stack([tasks[k] @ present[k] for k in rows], axis=1)
    means = sums / np.maximum(counts, 1.0)
    # A seed of whose drawn tasks none has a score has no mean in that draw.
    weights = seeds * (counts > 0)
    total = weights.sum(axis=1)
    # A draw without any score has no mean: NaN, which no quantile counts.
    return np.where(total > 0, (means * weights).sum(axis=1) / np.maximum(total, 1.0), np.nan)


def _tail(count: int) -> float:
    """Return the share of a bootstrap's draws to leave out on each side, for ``count`` seeds."""
    wide = student_quantile(0.975, count - 1) * math.sqrt(count / (count - 1))
    return 0.5 * math.erfc(wide / math.sqrt(2))


@cache
def student_quantile(p: float, freedom: int) -> float:
    """Return the quantile of Student's t distribution, for ``p`` above one half.

    With t = sqrt(freedom) tan(a), the distribution's share below t is the integral of
    cos(a)^(freedom - 1) up to a, over the whole.
    """
    angles = np.linspace(0.0, math.pi / 2, 200_001)
    heights = np.cos(angles) ** (freedom - 1)
    areas = np.concatenate([[0.0], np.cumsum((heights[1:] + heights[:-1]) / 2)])
    angle = float(np.interp(2 * p - 1, areas / areas[-1], angles))
    return math.sqrt(freedom) * math.tan(angle)
