"""Filter and rank: from graded groups to the batch of one update (paper section 3.3).

In: every group generated for a step, with advantages, and what earlier steps left over. Out: a
``Batch`` in which each trajectory is used, rejected with a reason, or carried on; nothing is lost.
Never generates. Credit changes only where ``recompute_advantages`` asks for it, at the end: filters
go by the advantages of the whole graded group.

The order: what was not graded, trajectory filters, group filters (or the other way round with
``filter_order``), groups with too few survivors, rank, cut. docs/selection.md explains each option.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from pyvision_rl.advantages import credit
from pyvision_rl.config import SelectionConfig
from pyvision_rl.errors import ConfigError
from pyvision_rl.types import (
    Batch,
    Candidate,
    EndReason,
    Group,
    Malformed,
    Rejected,
    Scored,
    Trajectory,
    population_std,
)

_ZERO_STD = 1e-6
_ALWAYS = ("infra", "ungraded")
"""Applied first, whether configured or not: what was not graded cannot be trained on."""


def _has_tool_image(trajectory: Trajectory) -> bool:
    return any(t.execution is not None and t.execution.images for t in trajectory.turns)


def _malformed_share(trajectory: Trajectory) -> float:
    malformed = sum(isinstance(t.action, Malformed) for t in trajectory.turns)
    return malformed / max(1, len(trajectory.turns))


def _is_correct(trajectory: Trajectory) -> bool:
    return trajectory.reward is not None and trajectory.reward.correct


TRAJECTORY_FILTERS: dict[str, Callable[[Scored, SelectionConfig], bool]] = {
    "infra": lambda s, _: s.trajectory.end is EndReason.FAILED,
    "ungraded": lambda s, _: s.trajectory.reward is None,
    "over_length": lambda s, _: s.trajectory.end in (EndReason.TOKEN_LIMIT, EndReason.IMAGE_LIMIT),
    # The reference's "hasimage": only episodes in which a tool showed a picture are trained on.
    "no_tool_image": lambda s, _: not _has_tool_image(s.trajectory),
    "end_reason": lambda s, config: s.trajectory.end not in config.reserve_ends,
    "malformed": lambda s, config: _malformed_share(s.trajectory) > config.max_malformed_share,
    "correct_negative_advantage": lambda s, _: s.advantage < 0 and _is_correct(s.trajectory),
}
"""Name -> True for a trajectory to drop. The first configured one that does gives the reason."""

GROUP_FILTERS: dict[str, Callable[[float], bool]] = {"zero_std": lambda std: std <= _ZERO_STD}
"""Name -> True for a reward std whose whole group is dropped, if it has more than one member."""

TOO_SMALL = "too_small"
NOT_RANKED = "surplus"
STALE = "stale"
KINDS = ("media:image", "media:video", "category:NAME", "data_source:NAME")
"""What ``max_per_round`` may tell tasks apart by."""


def check_filters(config: SelectionConfig) -> None:
    """Raise ConfigError if a name in the section is unknown or repeated."""
    _check_names("filters", config.filters, [*TRAJECTORY_FILTERS, *GROUP_FILTERS])
    _check_names("reserve_ends", config.reserve_ends, list(EndReason))
    for key in config.max_per_round:
        kind, _, name = key.partition(":")
        if key not in KINDS[:2] and not (f"{kind}:NAME" in KINDS and name):
            raise ConfigError(
                f"selection.max_per_round has the key {key!r}; wants one of {', '.join(KINDS)}"
            )


def _check_names(key: str, names: Sequence[str], known: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if name not in known:
            raise ConfigError(
                f"selection.{key}[{index}] = {name!r}; known {key}: {', '.join(sorted(known))}"
            )
        if name in names[:index]:
            raise ConfigError(f"selection.{key}[{index}] = {name!r} is listed twice")


def num_usable(groups: Sequence[Group], config: SelectionConfig) -> int:
    """Return how many groups (trajectories with that ``rank_unit``) survive the filters."""
    return len(_sift(groups, config, 0)[0])


def num_wanted(groups: Sequence[Group], config: SelectionConfig) -> int:
    """Return how many of them one update uses; a group is as large as the largest generated."""
    if config.rank_unit == "group":
        return config.groups_per_step
    return config.groups_per_step * max((len(g.trajectories) for g in groups), default=1)


def select(
    groups: Sequence[Group],
    config: SelectionConfig,
    *,
    step: int = 1,
    carried: Sequence[Candidate] = (),
) -> Batch:
    """Return the batch of one update.

    Equal ranks are settled by age (fresh first), then task id, then the order of generation.

    Args:
        groups: All groups generated for the step, advantages assigned, in generation order.
        config: Filters, ranking and the number of groups to keep.
        step: Of the update.
        carried: What the batch of the step before carried out.
    """
    fresh, rejected = _sift(groups, config, step)
    offered = [*fresh, *carried]
    if config.rank_by == "none":
        offered.sort(key=lambda c: step - c.born)
    else:
        offered.sort(key=lambda c: (-c.rank, step - c.born, c.group.task.id))
    wanted = num_wanted(groups, config)
    carry: list[Candidate] = []
    for candidate in offered[wanted:]:
        if config.carry_over and step + 1 - candidate.born <= config.max_staleness:
            carry.append(candidate)
        else:
            why = NOT_RANKED if candidate.born == step else STALE
            rejected += [
                Rejected(s.trajectory, why, s.advantage) for s in _members(candidate.group)
            ]
    return Batch(
        samples=tuple(s for c in offered[:wanted] for s in _members(c.group, c.born == step)),
        rejected=tuple(rejected),
        carried=tuple(carry),
        num_carried_in=sum(len(c.group.trajectories) for c in carried),
    )


def _sift(
    groups: Sequence[Group], config: SelectionConfig, step: int
) -> tuple[list[Candidate], list[Rejected]]:
    """Apply the filters: what may be chosen, and what may not."""
    check_filters(config)
    candidates: list[Candidate] = []
    rejected: list[Rejected] = []
    for group in groups:
        graded = _thin(_members(group), _ALWAYS, config, rejected)
        survivors = _survivors(graded, config, rejected)
        if not survivors:
            continue
        ranked = survivors if config.rank_unit == "group" else graded
        rank = _spread(ranked, config)
        if config.recompute_advantages:
            survivors = _again(survivors, config)
        units = [survivors] if config.rank_unit == "group" else [(s,) for s in survivors]
        candidates += [Candidate(_group(group, unit), rank, step) for unit in units]
    return candidates, rejected


def _survivors(
    graded: tuple[Scored, ...], config: SelectionConfig, rejected: list[Rejected]
) -> tuple[Scored, ...]:
    """Apply the configured filters to the graded members of a group."""
    by_trajectory = [f for f in config.filters if f in TRAJECTORY_FILTERS]
    members = graded
    if config.filter_order == "group_first":
        members = _whole(members, config, rejected)
    members = _thin(members, by_trajectory, config, rejected)
    if config.filter_order == "trajectory_first":
        members = _whole(members, config, rejected)
    if len(members) < config.min_survivors:
        return _reject(members, TOO_SMALL, rejected)
    return members


def _thin(
    members: tuple[Scored, ...],
    filters: Iterable[str],
    config: SelectionConfig,
    rejected: list[Rejected],
) -> tuple[Scored, ...]:
    kept: list[Scored] = []
    for member in members:
        why = next((f for f in filters if TRAJECTORY_FILTERS[f](member, config)), None)
        if why is None:
            kept.append(member)
        else:
            rejected.append(Rejected(member.trajectory, why, member.advantage))
    return tuple(kept)


def _whole(
    members: tuple[Scored, ...], config: SelectionConfig, rejected: list[Rejected]
) -> tuple[Scored, ...]:
    """Keep all members or none."""
    std = population_std(_rewards(members))
    for name in config.filters:
        if name in GROUP_FILTERS and len(members) > 1 and GROUP_FILTERS[name](std):
            return _reject(members, name, rejected)
    return members


def _reject(members: tuple[Scored, ...], why: str, rejected: list[Rejected]) -> tuple[Scored, ...]:
    rejected += [Rejected(m.trajectory, why, m.advantage) for m in members]
    return ()


def _spread(members: tuple[Scored, ...], config: SelectionConfig) -> float:
    """Return what a group is ranked by; for single trajectories the reference's unbiased std."""
    values = _rewards(members)
    if config.rank_by == "accuracy_std":
        values = tuple(
            m.trajectory.reward.parts["accuracy"] for m in members if m.trajectory.reward
        )
    size = len(values)
    bias = math.sqrt(size / (size - 1)) if config.rank_unit == "trajectory" and size > 1 else 1.0
    return population_std(values) * bias


def _rewards(members: tuple[Scored, ...]) -> tuple[float, ...]:
    return tuple(m.trajectory.reward.total for m in members if m.trajectory.reward is not None)


def _again(members: tuple[Scored, ...], config: SelectionConfig) -> tuple[Scored, ...]:
    advantages = credit(_rewards(members), config.advantage)
    return tuple(replace(m, advantage=a) for m, a in zip(members, advantages, strict=True))


def _members(group: Group, fresh: bool = True) -> tuple[Scored, ...]:
    if group.advantages is None:
        raise ValueError(f"group of task {group.task.id!r} has no advantages")
    pairs = zip(group.trajectories, group.advantages, strict=True)
    return tuple(Scored(trajectory, advantage, fresh) for trajectory, advantage in pairs)


def _group(group: Group, members: tuple[Scored, ...]) -> Group:
    return Group(
        group.task,
        tuple(m.trajectory for m in members),
        tuple(m.advantage for m in members),
    )
