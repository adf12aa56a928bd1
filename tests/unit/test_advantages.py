"""Credit compares each graded member with its group, by the rule that was asked for."""

from __future__ import annotations

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvision_rl.advantages import Kind, assign, credit
from pyvision_rl.types import EndReason, Gold, Group, Reward, Task, TaskInput, Trajectory

KINDS: tuple[Kind, ...] = get_args(Kind)
BY_MEAN: tuple[Kind, ...] = ("mean", "mean_std", "leave_one_out")


def group(*rewards: float | None) -> Group:
    members = (
        Trajectory("t", i, (), (), (), EndReason.ANSWERED, "x", r if r is None else _reward(r))
        for i, r in enumerate(rewards)
    )
    return Group(Task(TaskInput("t", "?"), Gold("x")), tuple(members))


def _reward(total: float) -> Reward:
    return Reward({"accuracy": total}, total > 0)


@pytest.mark.parametrize(
    ("kind", "golden"),
    [
        # Rewards 1.2, 1.0, 0, 0. Mean 0.55.
        ("mean", (0.65, 0.45, -0.55, -0.55)),
        # Squares 0.4225 + 0.2025 + 2 * 0.3025 = 1.23; std sqrt(1.23 / 4) = 0.554527.
        ("mean_std", (1.172170, 0.811502, -0.991836, -0.991836)),
        # The others' means: 1/3, 0.4, 2.2/3, 2.2/3.
        ("leave_one_out", (0.866667, 0.6, -0.733333, -0.733333)),
        # Two of four rewards are not 0: baseline 0.5.
        ("binary_baseline", (0.7, 0.5, -0.5, -0.5)),
    ],
)
def test_golden_advantages(kind: Kind, golden: tuple[float, ...]) -> None:
    assert credit([1.2, 1.0, 0.0, 0.0], kind) == pytest.approx(golden, abs=1e-5)


def test_a_right_answer_with_few_calls_is_punished_by_the_mean_and_not_by_the_binary_baseline() -> (
    None
):
    # Mean of 1.0, 1.4, 1.4, 1.4 is 1.3; all four are not 0, so the binary baseline is 1.
    rewards = [1.0, 1.4, 1.4, 1.4]
    assert credit(rewards, "mean")[0] == pytest.approx(-0.3)
    assert credit(rewards, "binary_baseline") == pytest.approx((0.0, 0.4, 0.4, 0.4))


@given(st.lists(st.sampled_from([0.0, 1.0, 1.1, 1.2, 1.4]), min_size=1, max_size=9))
def test_the_binary_baseline_never_punishes_a_whole_right_answer(rewards: list[float]) -> None:
    found = credit(rewards, "binary_baseline")
    assert all(a >= 0 for a, r in zip(found, rewards, strict=True) if r >= 1)
    bonuses = sum(r - 1 for r in rewards if r)
    assert math.fsum(found) == pytest.approx(bonuses, abs=1e-9)


def test_the_binary_baseline_may_punish_a_fractional_score() -> None:
    # Both rewards are not 0: baseline 1.
    assert credit([0.6, 1.0], "binary_baseline") == pytest.approx((-0.4, 0.0))


@pytest.mark.parametrize("kind", BY_MEAN)
@given(rewards=st.lists(st.floats(-2, 2), min_size=1, max_size=9))
def test_advantages_against_a_mean_sum_to_zero_and_keep_the_order(
    kind: Kind, rewards: list[float]
) -> None:
    found = credit(rewards, kind)
    assert math.fsum(found) == pytest.approx(0, abs=1e-6)
    ranked = sorted(range(len(rewards)), key=lambda i: rewards[i])
    assert [found[i] for i in ranked] == sorted(found)


@given(st.floats(-2, 2), st.integers(1, 9))
def test_equal_rewards_earn_nothing(reward: float, size: int) -> None:
    for kind in BY_MEAN:
        assert credit([reward] * size, kind) == pytest.approx([0.0] * size, abs=1e-6)


def test_leave_one_out_is_the_distance_from_the_mean_of_the_others() -> None:
    rewards = [0.3, 1.4, 0.0, 1.0, 1.1]
    wanted = [r - (sum(rewards) - r) / 4 for r in rewards]
    assert credit(rewards, "leave_one_out") == pytest.approx(wanted)


@pytest.mark.parametrize("kind", BY_MEAN)
def test_a_single_reward_has_no_baseline_and_earns_nothing(kind: Kind) -> None:
    assert credit([1.4], kind) == (0.0,)


@pytest.mark.parametrize("kind", KINDS)
def test_ungraded_members_get_zero_and_do_not_move_the_baseline(kind: Kind) -> None:
    whole, holes = (
        assign(group(1.2, 0.0, 0.0), kind),
        assign(group(None, 1.2, None, 0.0, 0.0), kind),
    )
    assert whole.advantages is not None
    first, *others = whole.advantages
    assert holes.advantages == (0.0, first, 0.0, *others)


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_without_a_grade_has_zeros(kind: Kind) -> None:
    assert assign(group(None, None), kind).advantages == (0.0, 0.0)
    assert assign(group(), kind).advantages == ()
