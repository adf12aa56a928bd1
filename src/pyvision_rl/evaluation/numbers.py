"""What the scores of an evaluation are worth: intervals, pass@k, and tests over items.

In: numbers per task. Out: estimates. Pure functions of their arguments: random draws come from a
given seed. Reads no record and no file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

DRAWS = 10_000
_Z = 1.959963984540054
"""The quantile of a normal distribution that leaves 2.5 % above it."""
_AT_ONCE = 1 << 19
"""Numbers that are drawn at once: 4 MB."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval, and how it was found."""

    low: float
    high: float
    method: str


def wilson(right: int, count: int) -> Interval:
    """Return Wilson's score interval of a share: one right-or-wrong sample per task."""
    share, z2 = right / count, _Z * _Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    # At the ends the sums are 0 and 1 but for rounding.
    low = middle - half if right else 0.0
    high = middle + half if right < count else 1.0
    return Interval(low, high, "Wilson score, 95 %")


def bootstrap(values: Sequence[float], *, seed: int = 0, draws: int = DRAWS) -> Interval | None:
    """Return the percentile bootstrap interval of a mean, tasks drawn with replacement.

    None for fewer than two tasks: nothing is known of the spread over tasks.
    """
    if len(values) < 2:
        return None
    numbers = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    step = max(1, _AT_ONCE // len(numbers))
    for start in range(0, draws, step):
        part = means[start : start + step]
        part[:] = numbers[generator.integers(len(numbers), size=(len(part), len(numbers)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(
        float(low), float(high), f"bootstrap over tasks, percentiles, {draws} draws, 95 %"
    )


def pass_at(k: int, count: int, right: int) -> float:
    """Return the chance that of ``k`` samples drawn from ``count`` one at least is right.

    Unbiased for the chance with k fresh samples (Chen et al. 2021, arXiv 2107.03374, eq. 1).

    Raises:
        ValueError: Fewer samples than ``k``.
    """
    if not 0 < k <= count or not 0 <= right <= count:
        raise ValueError(f"pass@{k} of {right} right among {count}")
    # Whole numbers until the division.
    missed: float = math.comb(count - right, k) / math.comb(count, k)
    return 1.0 - missed


def pass_levels(samples: int) -> list[int]:
    """Return the k that are told: powers of two, and the number of samples itself."""
    levels = [1 << power for power in range(samples.bit_length()) if 1 << power <= samples]
    return levels if levels[-1:] == [samples] else [*levels, samples]


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test: a fair coin for each that differs."""
    differing = only_first + only_second
    if not differing:
        return 1.0
    fewer = min(only_first, only_second)
    tail = sum(math.comb(differing, k) for k in range(fewer + 1))
    # Whole numbers until the last division: no sum of tiny numbers.
    both: float = 2 * tail / 2**differing
    return min(1.0, both)


def spread_test(
    groups: Sequence[int], values: Sequence[float], *, seed: int, draws: int = DRAWS
) -> float:
    """Return the p-value that groups differ in their means, by shuffling who is in which.

    The statistic is the sum over groups of size times squared distance from the common mean, as in
    a chi-square of right and wrong; items are shuffled whole, so their samples need not be
    independent.
    """
    labels = np.asarray(groups, dtype=np.intp)
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers - numbers.mean()
    sizes = np.bincount(labels).astype(np.float64)

    def statistic(shuffled: Numbers) -> float:
        sums = np.bincount(labels, weights=shuffled, minlength=len(sizes))
        return float((sums**2 / np.maximum(sizes, 1.0)).sum())

    observed, generator = statistic(numbers), np.random.default_rng(seed)
    shuffles = (statistic(generator.permutation(numbers)) for _ in range(draws))
    return _share(observed, shuffles, draws)


def margins_test(differences: Numbers, *, seed: int, draws: int = DRAWS) -> float:
    """Return the p-value that letters are answered as often as they are right.

    Exchanges, item by item, what is right with what was answered: if neither is preferred, that
    changes nothing but chance. The statistic is the sum over letters of the squared difference of
    the two counts.

    Args:
        differences: Items x letters: one for the letter that is right, minus the share of the
            item's samples that answered each letter. One column of differences within pairs
            makes it the sign-flip test of their mean.
        seed: Of the exchanges.
        draws: Number of exchanges.
    """
    observed = float((differences.sum(axis=0) ** 2).sum())
    generator = np.random.default_rng(seed)
    signs = (generator.choice((-1.0, 1.0), size=len(differences)) for _ in range(draws))
    exchanged = (float(((s @ differences) ** 2).sum()) for s in signs)
    return _share(observed, exchanged, draws)


def _share(observed: float, drawn: Iterable[float], draws: int) -> float:
    """Return the share of draws as large as what was observed, that one counted in."""
    least = observed - 1e-9 * max(1.0, observed)
    as_large = sum(value >= least for value in drawn)
    return float((1 + as_large) / (1 + draws))
