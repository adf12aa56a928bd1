"""Selection loses nothing, filters by what it was told, ranks by spread, and carries the rest."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pyvision_rl.advantages import assign
from pyvision_rl.config import Config, SelectionConfig
from pyvision_rl.errors import ConfigError
from pyvision_rl.media import image_media
from pyvision_rl.selection import TRAJECTORY_FILTERS, check_filters, num_usable, num_wanted, select
from pyvision_rl.types import (
    Action,
    Batch,
    Candidate,
    EndReason,
    ExecStatus,
    Execution,
    GiveAnswer,
    Gold,
    Group,
    Malformed,
    Reward,
    RunCode,
    StopReason,
    Task,
    TaskInput,
    Trajectory,
    Turn,
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


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reserve_ends": ("answred",)}, r"reserve_ends\[0\] = 'answred'.*turn_limit"),
        ({"filters": ("zero_std", "zero_std")}, r"filters\[1\] = 'zero_std' is listed twice"),
        ({"max_per_round": {"video": 3}}, "key 'video'; wants one of media:image, media:video"),
        ({"max_per_round": {"media:vidoe": 3}}, "key 'media:vidoe'; wants one of"),
        ({"max_per_round": {"category:": 3}}, "key 'category:'"),
        ({"max_per_round": {"colour:red": 3}}, "key 'colour:red'"),
    ],
)
def test_a_wrong_name_in_the_section_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        select([], SelectionConfig(**fields))


def test_the_sections_of_the_page_on_selection_are_valid() -> None:
    page = (Path(__file__).parents[2] / "docs" / "selection.md").read_text(encoding="utf-8")
    blocks = [tomllib.loads(b) for b in re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)]
    assert len(blocks) == 2
    for block in blocks:
        check_filters(Config.model_validate(block).selection)


# Filters -------------------------------------------------------------------------------------

PICTURE = image_media(Image.new("RGB", (4, 4), "red"))


def turn(action: Action, pictures: int = 0) -> Turn:
    ran = isinstance(action, RunCode)
    done = Execution(ExecStatus.OK, "", images=(PICTURE,) * pictures) if ran else None
    return Turn("", StopReason.END, action, 1, execution=done)


LOOK, PRINT = turn(RunCode("show()"), pictures=1), turn(RunCode("print()"))
ANSWER, NEITHER = turn(GiveAnswer("x")), turn(Malformed("neither"))


def dropped(name: str, **fields: Any) -> dict[int, str]:
    """Rollout -> reason, of one group with an episode of every sort, under one filter."""
    rows: list[tuple[float | None, EndReason, tuple[Turn, ...]]] = [
        (1.4, EndReason.ANSWERED, (LOOK, LOOK, ANSWER)),
        (1.0, EndReason.ANSWERED, (ANSWER,)),
        (1.1, EndReason.ANSWERED, (PRINT, ANSWER)),
        (0.0, EndReason.TURN_LIMIT, (LOOK, PRINT)),
        (0.0, EndReason.MALFORMED, (NEITHER, LOOK, NEITHER)),
        (0.0, EndReason.TOKEN_LIMIT, (NEITHER, LOOK)),
        (0.0, EndReason.IMAGE_LIMIT, (LOOK,)),
        (1.4, EndReason.CODE_ERROR, ()),
        (None, EndReason.ANSWERED, (ANSWER,)),
        (None, EndReason.FAILED, ()),
        # Brings the mean of the graded nine to 9.9 / 9 = 1.1.
        (5.0, EndReason.ANSWERED, (LOOK, ANSWER)),
    ]
    members = tuple(
        replace(trajectory("a", i, reward, end), turns=turns)
        for i, (reward, end, turns) in enumerate(rows)
    )
    made = assign(Group(group("a").task, members))
    batch = select([made], SelectionConfig(filters=(name,), **fields))
    assert batch.num_generated == len(rows)
    return {r.trajectory.rollout: r.reason for r in batch.rejected}


@pytest.mark.parametrize(
    ("name", "fields", "gone"),
    [
        ("over_length", {}, {5, 6}),
        ("no_tool_image", {}, {1, 2, 7}),
        ("end_reason", {}, {4, 5, 6}),
        ("end_reason", {"reserve_ends": ("answered",)}, {3, 4, 5, 6, 7}),
        # Malformed shares: 2/3 in 4, 1/2 in 5, none elsewhere.
        ("malformed", {}, {4}),
        ("malformed", {"max_malformed_share": 0.4}, {4, 5}),
        ("malformed", {"max_malformed_share": 0.7}, set()),
        # Mean 1.1: of the correct ones only 1.0 is below it.
        ("correct_negative_advantage", {}, {1}),
        ("zero_std", {}, set()),
    ],
)
def test_each_filter_drops_what_it_says(name: str, fields: dict[str, Any], gone: set[int]) -> None:
    assert dropped(name, **fields) == {8: "ungraded", 9: "infra"} | dict.fromkeys(gone, name)


def test_the_first_configured_filter_gives_the_reason() -> None:
    made = group("a", 1.0, 0.0, 0.0, end=EndReason.TOKEN_LIMIT)
    for names in (("over_length", "no_tool_image"), ("no_tool_image", "over_length")):
        assert select([made], SelectionConfig(filters=names)).dropped == {names[0]: 3}


def test_group_first_judges_the_group_before_trajectories_are_dropped() -> None:
    # Rewards 1, 0, 0 differ; without the one that was cut off, 0 and 0 do not.
    made = group("a", 1.0, 0.0, 0.0)
    cut = replace(made.trajectories[0], end=EndReason.TOKEN_LIMIT)
    made = replace(made, trajectories=(cut, *made.trajectories[1:]))
    assert select([made], SelectionConfig()).dropped == {"over_length": 1, "zero_std": 2}
    batch = select([made], SelectionConfig(filter_order="group_first"))
    assert batch.dropped == {"over_length": 1}
    assert [s.advantage for s in batch.samples] == pytest.approx([-1 / 3, -1 / 3])


def test_group_first_drops_a_group_without_spread_whole() -> None:
    made = group("a", 1.0, 1.0, 1.0)
    cut = replace(made.trajectories[0], end=EndReason.TOKEN_LIMIT)
    made = replace(made, trajectories=(cut, *made.trajectories[1:]))
    config = SelectionConfig(filter_order="group_first")
    assert select([made], config).dropped == {"zero_std": 3}


def test_a_lone_survivor_may_be_kept_with_the_credit_of_the_whole_group() -> None:
    made = group("a", 1.0, 0.0)
    cut = replace(made.trajectories[1], end=EndReason.TOKEN_LIMIT)
    made = replace(made, trajectories=(made.trajectories[0], cut))
    batch = select([made], SelectionConfig(min_survivors=1))
    assert [s.advantage for s in batch.samples] == [0.5]


def test_advantages_are_taken_again_over_the_survivors_on_request() -> None:
    # Whole group: mean 0.5. Survivors 1, 0, 0: mean 1/3.
    made = group("a", 1.0, 1.0, 0.0, 0.0)
    cut = replace(made.trajectories[1], end=EndReason.TOKEN_LIMIT)
    made = replace(made, trajectories=(made.trajectories[0], cut, *made.trajectories[2:]))
    whole = select([made], SelectionConfig())
    assert [s.advantage for s in whole.samples] == [0.5, -0.5, -0.5]
    again = select([made], SelectionConfig(recompute_advantages=True))
    assert [s.advantage for s in again.samples] == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    assert again.rejected[0].advantage == 0.5
    # Mean of the others: 0, 0.5, 0.5.
    others = SelectionConfig(recompute_advantages=True, advantage="leave_one_out")
    assert [s.advantage for s in select([made], others).samples] == pytest.approx([1, -0.5, -0.5])


# Ranking -------------------------------------------------------------------------------------


def shaped(name: str, *rows: tuple[float, float]) -> Group:
    """A group by (accuracy, tool term)."""
    made = group(name, *(1.0 for _ in rows))
    members = tuple(
        replace(t, reward=Reward({"accuracy": a, "tool_use": bonus}, a > 0))
        for t, (a, bonus) in zip(made.trajectories, rows, strict=True)
    )
    return assign(replace(made, trajectories=members, advantages=None))


def test_accuracy_std_ranks_by_accuracy_alone() -> None:
    # a: rewards 1.4, 0, 0, 0, std 0.606; accuracies std 0.433. b: 1, 1, 0, 0, std 0.5 in both.
    groups = [
        shaped("a", (1.0, 0.4), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)),
        shaped("b", (1.0, 0.0), (1.0, 0.0), (0.0, 0.0), (0.0, 0.0)),
    ]
    first = {
        by: select(groups, SelectionConfig(groups_per_step=1, rank_by=by)).samples[0]
        for by in ("reward_std", "accuracy_std")
    }
    assert first["reward_std"].trajectory.task_id == "a"
    assert first["accuracy_std"].trajectory.task_id == "b"


def test_ranking_trajectories_may_split_a_group_as_the_reference_does() -> None:
    # Unbiased std of the unfiltered groups: a (1, 0, 0) 0.577, b (1.2, 0, 0) 0.693, c 0.289. Two
    # groups of three make six trajectories; b lost one to a filter, so that c gives one.
    groups = [group("a", 1, 0, 0), group("b", 1.2, 0, 0), group("c", 0.5, 0, 0)]
    cut = replace(groups[1].trajectories[1], end=EndReason.TOKEN_LIMIT)
    kept = (groups[1].trajectories[0], cut, groups[1].trajectories[2])
    groups[1] = replace(groups[1], trajectories=kept)
    config = SelectionConfig(groups_per_step=2, rank_unit="trajectory")
    assert (num_usable(groups, config), num_wanted(groups, config)) == (8, 6)
    used = [(s.trajectory.task_id, s.trajectory.rollout) for s in select(groups, config).samples]
    assert used == [("b", 0), ("b", 2), ("a", 0), ("a", 1), ("a", 2), ("c", 0)]


def test_trajectories_are_ranked_by_the_std_of_the_unfiltered_group() -> None:
    # a: 1, 0 and a cut 3: std of all three 1.53, of the survivors 0.71. b: 1.5, 0, 0: 0.87.
    a, b = group("a", 1, 0, 3), group("b", 1.5, 0, 0)
    cut = replace(a.trajectories[2], end=EndReason.TOKEN_LIMIT)
    a = replace(a, trajectories=(*a.trajectories[:2], cut))
    for unit, first in (("trajectory", "a"), ("group", "b")):
        batch = select([a, b], SelectionConfig(groups_per_step=1, rank_unit=unit))
        assert batch.samples[0].trajectory.task_id == first


# Carry-over ----------------------------------------------------------------------------------

CARRY = SelectionConfig(groups_per_step=1, carry_over=True)


def names(batch: Batch) -> set[str]:
    return {s.trajectory.task_id for s in batch.samples}


def test_a_group_that_was_ranked_out_is_offered_once_more_and_then_dropped_as_stale() -> None:
    # std: a 0.5, b 0.433 (1 of 4), c 0.5 at reward 1.0 and 0.
    first = select([group("a", 1, 0, 1, 0), group("b", 1, 0, 0, 0)], CARRY, step=5)
    assert names(first) == {"a"}
    assert [(c.group.task.id, c.born) for c in first.carried] == [("b", 5)]
    assert (first.num_generated, first.num_carried_in, first.num_carried_out) == (8, 0, 4)
    second = select([group("c", 1, 0, 1, 0)], CARRY, step=6, carried=first.carried)
    assert names(second) == {"c"}
    assert second.dropped == {"stale": 4}
    assert (second.num_generated, second.num_carried_in, second.carried) == (4, 4, ())


def test_a_carried_group_is_used_when_it_ranks_first() -> None:
    first = select([group("a", 1, 0, 1, 0), group("b", 1, 0, 0, 0)], CARRY, step=1)
    second = select([group("c", 1, 1, 1, 1)], CARRY, step=2, carried=first.carried)
    assert names(second) == {"b"}
    assert second.dropped == {"zero_std": 4}
    assert [s.advantage for s in second.samples] == [0.75, -0.25, -0.25, -0.25]
    assert not any(s.fresh for s in second.samples)
    assert all(s.fresh for s in first.samples)


def test_a_fresh_group_goes_before_a_carried_one_of_the_same_rank() -> None:
    waiting = select([group("a", 1, 0), group("b", 1, 0)], CARRY, step=1).carried
    for rank in ("reward_std", "none"):
        config = CARRY.model_copy(update={"rank_by": rank})
        assert names(select([group("z", 1, 0)], config, step=2, carried=waiting)) == {"z"}


def test_without_carry_over_what_is_ranked_out_is_surplus() -> None:
    batch = select([group("a", 1, 0), group("b", 1, 0)], SelectionConfig(groups_per_step=1))
    assert batch.dropped == {"surplus": 2}
    assert batch.carried == ()


# Properties ----------------------------------------------------------------------------------

_rewards = st.lists(st.sampled_from([None, 0.0, 1.0, 1.1, 1.4]), min_size=1, max_size=5)
_ends = st.sampled_from([EndReason.ANSWERED, EndReason.TOKEN_LIMIT, EndReason.TURN_LIMIT])


_configs = st.builds(
    SelectionConfig,
    groups_per_step=st.integers(1, 4),
    advantage=st.sampled_from(["mean", "mean_std", "leave_one_out", "binary_baseline"]),
    recompute_advantages=st.booleans(),
    filters=st.lists(st.sampled_from([*TRAJECTORY_FILTERS, "zero_std"]), unique=True).map(tuple),
    filter_order=st.sampled_from(["trajectory_first", "group_first"]),
    min_survivors=st.integers(1, 3),
    rank_by=st.sampled_from(["reward_std", "accuracy_std", "none"]),
    rank_unit=st.sampled_from(["group", "trajectory"]),
    carry_over=st.booleans(),
    max_staleness=st.integers(1, 3),
)
_rows = st.lists(st.tuples(_rewards, _ends), max_size=6)


def _made(rows: list[tuple[list[float | None], EndReason]], step: int = 0) -> list[Group]:
    return [group(f"t{step}.{i}", *rewards, end=end) for i, (rewards, end) in enumerate(rows)]


def _trajectories(batch: Batch) -> list[Trajectory]:
    waiting = [t for c in batch.carried for t in c.group.trajectories]
    left = [r.trajectory for r in batch.rejected]
    return [*(s.trajectory for s in batch.samples), *left, *waiting]


@settings(max_examples=200, deadline=None)
@given(st.lists(_rows, min_size=1, max_size=4), _configs)
def test_nothing_is_lost_in_any_step_under_any_options(
    steps: list[list[tuple[list[float | None], EndReason]]], config: SelectionConfig
) -> None:
    carried: tuple[Candidate, ...] = ()
    used: Counter[int] = Counter()
    everything: list[Group] = []
    for step, rows in enumerate(steps, 1):
        groups = _made(rows, step)
        everything += groups
        batch = select(groups, config, step=step, carried=carried)
        offered = [t for g in groups for t in g.trajectories]
        assert batch.num_generated == len(offered)
        offered += [t for c in carried for t in c.group.trajectories]
        assert sorted(map(id, _trajectories(batch))) == sorted(map(id, offered))
        assert sum(batch.dropped.values()) == len(batch.rejected)
        assert all(s.trajectory.reward is not None for s in batch.samples)
        assert all(step + 1 - c.born <= config.max_staleness for c in batch.carried)
        assert config.carry_over or not batch.carried
        used.update(id(s.trajectory) for s in batch.samples)
        carried = batch.carried
    assert max(used.values(), default=1) == 1, "a trajectory was trained on twice"


@given(_rows, _configs, st.randoms(use_true_random=False))
def test_the_order_of_generation_matters_to_nothing_but_an_unranked_cut(
    rows: list[tuple[list[float | None], EndReason]], config: SelectionConfig, random: Any
) -> None:
    groups = _made(rows)
    shuffled = random.sample(groups, len(groups))
    one, other = select(groups, config), select(shuffled, config)
    if config.rank_by != "none":
        assert [id(s.trajectory) for s in one.samples] == [id(s.trajectory) for s in other.samples]
    filtered = [
        {id(r.trajectory): r.reason for r in batch.rejected if r.reason != "surplus"}
        for batch in (one, other)
    ]
    assert filtered[0] == filtered[1]


@given(_rows, _configs.filter(lambda c: c.rank_unit == "group"))
def test_groups_stay_whole_and_as_many_are_used_as_there_are(
    rows: list[tuple[list[float | None], EndReason]], config: SelectionConfig
) -> None:
    groups = _made(rows)
    batch = select(groups, config)
    kept = {s.trajectory.task_id for s in batch.samples}
    assert len(kept) == min(config.groups_per_step, num_usable(groups, config))
    assert not kept & {r.trajectory.task_id for r in batch.rejected if r.reason == "surplus"}
    assert not kept & {c.group.task.id for c in batch.carried}
