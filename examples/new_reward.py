"""Your own accuracy grader: a class that gives each answer a ``Grade``, named in the config.

``python examples/new_reward.py`` grades a few answers to one task. The tool term is not a grader's
business: it is added to the score of correct answers, as for every grader.
"""

from __future__ import annotations

import asyncio
import tomllib

from pydantic import BaseModel, Field

from pyvision_rl.config import Config, RewardsConfig
from pyvision_rl.errors import RewardError
from pyvision_rl.registry import parse_options
from pyvision_rl.rewards import build_rewarder
from pyvision_rl.rewards.base import Grade
from pyvision_rl.types import EndReason, Gold, Task, TaskInput, Trajectory

CONFIG = 'rewards = { name = "new_reward:CloseEnough", options = { zero_at = 0.5 } }'


class Options(BaseModel, extra="forbid"):
    """What ``[rewards.options]`` may hold."""

    zero_at: float = Field(0.2, gt=0)


class CloseEnough:
    """1 for the right number, falling to 0 at a relative error of ``zero_at``."""

    def __init__(self, config: RewardsConfig) -> None:
        self.zero_at = parse_options(Options, config.options, "rewards.options").zero_at

    async def __call__(self, task: Task, trajectory: Trajectory) -> Grade:
        """Return the grade; a reference that is no number leaves the trajectory ungraded."""
        try:
            gold = float(task.gold.answer)
        except ValueError as error:
            raise RewardError(f"reference {task.gold.answer!r} is no number") from error
        try:
            error = abs(float(trajectory.answer or "") - gold) / max(abs(gold), 1e-9)
        except ValueError:
            return Grade(0.0, False, "no number")
        if not error < self.zero_at:  # "nan" is a number to float(), and must end here too
            return Grade(0.0, False, "too far off")
        return Grade(1.0 - error / self.zero_at, error == 0.0, f"off by {error:.0%}")


if __name__ == "__main__":
    rewarder = build_rewarder(Config.model_validate(tomllib.loads(CONFIG)).rewards)
    for reference, answer in (("8", "8"), ("8", "7"), ("8", "nan"), ("8", None), ("many", "8")):
        task = Task(TaskInput("t", "How many?"), Gold(reference))
        end = EndReason.MALFORMED if answer is None else EndReason.ANSWERED
        graded = asyncio.run(rewarder.grade(task, Trajectory("t", 0, (), (), (), end, answer)))
        print(f"reference {reference}, answer {answer}: {graded.reward or graded.error}")
