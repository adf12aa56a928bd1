"""Intervals, pass@k and tests over items, against what can be counted by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvision_rl.evaluation.evaluate import Sample
from pyvision_rl.evaluation.numbers import (
    bootstrap,
    margins_test,
    mcnemar,
    pass_at,
    pass_levels,
    spread_test,
    wilson,
)
from pyvision_rl.evaluation.result import estimate
from pyvision_rl.types import EndReason


def sample(task: str, correct: bool | None, *, failed: bool = False, score: float | None = None):
    end = EndReason.FAILED if failed else EndReason.ANSWERED
    given = float(correct) if score is None and correct is not None else score
    numbers = {"tool_calls": 0.0, "sampled_tokens": 1.0}
    return Sample(task, 0, "", end, correct, given, numbers)


def test_wilson_by_hand() -> None:
    # n = 10, p = 0.8, z = 1.96: z2 = 3.8415. Middle (0.8 + 0.19207) / 1.38415 = 0.71674.
    # Half: 1.96 / 1.38415 * sqrt(0.8 * 0.2 / 10 + 3.8415 / 400) = 1.41600 * 0.16001 = 0.22658.
    found = wilson(8, 10)
    assert (found.low, found.high) == (
        pytest.approx(0.4902, abs=1e-4),
        pytest.approx(0.9433, abs=1e-4),
    )
    # All right is not certainly right: high is 1, low is 1 / (1 + z2 / n) = 0.7225.
    assert wilson(10, 10).high == pytest.approx(1.0)
    assert wilson(10, 10).low == pytest.approx(1 / (1 + 0.38415), abs=1e-4)
    assert wilson(0, 10).low == 0.0


@given(st.integers(0, 200), st.integers(1, 200))
def test_wilson_holds_the_share_and_stays_in_range(right: int, more: int) -> None:
    found = wilson(right, right + more)
    assert 0.0 <= found.low <= right / (right + more) <= found.high <= 1.0


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_pass_at_k_is_the_share_of_all_draws_with_a_right_one(
    samples: list[bool], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(samples)))
    draws = list(itertools.combinations(samples, k))
    expected = sum(any(draw) for draw in draws) / len(draws)
    assert pass_at(k, len(samples), sum(samples)) == pytest.approx(expected)


def test_pass_at_1_is_the_share_of_right_samples() -> None:
    assert pass_at(1, 4, 1) == 0.25
    # 1 - C(3, 2) / C(4, 2) = 1 - 3 / 6.
    assert pass_at(2, 4, 1) == 0.5
    with pytest.raises(ValueError, match="pass@5"):
        pass_at(5, 4, 1)


def test_pass_levels_are_powers_of_two_and_the_number_itself() -> None:
    assert [pass_levels(k) for k in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_the_bootstrap_repeats_holds_the_mean_and_needs_two_tasks() -> None:
    values = [0.0, 0.5, 1.0, 1.0, 0.25] * 20
    found = bootstrap(values, seed=3)
    assert found == bootstrap(values, seed=3)
    assert found is not None
    mean = sum(values) / len(values)
    assert found.low < mean < found.high
    # Nearly normal: 1.96 standard errors each side.
    error = float(np.std(values)) / math.sqrt(len(values))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert bootstrap([1.0]) is None


def test_mcnemar_by_hand() -> None:
    # 6 differ, 1 and 5: 2 * (C(6,0) + C(6,1)) / 2^6 = 14 / 64.
    assert mcnemar(1, 5) == 14 / 64
    assert mcnemar(5, 1) == 14 / 64
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(3, 3) == 1.0
    assert 0.0 < mcnemar(0, 900) < 1e-200


def test_groups_that_differ_are_found_and_equal_ones_are_not() -> None:
    groups = [0, 1] * 20
    assert spread_test(groups, [float(g) for g in groups], seed=0, draws=500) == 1 / 501
    assert spread_test(groups, [1.0] * 40, seed=0, draws=500) == 1.0
    mixed = [1.0, 1.0, 0.0, 0.0] * 10
    assert spread_test(groups, mixed, seed=0, draws=500) > 0.5


def test_a_preferred_letter_is_found() -> None:
    # Right: 20 times each of two letters; answered: always the first.
    right = np.eye(2)[[0, 1] * 20]
    always = right - np.array([1.0, 0.0])
    assert margins_test(always, seed=0, draws=500) == 1 / 501
    assert margins_test(right - right, seed=0, draws=500) == 1.0
    # As many wrong each way.
    swapped = right - np.eye(2)[[1, 0] * 20]
    assert margins_test(swapped, seed=0, draws=500) > 0.5


def test_one_sample_a_task_has_wilsons_interval_and_several_have_a_bootstrap() -> None:
    single = estimate([sample("a", True), sample("b", False), sample("c", None, failed=True)])
    assert single["accuracy"] == pytest.approx(1 / 3)
    assert single["accuracy_interval"]["method"].startswith("Wilson")
    assert single["accuracy_interval"]["high"] == wilson(1, 3).high
    several = estimate([sample("a", True), sample("a", False), sample("b", False)])
    # Means 0.5 and 0.
    assert several["accuracy"] == 0.25
    assert several["accuracy_interval"]["method"].startswith("bootstrap")
    # pass@2: only task a has two samples, and one of them is right: 1 - C(1, 2) / C(2, 2) = 1.
    assert several["pass_at"]["1"] == {"value": 0.25, "tasks": 2, "left_out": 0}
    assert several["pass_at"]["2"] == {"value": 1.0, "tasks": 1, "left_out": 1}


def test_tasks_that_are_all_right_are_not_certain_to_be() -> None:
    found = estimate([sample(task, True) for task in "abc" for _ in range(2)])
    interval = found["accuracy_interval"]
    assert interval["method"].startswith("Wilson")
    assert (interval["low"], interval["high"]) == (wilson(3, 3).low, wilson(3, 3).high)
    assert found["score_interval"] == interval
    wrong = estimate([sample(task, False) for task in "abc" for _ in range(2)])
    assert wrong["accuracy_interval"]["high"] == wilson(0, 3).high > 0.5


def test_of_one_task_no_error_and_no_interval_of_means_is_told() -> None:
    found = estimate([sample("a", True), sample("a", False)])
    assert (found["accuracy"], found["accuracy_se"], found["score_se"]) == (0.5, None, None)
    assert found["accuracy_interval"] is None


def test_an_ungraded_sample_is_in_no_estimate_and_a_failed_one_scores_nothing() -> None:
    found = estimate(
        [sample("a", False, score=0.5), sample("b", None), sample("c", None, failed=True)]
    )
    assert (found["tasks"], found["accuracy"], found["score"]) == (2, 0.0, 0.25)
    assert estimate([sample("a", None)])["accuracy"] is None
