"""Tests of significance and intervals, by hand, against scipy, and by simulation."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pyvision_rl.statistics import (
    holm,
    paired_test,
    seed_interval,
    spread,
    student_quantile,
    task_interval,
    unpaired_test,
)

NUMBERS = st.lists(st.integers(-9, 9).map(float), min_size=2, max_size=6)
"""Whole numbers, so that the oracle finds every tie; ours has room for rounding."""


def test_spreads_are_sample_statistics() -> None:
    # Deviations -1, 0, 1: variance 2 / (3 - 1) = 1.
    found = spread([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.mean, found.sd, found.low, found.high, found.count) == (2, 1, 1, 3, 3)
    assert found.se == pytest.approx(1 / math.sqrt(3))


def test_one_seed_has_no_spread_and_none_has_nothing() -> None:
    found = spread([0.4])
    assert found is not None
    assert found.sd is found.se is None
    assert spread([]) is None


def test_sign_flips_by_hand() -> None:
    # |sum| of (1, 2, 3) under the eight signs: 6 4 2 0 and the same again. 6 twice: p = 2/8.
    found = paired_test([1.0, 2.0, 3.0], draws=1000, seed=0)
    assert found is not None
    assert (found.p, found.smallest_p, found.exact) == (0.25, 0.25, True)
    # (3, -1, 2): 4 is reached by 4 and 6, each twice of eight.
    mixed = paired_test([3.0, -1.0, 2.0], draws=1000, seed=0)
    assert mixed is not None
    assert mixed.p == 0.5


def test_eight_pairs_of_one_sign_reach_two_in_256() -> None:
    found = paired_test([0.1 * k for k in range(1, 9)], draws=1000, seed=0)
    assert found is not None
    assert found.p == found.smallest_p == 2 / 256


def test_no_difference_at_all_is_no_finding() -> None:
    found = paired_test([0.0] * 5, draws=1000, seed=0)
    assert found is not None
    assert found.p == 1.0


def test_groups_shuffled_by_hand() -> None:
    # Of the C(4, 2) = 6 splits of 1 2 3 4 only {1,2} and {3,4} differ by 2: p = 2/6.
    found = unpaired_test([1.0, 2.0], [3.0, 4.0], draws=1000, seed=0)
    assert found is not None
    assert (found.p, found.smallest_p) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    # Groups of unlike size have no mirrored split: {10} alone of four.
    lone = unpaired_test([10.0], [1.0, 2.0, 3.0], draws=1000, seed=0)
    assert lone is not None
    assert (lone.p, lone.smallest_p) == (0.25, 0.25)


@given(NUMBERS)
def test_exact_sign_flips_agree_with_scipy(values: list[float]) -> None:
    array = np.array(values)
    found = paired_test(array.tolist(), draws=1000, seed=0)
    theirs = stats.permutation_test(
        (array,), lambda x, axis: np.abs(np.sum(x, axis=axis)), permutation_type="samples",
        n_resamples=np.inf, alternative="greater", vectorized=True,
    )  # fmt: skip
    assert found is not None
    assert found.p == pytest.approx(theirs.pvalue)


@given(NUMBERS, NUMBERS)
def test_exact_shuffles_agree_with_scipy(first: list[float], second: list[float]) -> None:
    a, b = np.array(first), np.array(second)
    found = unpaired_test(a.tolist(), b.tolist(), draws=1000, seed=0)
    theirs = stats.permutation_test(
        # The difference of means times both sizes.
        (a, b), lambda x, y, axis: np.abs(len(b) * x.sum(axis=axis) - len(a) * y.sum(axis=axis)),
        permutation_type="independent", n_resamples=np.inf, alternative="greater", vectorized=True,
    )  # fmt: skip
    assert found is not None
    assert found.p == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("paired", [True, False])
def test_many_seeds_are_sampled_and_agree_with_the_normal_limit(paired: bool) -> None:
    generator = np.random.default_rng(3)
    a, b = generator.normal(0.5, 1, 40), generator.normal(0, 1, 40)
    if paired:
        found = paired_test((a - b).tolist(), draws=20_000, seed=1)
        theirs = stats.ttest_rel(a, b).pvalue
    else:
        found = unpaired_test(a.tolist(), b.tolist(), draws=20_000, seed=1)
        theirs = stats.ttest_ind(a, b).pvalue
    assert found is not None
    assert not found.exact
    assert found.smallest_p == pytest.approx(1 / 20_001)
    assert found.p == pytest.approx(theirs, abs=0.01)


def test_a_sampled_test_never_says_zero() -> None:
    found = paired_test([1.0] * 30, draws=1000, seed=0)
    assert found is not None
    assert found.p == pytest.approx(1 / 1001)


def test_nothing_to_compare_is_no_test() -> None:
    assert paired_test([], draws=1000, seed=0) is None
    assert unpaired_test([1.0], [], draws=1000, seed=0) is None


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04 times 4 3 2 1: .04 .06 .06 .04, made to rise: .04 .06 .06 .06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx((0.06, 0.04, 0.06, 0.06))
    assert holm([0.6, 0.9]) == (1.0, 1.0)
    assert holm([]) == ()


@given(st.lists(st.floats(0, 1), max_size=8))
def test_correction_keeps_order_and_never_helps(values: list[float]) -> None:
    found = holm(values)
    assert all(p <= c <= 1 for p, c in zip(values, found, strict=True))
    assert [found[k] for k in sorted(range(len(values)), key=lambda k: values[k])] == sorted(found)


@pytest.mark.parametrize("freedom", [1, 2, 4, 7, 30])
def test_quantiles_of_student_agree_with_scipy(freedom: int) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-3)


def test_an_interval_needs_two_seeds() -> None:
    assert seed_interval([1.0], [0.0], paired=True) is None
    assert seed_interval([1.0], [0.0, 2.0], paired=False) is None


def test_a_constant_difference_has_no_width() -> None:
    found = seed_interval([1.0, 2.0, 3.0], [0.5, 1.5, 2.5], paired=True)
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(0.5), pytest.approx(0.5))


def test_missing_scores_are_left_out_of_a_mean() -> None:
    first = np.array([[1.0, np.nan], [1.0, np.nan]])
    found = task_interval(first, np.zeros((2, 2)), paired=True, draws=1000, seed=0)
    assert found is not None
    # A draw of nothing but the missing task has no score, which is not a zero.
    assert (found.low, found.high) == (pytest.approx(1.0), pytest.approx(1.0))


def test_tasks_of_one_seed_may_be_drawn_by_themselves() -> None:
    scores = np.array([[1.0, 0.0, np.nan, np.nan], [np.nan, np.nan, 1.0, 1.0]])
    found = task_interval(scores, np.zeros((2, 4)), paired=True, draws=2000, seed=0, crossed=False)
    assert found is not None
    assert 0 <= found.low < 0.75 < found.high <= 1.0


def test_a_bootstrap_of_many_tasks_needs_little_memory() -> None:
    # 1,000 draws of 20,000 tasks are 160 MB of counts at once.
    scores = np.random.default_rng(0).random((2, 20_000))
    tracemalloc.start()
    found = task_interval(scores, scores - 0.1, paired=True, draws=1000, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert peak < 40e6


def test_chunks_leave_no_draw_out() -> None:
    # One of three tasks 30,000 times each is right: 0.333 with an error of 0.0016.
    scores = np.tile([1.0, 0.0, 0.0], (2, 30_000))
    found = task_interval(scores, np.zeros_like(scores), paired=True, draws=1001, seed=0)
    assert found is not None
    assert 0.30 < found.low < 1 / 3 < found.high < 0.36


def coverage(draw: object, truth: float, trials: int, **options: object) -> float:
    """The share of intervals that hold the truth."""
    generator = np.random.default_rng(11)
    held = 0
    for _ in range(trials):
        first, second = draw(generator)  # type: ignore[operator]
        found = task_interval(first, second, draws=1000, seed=0, **options)  # type: ignore[arg-type]
        assert found is not None
        held += found.low <= truth <= found.high
    return held / trials


@pytest.mark.parametrize(("seeds", "paired"), [(5, True), (8, False)])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds: int, paired: bool) -> None:
    # Accuracies that spread over seeds and over tasks, right or wrong by chance: truth is 0.2.
    def draw(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        tasks = generator.normal(0, 0.15, 60)
        rows = []
        for mean in (0.6, 0.4):
            chance = mean + generator.normal(0, 0.06, seeds)[:, None] + tasks
            rows.append((generator.random((seeds, 60)) < np.clip(chance, 0, 1)).astype(float))
        return rows[0], rows[1]

    # 200 trials: two standard errors of a 95 % coverage are 3 points. Too wide is allowed.
    assert coverage(draw, 0.2, 200, paired=paired) >= 0.92


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
def test_intervals_over_seeds_alone_hold_the_truth(seeds: int, paired: bool) -> None:
    generator = np.random.default_rng(7)
    held, trials = 0, 2000
    for _ in range(trials):
        first, second = generator.normal(1, 1, seeds), generator.normal(0, 1, seeds)
        found = seed_interval(first.tolist(), second.tolist(), paired=paired)
        assert found is not None
        held += found.low <= 1 <= found.high
    # Two standard errors of a 95 % coverage are a point. The smaller group's freedom is cautious.
    assert 0.94 <= held / trials <= (0.96 if paired else 1.0)


def test_the_interval_of_pairs_is_that_of_the_t_test() -> None:
    first, second = [1.0, 2.5, 3.0, 4.5], [0.5, 1.0, 3.5, 2.0]
    theirs = stats.ttest_rel(first, second).confidence_interval()
    found = seed_interval(first, second, paired=True)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-3)


def test_ties_are_found_in_spite_of_rounding() -> None:
    # Of the 70 splits those as far apart as 0.001 are many; the observed one is hit by rounding:
    # sums of 0.002 + 2 + 0.002 differ in the last bit by their order.
    first, second = [0.0, 0.0, 0.0, 2.0], [0.0, 0.002, 0.002, 2.0]
    whole = unpaired_test([1000 * v for v in first], [1000 * v for v in second], draws=9, seed=0)
    found = unpaired_test(first, second, draws=9, seed=0)
    assert found is not None
    assert whole is not None
    assert found.p == whole.p
