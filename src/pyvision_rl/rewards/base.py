"""The reward contract: from a task (with its gold) and a trajectory to a grade.

In: a finished trajectory. Out: a ``Grade`` of its answer. The tool term is added by ``rewards``
itself and is no grader's business. A grader that fails raises ``RewardError``: the trajectory
stays ungraded, which is not a zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pyvision_rl.types import Task, Trajectory


@dataclass(frozen=True, slots=True)
class Grade:
    """How good an answer is, and how that was decided."""

    score: float
    """In [0, 1]."""
    correct: bool
    why: str = ""


class Grader(Protocol):
    """Grades the final answer of one trajectory."""

    async def __call__(self, task: Task, trajectory: Trajectory) -> Grade:
        """Return the grade; an episode without an answer scores 0.

        Raises:
            RewardError: The grader itself failed.
        """
        ...


@runtime_checkable
class Served(Protocol):
    """A grader that needs more than its arguments, such as a server. Optional; all or nothing."""

    def check(self, sources: Callable[[], frozenset[str]]) -> None:
        """Check, before anything is loaded, that tasks of these data sources can be graded.

        Raises:
            ConfigError: They cannot.
        """
        ...

    def stats(self) -> dict[str, float]:
        """Return what was counted so far, by metric name."""
        ...

    async def close(self) -> None:
        """Free what is held. Idempotent."""
        ...
