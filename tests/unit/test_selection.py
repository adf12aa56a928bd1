"""Selection loses nothing, keeps whole groups, and ranks by reward std."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvision_rl.advantages import assign
from pyvision_rl.config import SelectionConfig
from pyvision_rl.errors import ConfigError
from pyvision_rl.selection import num_usable, select
from pyvision_rl.types import (
    EndReason,
    Gold,
    Group,
    Reward,
    Task,
    TaskInput,
    Trajectory,
)


def trajectory(
    task: str, index: int, reward: float | None, end: EndReason = EndReason.ANSWERED
) -> Trajectory:
    graded = None if reward is None else Reward({"accuracy": reward}, reward > 0)
    return Trajectory(task, index, (), (), (), end, "x", graded)


def group(name: str, *rewards: float | None, end: EndReason = EndReason.ANSWERED) -> Group:
    task = Task(TaskInput(name, "?"), Gold("x"))
    members = tuple(trajectory(name, i, r, end) for i, r in enumerate(rewards))
    return assign(Group(task, members))


def test_advantage_is_the_distance_from_the_mean_of_the_graded_members() -> None:
    # Rewards 1.2, 0, 0, and one ungraded: mean 0.4, so 0.8, -0.4, -0.4 and 0.0 for the ungraded.
    assert group("a", 1.2, 0.0, 0.0, None).advantages == pytest.approx((0.8, -0.4, -0.4, 0.0))


def test_normalised_advantage_divides_by_the_population_std() -> None:
    made = assign(replace(group("a", 1.0, 0.0), advantages=None), normalize_std=True)
    assert made.advantages == pytest.approx((1.0, -1.0), abs=1e-5)


def test_ranking_keeps_the_groups_with_the_largest_reward_std() -> None:
    # std: a 0.5, b 0.433, c 0.6 (rewards 1.2 and 0), d 0 (filtered).
    groups = [group("a", 1, 0, 1, 0), group("b", 1, 0, 0, 0), group("c", 1.2, 0, 1.2, 0)]
    groups.append(group("d", 1, 1, 1, 1))
    batch = select(groups, SelectionConfig(groups_per_step=2))
    assert [s.trajectory.task_id for s in batch.samples] == ["c"] * 4 + ["a"] * 4
    assert batch.dropped == {"zero_std": 4, "surplus": 4}


def test_ties_are_broken_by_task_id() -> None:
    groups = [group(name, 1, 0) for name in ("b", "c", "a")]
    batch = select(groups, SelectionConfig(groups_per_step=2))
    assert [s.trajectory.task_id for s in batch.samples] == ["a", "a", "b", "b"]


def test_without_ranking_the_first_groups_are_kept() -> None:
    groups = [group("b", 1, 0, 0, 0), group("a", 1, 0)]
    batch = select(groups, SelectionConfig(groups_per_step=1, rank_by="none"))
    assert {s.trajectory.task_id for s in batch.samples} == {"b"}


def test_std_is_taken_over_survivors_and_advantage_over_the_whole_group() -> None:
    made = group("a", 1, 0, 0, 0)
    broken = replace(made.trajectories[0], end=EndReason.TOKEN_LIMIT)
    made = replace(made, trajectories=(broken, *made.trajectories[1:]))
    batch = select([made], SelectionConfig(groups_per_step=1))
    assert batch.samples == ()
    assert batch.dropped == {"over_length": 1, "zero_std": 3}
    assert {r.advantage for r in batch.rejected} == {0.75, -0.25}


def test_a_group_with_one_survivor_is_too_small() -> None:
    batch = select([group("a", 1.0, None)], SelectionConfig(filters=("ungraded",)))
    assert batch.dropped == {"ungraded": 1, "too_small": 1}


def test_failed_episodes_are_dropped_as_infra_and_never_as_ungraded() -> None:
    batch = select([group("a", None, None, end=EndReason.FAILED)], SelectionConfig())
    assert batch.dropped == {"infra": 2}


@pytest.mark.parametrize("end", [EndReason.FAILED, EndReason.ANSWERED])
def test_what_was_not_graded_is_never_trained_on_whatever_the_filters(end: EndReason) -> None:
    made = group("a", 1.0, 0.0)
    broken = trajectory("a", 2, None, end)
    made = assign(replace(made, trajectories=(*made.trajectories, broken), advantages=None))
    batch = select([made], SelectionConfig(filters=()))
    assert [s.trajectory.rollout for s in batch.samples] == [0, 1]
    assert sum(batch.dropped.values()) == 1


def test_an_unknown_filter_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"filters\[0\] = 'zero_sdt'.*zero_std"):
        select([], SelectionConfig(filters=("zero_sdt",)))


_rewards = st.lists(st.sampled_from([None, 0.0, 1.0, 1.1, 1.4]), min_size=1, max_size=5)
_ends = st.sampled_from([EndReason.ANSWERED, EndReason.TOKEN_LIMIT, EndReason.TURN_LIMIT])


@given(
    st.lists(st.tuples(_rewards, _ends), max_size=8),
    st.integers(1, 5),
    st.sampled_from(["reward_std", "none"]),
)
def test_nothing_is_lost_and_groups_stay_whole(
    rows: list[tuple[list[float | None], EndReason]], keep: int, rank: str
) -> None:
    groups = [group(f"t{i}", *rewards, end=end) for i, (rewards, end) in enumerate(rows)]
    config = SelectionConfig(groups_per_step=keep, rank_by=rank)
    batch = select(groups, config)
    every = [t for g in groups for t in g.trajectories]
    assert batch.num_generated == len(every)
    got = [s.trajectory for s in batch.samples] + [r.trajectory for r in batch.rejected]
    assert sorted(id(t) for t in got) == sorted(id(t) for t in every)
    kept = {s.trajectory.task_id for s in batch.samples}
    assert len(kept) == min(keep, num_usable(groups, config))
    assert not kept & {r.trajectory.task_id for r in batch.rejected if r.reason == "surplus"}
