"""The reward contracts: from a task (with its gold) and a trajectory to a grade, and more terms.

In: a finished trajectory. Out: a ``Grade`` of its answer. The tool term is added by ``rewards``
itself and is no grader's business. A ``Term`` adds a number to the reward of each graded member of
a group. What fails raises ``RewardError``: the trajectories stay ungraded, which is not a zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    rung: str = ""
    """What decided it: rule, maths, judge, ``suite:<protocol>``."""


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


class Term(Protocol):
    """One more term of the reward; built with the options of its table in ``rewards.terms``."""

    def __call__(self, trajectories: Sequence[Trajectory]) -> Sequence[float]:
        """Return one finite number for each graded member of one group.

        Raises:
            RewardError: The term itself failed; the group stays ungraded.
        """
        ...
