"""A benchmark's scorer as a grader: ``[rewards] name = "suite"``.

In: a task of the suite and a trajectory. Out: the ``Grade`` of the protocol's rules. What they
leave undecided goes to the judge of ``[rewards.judge]`` if one is named there, by our own protocols
up the whole ladder before; else it stays ungraded, with the reason. Reads no file: what scoring
needs is in the task's facts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pyvision_rl.config import RewardsConfig
from pyvision_rl.errors import ConfigError, RewardError
from pyvision_rl.registry import parse_options
from pyvision_rl.rewards.base import Grade
from pyvision_rl.rewards.judge import Judge, JudgeGrader
from pyvision_rl.rewards.ladder import LadderGrader
from pyvision_rl.suites.base import Undecided, final_of
from pyvision_rl.suites.task_set import Options, chosen
from pyvision_rl.types import Task, Trajectory

_OURS = ("pyvision", "paper")
"""Protocols whose undecided answers math-verify sees before a judge; kits have rules of theirs."""
_LADDER = {"maths": "auto", "undecided": "ungraded", "several_boxes": "last"}


class SuiteGrader:
    """Grades by the rules of one suite and protocol."""

    takes_judge = True
    """Whoever makes several graders may have them share one."""

    def __init__(self, config: RewardsConfig, judge: Judge | None = None) -> None:
        """Check the options; connects to nothing.

        Args:
            config: Its ``judge`` section names the server, if there is one.
            judge: The judge to share; None makes one where it is wanted.

        Raises:
            ConfigError: An option is wrong, or the judge's section is.
        """
        options = parse_options(Options, config.options, "rewards.options")
        self._suite, self._protocol = chosen(options, "rewards.options")
        self._rest: LadderGrader | JudgeGrader | None = None
        if self._protocol in _OURS:
            self._rest = LadderGrader(config.model_copy(update={"options": _LADDER}), judge)
        elif config.judge.url or config.judge.model:
            self._rest = JudgeGrader(config.model_copy(update={"options": {}}), judge)
        self._undecided = 0

    async def __call__(self, task: Task, trajectory: Trajectory) -> Grade:
        """Return the grade; an episode without an answer is scored by the protocol's rules too.

        Raises:
            RewardError: The task is of another suite; or only a judge can tell, and there is none
                or it gave no verdict.
        """
        if task.input.data_source != self._suite.name:
            raise RewardError(
                f"suite {self._suite.name!r} cannot score a task of {task.input.data_source!r}"
            )
        scored = self._suite.score(task, final_of(trajectory), self._protocol)
        if isinstance(scored, Grade):
            return replace(scored, rung=f"suite:{self._protocol}")
        return await self._ask(task, trajectory, scored)

    def check(self, sources: Callable[[], frozenset[str]]) -> None:
        """Check that the tasks are the suite's own, and that the judge is ready.

        Raises:
            ConfigError: They are not, or it is not.
        """
        if other := sorted(sources() - {self._suite.name}):
            raise ConfigError(
                f"rewards.options.suite = {self._suite.name!r} cannot score tasks of "
                f"{', '.join(map(repr, other))}"
            )
        if self._rest is not None:
            self._rest.check(sources)

    def stats(self) -> dict[str, float]:
        """Return how many answers the rules left undecided, and who was asked then."""
        rest = {} if self._rest is None else self._rest.stats()
        return {"suite_undecided": float(self._undecided), **rest}

    async def close(self) -> None:
        """End what else decides. Idempotent."""
        if self._rest is not None:
            await self._rest.close()

    async def _ask(self, task: Task, trajectory: Trajectory, undecided: Undecided) -> Grade:
        self._undecided += 1
        rest, answer = self._rest, trajectory.answer
        if undecided.only_judge and isinstance(rest, LadderGrader):
            rest = rest.judge
        if rest is None:
            raise RewardError(f"undecided by the rules ({undecided.why}), and no rewards.judge")
        if undecided.only_judge and isinstance(rest, JudgeGrader) and answer is not None:
            return await rest.judged(for_judge(task), answer)
        return await rest(for_judge(task), trajectory)


def for_judge(task: Task) -> Task:
    """Return the task with the question in words, for who does not see the picture.

    MathVerse asks some questions only there.
    """
    told = task.gold.facts.get("question_for_eval")
    return (
        replace(task, input=replace(task.input, question=told)) if isinstance(told, str) else task
    )
