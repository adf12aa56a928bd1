"""From a finished trajectory to a graded one: accuracy, and what its tool calls were worth.

In: a task and its trajectory. Out: a copy of the trajectory with its ``Reward``::

    R = R_acc + tool_use_per_call * num_tool_calls * [R_acc is correct]        (paper eq. 1)

A call counts when its code ran without an error. Episodes that our machinery failed are not
graded; a grader that fails leaves its trajectory ungraded. Neither is a zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from pyvision_rl.config import RewardsConfig
from pyvision_rl.errors import RewardError
from pyvision_rl.registry import resolve
from pyvision_rl.rewards.base import Grade, Grader, Served
from pyvision_rl.types import EndReason, Reward, Task, Trajectory

TABLE: dict[str, str] = {
    "match": "pyvision_rl.rewards.match:MatchGrader",
    "relative_accuracy": "pyvision_rl.rewards.relative_accuracy:RelativeAccuracyGrader",
    "judge": "pyvision_rl.rewards.judge:JudgeGrader",
    "route": "pyvision_rl.rewards.route:RouteGrader",
}
"""Short name -> ``module:Class`` of a ``Grader``; built with a ``RewardsConfig``."""


class Rewarder:
    """Adds the tool term to the grades of one grader."""

    def __init__(self, grader: Grader, tool_use_per_call: float) -> None:
        """Take the accuracy grader and the worth of one successful call."""
        self._grader = grader
        self._tool_use_per_call = tool_use_per_call

    async def grade(self, task: Task, trajectory: Trajectory) -> Trajectory:
        """Return the trajectory with its reward; a failed one as it is.

        A grader's ``RewardError`` gives ``reward=None`` and the reason in ``error``.
        """
        if trajectory.end is EndReason.FAILED:
            return trajectory
        try:
            grade = _checked(await self._grader(task, trajectory))
        except RewardError as error:
            return replace(trajectory, reward=None, error=f"grading failed: {error}")
        calls = trajectory.num_tool_calls if grade.correct else 0
        parts = {"accuracy": grade.score, "tool_use": self._tool_use_per_call * calls}
        return replace(trajectory, reward=Reward(parts, grade.correct, grade.why), error="")

    def check(self, sources: Callable[[], frozenset[str]]) -> None:
        """Raise ConfigError if the grader is not ready for tasks of these data sources."""
        if isinstance(self._grader, Served):
            self._grader.check(sources)

    def stats(self) -> dict[str, float]:
        """Return what the grader counted so far, by metric name."""
        return self._grader.stats() if isinstance(self._grader, Served) else {}

    async def close(self) -> None:
        """Free what the grader holds. Idempotent."""
        if isinstance(self._grader, Served):
            await self._grader.close()


def build_rewarder(config: RewardsConfig) -> Rewarder:
    """Return the rewarder that ``[rewards]`` describes.

    Raises:
        ConfigError: The grader is unknown, or its options are wrong.
    """
    grader: Grader = resolve(config.name, TABLE, "rewards.name")(config)
    return Rewarder(grader, config.tool_use_per_call)


def _checked(grade: Grade) -> Grade:
    """The grade, if its score is one: a NaN would spoil every trajectory of the group."""
    if not (math.isfinite(grade.score) and 0 <= grade.score <= 1):
        raise RewardError(f"score is {grade.score}, wants a number from 0 to 1")
    return grade
