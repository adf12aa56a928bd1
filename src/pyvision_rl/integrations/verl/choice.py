"""Our selection over what verl's queue holds: which trajectories a step trains on.

In: the summaries of every trajectory of a step, by verl's prompt id and rollout. Out: the keys that
stay in the queue, what became of each trajectory, and the numbers of the step. The rules are those
of ``selection``, on the same records; here they are only carried over to verl's keys.

verl takes the baseline of a group from what stays. So a graded member that a trajectory filter left
out stays too, without gradient: the agent loop masked its tokens. What was not graded goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pyvision_rl.advantages import assign
from pyvision_rl.config import Config, SelectionConfig
from pyvision_rl.integrations.verl.journal import Fate
from pyvision_rl.metrics import rollout_metrics, selection_metrics
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.selection import TRAJECTORY_FILTERS, num_usable, select
from pyvision_rl.types import Group, Scored, Trajectory

NEVER = ("infra", "ungraded")
"""Filters whose trajectories may not move a baseline."""
_NOT_CARRIED = ("sampled_tokens", "images")
"""Numbers that a summary has nothing to count for."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What one step uses."""

    prompts: tuple[str, ...]
    """Prompt ids of the groups that are used, best first."""
    keys: frozenset[tuple[str, int]]
    """(prompt id, rollout) of what stays in the queue, masked members included."""
    fates: Mapping[tuple[str, int], Fate]
    numbers: Mapping[str, float]


def masked_by(trajectory: Trajectory, config: SelectionConfig) -> str | None:
    """Return the configured filter that leaves a trajectory without gradient; None if none does."""
    scored = Scored(trajectory, 0.0)
    names = (*NEVER, *(f for f in config.filters if f in TRAJECTORY_FILTERS))
    return next((name for name in names if TRAJECTORY_FILTERS[name](scored, config)), None)


def usable(found: Mapping[str, Mapping[int, SavedRollout]], config: Config) -> int:
    """Return how many groups survive the filters."""
    return num_usable([g for _, g in _groups(found, config)], config.selection)


def choose(found: Mapping[str, Mapping[int, SavedRollout]], config: Config, step: int) -> Choice:
    """Return the choice of a step.

    Args:
        found: Prompt id -> rollout -> what was made of it, in the order of generation.
        config: The whole config.
        step: Counted from 1.
    """
    named = _groups(found, config)
    groups = [group for _, group in named]
    batch = select(groups, config.selection, step=step)
    places = {id(t): (name, t.rollout) for name, g in named for t in g.trajectories}
    fates = {places[id(s.trajectory)]: Fate(s.advantage, None) for s in batch.samples}
    prompts = tuple(dict.fromkeys(name for name, _ in fates))
    keys = set(fates)
    for rejected in batch.rejected:
        place = places[id(rejected.trajectory)]
        fates[place] = Fate(rejected.advantage, rejected.reason)
        graded = rejected.reason in TRAJECTORY_FILTERS and rejected.reason not in NEVER
        if graded and place[0] in prompts and not config.selection.recompute_advantages:
            keys.add(place)
    numbers = rollout_metrics(groups) | selection_metrics(groups, batch)
    numbers = {name: value for name, value in numbers.items() if name not in _NOT_CARRIED}
    return Choice(prompts, frozenset(keys), fates, numbers)


def all_groups(found: Mapping[str, Mapping[int, SavedRollout]]) -> list[Group]:
    """Return what was found as groups, without advantages."""
    return [_group(members.values()) for members in found.values() if members]


def _groups(
    found: Mapping[str, Mapping[int, SavedRollout]], config: Config
) -> list[tuple[str, Group]]:
    kind = config.selection.advantage
    return [(name, assign(_group(m.values()), kind)) for name, m in found.items() if m]


def _group(members: Iterable[SavedRollout]) -> Group:
    saved = sorted(members, key=lambda s: s.trajectory.rollout)
    return Group(saved[0].task, tuple(s.trajectory for s in saved))
