"""Oversample, filter, rank: from graded groups to the batch of one update (paper section 3.3).

In: every group generated for a step, with advantages. Out: a ``Batch`` in which each trajectory is
either used or rejected with a reason; nothing is lost. Never generates and never changes credit:
advantages stay those of the whole graded group.

The order is fixed: trajectory filters as configured, groups with fewer than two survivors, group
filters, then whole groups by reward std (descending, ties by task id).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyvision_rl.config import SelectionConfig
from pyvision_rl.errors import ConfigError
from pyvision_rl.types import (
    Batch,
    EndReason,
    Group,
    Rejected,
    Scored,
    Trajectory,
    population_std,
)

_ZERO_STD = 1e-6
_ALWAYS = ("infra", "ungraded")
"""Applied whether configured or not: what was not graded cannot be trained on."""


def _has_tool_image(trajectory: Trajectory) -> bool:
    return any(t.execution is not None and t.execution.images for t in trajectory.turns)


TRAJECTORY_FILTERS: dict[str, Callable[[Trajectory], bool]] = {
    "infra": lambda t: t.end is EndReason.FAILED,
    "ungraded": lambda t: t.end is not EndReason.FAILED and t.reward is None,
    "over_length": lambda t: t.end in (EndReason.TOKEN_LIMIT, EndReason.IMAGE_LIMIT),
    # The reference's "hasimage": only episodes in which a tool showed a picture are trained on.
    "no_tool_image": lambda t: not _has_tool_image(t),
}
"""Name -> True for a trajectory to drop."""

GROUP_FILTERS: dict[str, Callable[[float], bool]] = {"zero_std": lambda std: std <= _ZERO_STD}
"""Name -> True for a reward std whose whole group is dropped."""

TOO_SMALL = "too_small"
NOT_RANKED = "surplus"


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A group after the trajectory filters."""

    task_id: str
    order: int
    survivors: tuple[Scored, ...]
    std: float


def check_filters(config: SelectionConfig) -> None:
    """Raise ConfigError if a configured filter is unknown or repeated."""
    known = [*TRAJECTORY_FILTERS, *GROUP_FILTERS]
    for index, name in enumerate(config.filters):
        if name not in known:
            raise ConfigError(
                f"selection.filters[{index}] = {name!r}; known filters: {', '.join(sorted(known))}"
            )
        if name in config.filters[:index]:
            raise ConfigError(f"selection.filters[{index}] = {name!r} is listed twice")


def num_usable(groups: Sequence[Group], config: SelectionConfig) -> int:
    """Return how many groups survive the filters (before ranking)."""
    return len(_filter(groups, config)[0])


def select(groups: Sequence[Group], config: SelectionConfig) -> Batch:
    """Return the batch of one update, whole groups only.

    Args:
        groups: All groups generated for the step, advantages assigned, in generation order.
        config: Filters, ranking and the number of groups to keep.
    """
    candidates, rejected = _filter(groups, config)
    if config.rank_by == "reward_std":
        candidates.sort(key=lambda c: (-c.std, c.task_id, c.order))
    kept, surplus = candidates[: config.groups_per_step], candidates[config.groups_per_step :]
    rejected += [
        Rejected(s.trajectory, NOT_RANKED, s.advantage) for c in surplus for s in c.survivors
    ]
    samples = tuple(s for c in kept for s in c.survivors)
    return Batch(samples, tuple(rejected))


def _filter(
    groups: Sequence[Group], config: SelectionConfig
) -> tuple[list[_Candidate], list[Rejected]]:
    check_filters(config)
    chosen = [f for f in config.filters if f in TRAJECTORY_FILTERS and f not in _ALWAYS]
    by_trajectory = [*_ALWAYS, *chosen]
    by_group = [f for f in config.filters if f in GROUP_FILTERS]
    candidates: list[_Candidate] = []
    rejected: list[Rejected] = []
    for order, group in enumerate(groups):
        if group.advantages is None:
            raise ValueError(f"group of task {group.task.id!r} has no advantages")
        survivors: list[Scored] = []
        for trajectory, advantage in zip(group.trajectories, group.advantages, strict=True):
            why = next((f for f in by_trajectory if TRAJECTORY_FILTERS[f](trajectory)), None)
            if why is None:
                survivors.append(Scored(trajectory, advantage))
            else:
                rejected.append(Rejected(trajectory, why, advantage))
        std = population_std(
            tuple(s.trajectory.reward.total for s in survivors if s.trajectory.reward is not None)
        )
        why = TOO_SMALL if len(survivors) < 2 else None
        why = why or next((f for f in by_group if GROUP_FILTERS[f](std)), None)
        if why is None:
            candidates.append(_Candidate(group.task.id, order, tuple(survivors), std))
        else:
            rejected += [Rejected(s.trajectory, why, s.advantage) for s in survivors]
    return candidates, rejected
