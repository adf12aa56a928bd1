"""What rules, math-verify and judge each say of a stored answer, whoever decided at the time.

In: stored trajectories and ``[rewards]`` of their run. Out: for each, the opinions there are: True
for right, False for wrong; one that has none is left out. The judge's are those that were stored or
cached, unless it is to be asked. Opinions are not grades: nothing is stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pyvision_rl.config import RewardsConfig
from pyvision_rl.errors import RewardError
from pyvision_rl.rewards.judge import Judge, JudgeGrader
from pyvision_rl.rewards.ladder import LadderGrader
from pyvision_rl.rewards.maths import Outcome, has_math_verify
from pyvision_rl.rewards.route import route_key
from pyvision_rl.rewards.ruling import Rules
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.suites.grading import for_judge

_SAID = {Outcome.EQUAL: True, Outcome.UNEQUAL: False}


class Opinions:
    """Asks all who can be asked."""

    def __init__(self, config: RewardsConfig, *, ask_judge: bool = False) -> None:
        """Prepare; asks nobody yet.

        Raises:
            ConfigError: The judge is to be asked and none is named, or its key is not there.
        """
        self._config = config
        self._ask = ask_judge
        self._ladders: dict[str, LadderGrader] = {}
        self._judges: dict[str, JudgeGrader] = {}
        self._failed: Counter[str] = Counter()
        named = bool(config.judge.url and config.judge.model)
        self._judge = Judge(config.judge) if named or ask_judge else None
        if ask_judge and self._judge is not None:
            self._judge.check()

    async def of(self, saved: SavedRollout) -> dict[str, bool]:
        """Return the opinions on a graded trajectory: stored, rules, maths, judge.

        What a judge or math-verify decided at the time is theirs, and not given twice.
        """
        task, trajectory = saved.task, saved.trajectory
        reward = trajectory.reward
        if reward is None or trajectory.answer is None:
            return {}
        name, options = _grader(self._config, task.input.data_source)
        by_judge = reward.rung == "judge" or reward.why.startswith("judge ")
        views = {} if by_judge or reward.rung == "maths" else {"stored": reward.correct}
        if name != "relative_accuracy" and reward.parts.get("accuracy") in (0.0, 1.0):
            ladder = self._ladder(options)
            right = ladder.rule(task, trajectory).right
            views |= {} if right is None else {"rules": right}
            try:
                outcome = await ladder.compare(task, trajectory)
            except RewardError as error:
                self._failed[f"math-verify: {error}"] += 1
            else:
                views |= {"maths": _SAID[outcome]} if outcome in _SAID else {}
        verdict = reward.correct if by_judge else await self._verdict(saved, name, options)
        return views if verdict is None else {**views, "judge": verdict}

    def notes(self) -> list[str]:
        """Return who could not be asked."""
        notes = [f"{count} times {what}" for what, count in sorted(self._failed.items())]
        if not has_math_verify():
            notes.append('math-verify is not installed: pip install "pyvision-rl[grading]"')
        return notes

    async def close(self) -> None:
        """Close who was asked. Idempotent."""
        for ladder in self._ladders.values():
            await ladder.close()
        if self._judge is not None:
            await self._judge.close()

    def _ladder(self, options: Mapping[str, Any]) -> LadderGrader:
        """A ladder without a judge, by the rules that the run's own grader has."""
        own = {key: value for key, value in options.items() if key in Rules.model_fields}
        key = repr(sorted(own.items()))
        if key not in self._ladders:
            given = {**own, "maths": "auto", "judge": "off"}
            config = self._config.model_copy(update={"options": given})
            self._ladders[key] = LadderGrader(config)
        return self._ladders[key]

    async def _verdict(
        self, saved: SavedRollout, name: str, options: Mapping[str, Any]
    ) -> bool | None:
        """The judge's verdict on an answer; None if there is none."""
        answer = saved.trajectory.answer
        if self._judge is None or answer is None or name == "relative_accuracy":
            return None
        domain = str(options.get("domain", "general"))
        if domain not in self._judges:
            config = self._config.model_copy(update={"options": {"domain": domain}})
            self._judges[domain] = JudgeGrader(config, self._judge)
        # The scorer of a suite asks with words of its own.
        judge, task = self._judges[domain], for_judge(saved.task) if name == "suite" else saved.task
        known = judge.known(task, answer)
        if known is not None or not self._ask:
            return known
        if len(answer) > self._config.judge.max_answer_chars:
            return False
        try:
            return await judge.ask(task, answer)
        except RewardError as error:
            self._failed[str(error)] += 1
            return None


def _grader(config: RewardsConfig, source: str) -> tuple[str, Mapping[str, Any]]:
    """Name and options of the grader that a run has for a data source."""
    if config.name != "route":
        return config.name, config.options
    routes: Mapping[str, Mapping[str, Any]] = config.options.get("routes", {})
    key = route_key(routes, source)
    route = config.options.get("default") if key is None else routes[key]
    return (route["grader"], route.get("options", {})) if route else ("", {})
