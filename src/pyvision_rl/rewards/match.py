"""The rule-based accuracy grader: right or wrong by ``answers`` and ``choices``, no model asked.

In: a task and a trajectory, of which only the final answer is read. Out: a ``Grade`` of 0 or 1.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from pyvision_rl.config import RewardsConfig
from pyvision_rl.registry import parse_options
from pyvision_rl.rewards.answers import ABS_TOL, REL_TOL, match
from pyvision_rl.rewards.base import Grade
from pyvision_rl.types import Task, Trajectory


class Options(BaseModel):
    """The options of ``[rewards] name = "match"``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rel_tol: float = Field(REL_TOL, ge=0)
    """Allowed distance of floats, as a share of the reference."""
    abs_tol: float = Field(ABS_TOL, ge=0)
    """Allowed distance of floats near 0."""
    option_text: bool = True
    """An option that the question lists may be named by what it says instead of its letter."""


class MatchGrader:
    """Grades by typed comparison with the reference answer."""

    def __init__(self, config: RewardsConfig) -> None:
        """Check the options.

        Raises:
            ConfigError: An option is unknown or out of range.
        """
        self._options = parse_options(Options, config.options, "rewards.options")

    async def __call__(self, task: Task, trajectory: Trajectory) -> Grade:
        """Return 1 for an answer equal to the reference, else 0."""
        if trajectory.answer is None:
            return Grade(0.0, False, "no answer", "rule")
        gold = task.gold
        found = match(
            trajectory.answer,
            gold.answer,
            gold.answer_type,
            rel_tol=self._options.rel_tol,
            abs_tol=self._options.abs_tol,
        )
        if not found.correct and self._options.option_text:
            from pyvision_rl.rewards.choices import same_choice

            if same_choice(trajectory.answer, gold.answer, task.input.question):
                return Grade(1.0, True, "same choice", "rule")
        return Grade(float(found.correct), found.correct, found.why, "rule")
