"""From a finished trajectory to a graded one: accuracy, and what its tool calls were worth.

In: a task and its trajectory. Out: a copy of the trajectory with its ``Reward``::

    R = R_acc + tool_use_per_call * paid calls * [R_acc is correct]        (paper eq. 1)

By default a call is paid when its code ran without an error; ``[rewards]`` has other rules, and
``terms`` that are added later, when the whole group is graded (see ``terms``). Episodes that our
machinery failed are not graded; a grader that fails leaves its trajectory ungraded. Neither is a
zero.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Callable
from dataclasses import replace

from pyvision_rl.config import RewardsConfig
from pyvision_rl.errors import RewardError
from pyvision_rl.registry import resolve
from pyvision_rl.rewards.base import Grade, Grader, Served
from pyvision_rl.types import EndReason, ExecStatus, Group, Reward, RunCode, Task, Trajectory

TABLE: dict[str, str] = {
    "match": "pyvision_rl.rewards.match:MatchGrader",
    "relative_accuracy": "pyvision_rl.rewards.relative_accuracy:RelativeAccuracyGrader",
    "judge": "pyvision_rl.rewards.judge:JudgeGrader",
    "ladder": "pyvision_rl.rewards.ladder:LadderGrader",
    "route": "pyvision_rl.rewards.route:RouteGrader",
    "suite": "pyvision_rl.suites.grading:SuiteGrader",
}
"""Short name -> ``module:Class`` of a ``Grader``; built with a ``RewardsConfig``."""


_MAX_PARSED = 20_000
"""Characters."""


class Rewarder:
    """Adds the tool term to the grades of one grader."""

    def __init__(self, grader: Grader, config: RewardsConfig) -> None:
        """Take the accuracy grader, and the section that says which calls are worth what."""
        self._grader = grader
        self._config = config

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
        calls = num_paid_calls(trajectory, self._config) if _pays(grade, self._config) else 0
        parts = {"accuracy": grade.score, "tool_use": self._config.tool_use_per_call * calls}
        reward = Reward(parts, grade.correct, grade.why, grade.rung)
        return replace(trajectory, reward=reward, error="")

    def check(self, sources: Callable[[], frozenset[str]]) -> None:
        """Raise ConfigError if the grader is not ready for tasks of these data sources."""
        if isinstance(self._grader, Served):
            self._grader.check(sources)

    def stats(self) -> dict[str, float]:
        """Return what the grader counted so far, by metric name."""
        return dict(self._grader.stats()) if isinstance(self._grader, Served) else {}

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
    return Rewarder(grader, config)


def build_terms(config: RewardsConfig) -> Callable[[Group], Group] | None:
    """Return what adds the further terms of the reward to a graded group, if there are any.

    Raises:
        ConfigError: A term is unknown, or its options are wrong.
    """
    if not config.terms:
        return None
    from pyvision_rl.rewards.terms import GroupTerms

    return GroupTerms(config.terms)


def num_paid_calls(trajectory: Trajectory, config: RewardsConfig) -> int:
    """Return how many calls of an episode are worth something, if any are."""
    ran = [
        (t.action.code, t.execution)
        for t in trajectory.turns
        if isinstance(t.action, RunCode) and t.execution and t.execution.status is ExecStatus.OK
    ]
    match config.paid_calls:
        case "ok":
            calls = trajectory.num_tool_calls
        case "executed":
            calls = trajectory.num_executions
        case "showed_image":
            calls = sum(bool(execution.images) for _, execution in ran)
        case "distinct":
            calls = len({code_shape(code) for code, _ in ran})
    return calls if config.max_paid_calls is None else min(calls, config.max_paid_calls)


def _pays(grade: Grade, config: RewardsConfig) -> bool:
    match config.paid_when:
        case "correct":
            return grade.correct
        case "threshold":
            return grade.score >= config.paid_threshold
        case "always":
            return True


def code_shape(code: str) -> str:
    """Return code without comments and layout; the text itself where it cannot be parsed."""
    # It ran, so another process parsed it before and lived; the cap is for parsers that differ.
    if len(code) > _MAX_PARSED:
        return code.strip()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.dump(ast.parse(code))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code.strip()


def _checked(grade: Grade) -> Grade:
    """The grade in Python's own types, if its score is one: a NaN would spoil its whole group."""
    if not (math.isfinite(grade.score) and 0 <= grade.score <= 1):
        raise RewardError(f"score is {grade.score}, wants a number from 0 to 1")
    return replace(grade, score=float(grade.score), correct=bool(grade.correct))
