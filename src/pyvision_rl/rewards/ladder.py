"""The grading ladder: rules, then math-verify, then a judge; each is asked what those before left.

In: a task and a trajectory, of which the final answer is read, and whether its last turn boxes
several things. Out: a ``Grade`` that names the rung that decided, and why. Rules decide what both
sides can be read for in the reference's type; math-verify sees numbers and expressions only, never
letters or words; the judge sees what is left, if ``[rewards.judge]`` names one. What nobody decides
is wrong, as by ``match``, or ungraded. A rung that fails raises ``RewardError``: never a zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from pyvision_rl.config import RewardsConfig
from pyvision_rl.errors import RewardError
from pyvision_rl.registry import parse_options
from pyvision_rl.rewards.base import Grade
from pyvision_rl.rewards.expressions import pairs_of
from pyvision_rl.rewards.judge import Judge, JudgeGrader
from pyvision_rl.rewards.maths import (
    CPU_S,
    MEMORY_MB,
    PROCESSES,
    Maths,
    Outcome,
    has_math_verify,
    require_math_verify,
)
from pyvision_rl.rewards.ruling import Rules, Ruling, ruling
from pyvision_rl.types import Task, Trajectory

_ASKED_FOR = ("auto", "integer", "float")
"""Answer types that may be expressions; the others are compared as what they are."""
_WHY = {
    Outcome.UNEQUAL: "unequal numbers",
    Outcome.UNPROVED: "not shown to be equal",
    Outcome.UNREADABLE: "answer cannot be read as an expression",
    Outcome.UNREADABLE_GOLD: "reference cannot be read as an expression",
    Outcome.OVER_LIMIT: "answer is over the limits of math-verify",
    Outcome.OVER_LIMIT_GOLD: "reference is over the limits of math-verify",
}


class Options(Rules):
    """The options of ``[rewards] name = "ladder"``."""

    maths: Literal["on", "off", "auto"] = "on"
    """Whether math-verify compares numbers and expressions (extra ``grading``); auto: if it is
    installed, so that grades depend on the machine."""
    maths_cpu_s: float = Field(CPU_S, gt=0, le=600)
    """CPU time that one pair of expressions may cost."""
    maths_memory_mb: int = Field(MEMORY_MB, ge=256)
    """Address space of a process that compares."""
    maths_processes: int = Field(PROCESSES, ge=1, le=64)
    """Started when they are first needed, and kept."""
    judge: Literal["on", "off", "auto"] = "auto"
    """Whether ``[rewards.judge]`` is asked what is still undecided; auto: if it names a server."""
    domain: str = "general"
    """Of the judge; see the grader ``judge``."""
    undecided: Literal["wrong", "ungraded"] = "wrong"
    """What an answer is that no rung decided, where no judge is asked."""


class LadderGrader:
    """Grades by the first rung that knows."""

    def __init__(self, config: RewardsConfig, judge: Judge | None = None) -> None:
        """Check the options; starts no process.

        Args:
            config: Its ``judge`` section names the server, if there is one.
            judge: The judge to share; None makes one where it is wanted.

        Raises:
            ConfigError: An option is unknown or out of range, math-verify is wanted and not
                installed, or a judge is wanted and not named.
        """
        self._options = parse_options(Options, config.options, "rewards.options")
        wanted = self._options.maths
        if wanted == "on":
            require_math_verify('rewards.name = "ladder"')
        self._maths: Maths | None = None
        if wanted == "on" or (wanted == "auto" and has_math_verify()):
            self._maths = Maths(
                cpu_s=self._options.maths_cpu_s,
                memory_mb=self._options.maths_memory_mb,
                processes=self._options.maths_processes,
            )
        self.judge: JudgeGrader | None = None
        if _asks(self._options, config):
            own = config.model_copy(update={"options": {"domain": self._options.domain}})
            self.judge = JudgeGrader(own, judge)
        self._counts: Counter[str] = Counter()

    async def __call__(self, task: Task, trajectory: Trajectory) -> Grade:
        """Return the grade of the first rung that knows.

        Raises:
            RewardError: The judge gave no verdict, math-verify's process could not be run, the
                reference is over its limits, or nobody decided and ``undecided`` says that this
                is no grade.
        """
        found = self.rule(task, trajectory)
        if found.right is not None:
            score = float(found.right) if found.score is None else found.score
            return self._decided(Grade(score, found.right, found.why, "rule"))
        reason = found.why
        outcome = await self.compare(task, trajectory)
        if outcome is not None:
            if outcome is Outcome.EQUAL:
                return self._decided(Grade(1.0, True, "equal expressions", "maths"))
            reason = _WHY[outcome]
            if outcome is Outcome.UNEQUAL:
                return self._decided(Grade(0.0, False, reason, "maths"))
        if self.judge is not None and trajectory.answer is not None:
            # Not by way of the judge's own rules: these rungs have options of their own.
            return self._decided(await self.judge.judged(task, trajectory.answer))
        self._counts["undecided"] += 1
        # A reference that cannot be computed is no fault of the answer.
        ours = outcome is Outcome.OVER_LIMIT_GOLD
        if ours or self._options.undecided == "ungraded":
            raise RewardError(f"no rung decided: {reason}")
        return Grade(0.0, False, f"undecided: {reason}", "rule")

    def rule(self, task: Task, trajectory: Trajectory) -> Ruling:
        """Return what the first rung says."""
        return ruling(task, trajectory, self._options)

    async def compare(self, task: Task, trajectory: Trajectory) -> Outcome | None:
        """Return what math-verify says; None where it is not to be asked.

        Of a list it is what the first member that is not equal came to.

        Raises:
            RewardError: Its process could not be run.
        """
        gold = task.gold
        if self._maths is None or trajectory.answer is None or gold.answer_type not in _ASKED_FOR:
            return None
        outcome = None
        for theirs, mine in pairs_of(trajectory.answer, gold.answer):
            same = theirs == mine
            outcome = Outcome.EQUAL if same else await self._maths.compare(theirs, mine)
            if outcome is not Outcome.EQUAL:
                break
        return outcome

    def check(self, sources: Callable[[], frozenset[str]]) -> None:
        """Raise ConfigError if the judge's key is not there; any data source will do."""
        if self.judge is not None:
            self.judge.check(sources)

    def stats(self) -> dict[str, float]:
        """Return how many answers each rung decided, and the numbers of math-verify and judge."""
        rungs = ("rule", "maths", "judge", "undecided")
        numbers = {f"ladder_{rung}": float(self._counts[rung]) for rung in rungs}
        if self._maths is not None:
            numbers |= {f"maths_{name}": value for name, value in self._maths.stats().items()}
        return numbers | ({} if self.judge is None else self.judge.stats())

    async def close(self) -> None:
        """End the processes and close the judge. Idempotent."""
        if self._maths is not None:
            self._maths.close()
        if self.judge is not None:
            await self.judge.close()

    def _decided(self, grade: Grade) -> Grade:
        self._counts[grade.rung] += 1
        return grade


def asks_judge(config: RewardsConfig) -> bool:
    """Return whether a ladder of this config asks a judge.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    return _asks(parse_options(Options, config.options, "rewards.options"), config)


def _asks(options: Options, config: RewardsConfig) -> bool:
    named = bool(config.judge.url or config.judge.model)
    return options.judge == "on" or (options.judge == "auto" and named)
