"""Episodes that were run before, graded again.

In: ``[rewards]`` and saved episodes. Out: the same episodes with another grade, or with none and
the reason. Runs no model and writes nothing; failed episodes stay failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from pyvision_rl.config import RewardsConfig
from pyvision_rl.evaluation.items import is_failed
from pyvision_rl.rewards import build_rewarder, build_terms
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.types import Group, Trajectory

_TOGETHER = 512
"""Grades under way at the same time; a judge bounds its own requests."""


class Grading:
    """A grader in an event loop of its own; a context manager."""

    def __init__(self, config: RewardsConfig) -> None:
        """Make the grader.

        Raises:
            ConfigError: It is unknown, its options are wrong, or its judge has no key.
        """
        self._rewarder = build_rewarder(config)
        self.add_terms = build_terms(config)
        self._rewarder.check(lambda: frozenset())
        self._runner = asyncio.Runner()

    def grade(self, saved: Sequence[SavedRollout]) -> list[SavedRollout]:
        """Return the episodes with new grades, without the terms that want the whole group."""
        done: list[SavedRollout] = []
        for start in range(0, len(saved), _TOGETHER):
            done += self._runner.run(self._grade(saved[start : start + _TOGETHER]))
        return done

    def stats(self) -> dict[str, float]:
        """Return what the grader counted, by metric name."""
        return self._rewarder.stats()

    def __enter__(self) -> Self:
        """Return the grader."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        try:
            self._runner.run(self._rewarder.close())
        finally:
            self._runner.close()

    async def _grade(self, saved: Sequence[SavedRollout]) -> list[SavedRollout]:
        return list(await asyncio.gather(*(self._again(s) for s in saved)))

    async def _again(self, saved: SavedRollout) -> SavedRollout:
        if is_failed(saved):
            return saved
        bare: Trajectory = replace(saved.trajectory, reward=None, error="")
        return replace(saved, trajectory=await self._rewarder.grade(saved.task, bare))


def groups_of(saved: Sequence[SavedRollout]) -> list[Group]:
    """Return the episodes as groups: those of one task that stand side by side."""
    groups: list[Group] = []
    for record in saved:
        if groups and groups[-1].task == record.task:
            members = (*groups[-1].trajectories, record.trajectory)
            groups[-1] = replace(groups[-1], trajectories=members)
        else:
            groups.append(Group(record.task, (record.trajectory,)))
    return groups
