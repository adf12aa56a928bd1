"""The language model as grader: rules first, then one cached call per distinct answer.

In: a task and a trajectory, of which only the final answer is read. Out: a ``Grade``; or
``RewardError`` when the judge cannot be reached, says something else than a verdict, or may not be
asked any more: the trajectory stays ungraded. Equal answers under way at the same time share one
call. Samples nothing: the judge runs at temperature 0, unless its server takes none.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from pyvision_rl.chat_endpoint import ChatEndpoint
from pyvision_rl.config import RewardsConfig
from pyvision_rl.config.endpoints import JudgeConfig
from pyvision_rl.errors import EndpointError, RewardError
from pyvision_rl.registry import parse_options
from pyvision_rl.rewards.answers import match
from pyvision_rl.rewards.base import Grade
from pyvision_rl.rewards.choices import same_choice
from pyvision_rl.rewards.guards import says_something
from pyvision_rl.rewards.judge_prompt import load_domain, messages, verdict
from pyvision_rl.rewards.verdicts import VerdictCache
from pyvision_rl.types import Task, Trajectory

_COUNTS = ("calls", "cache_hits", "rules", "unreadable", "over_budget")
_log = logging.getLogger(__name__)


class Options(BaseModel):
    """The options of the grader ``judge``; the server and the limits are in ``[rewards.judge]``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    domain: str = "general"
    """general, visual_search, chart, maths, spatial, long_video, or a TOML file of your own."""


class Judge:
    """One judge of a run: its server, its verdicts so far, its budget. Routes share it."""

    def __init__(self, config: JudgeConfig) -> None:
        """Take ``[rewards.judge]``; connects to nothing.

        Raises:
            ConfigError: No server or no model is named.
        """
        self.config = config
        self._endpoint = ChatEndpoint(config, "rewards.judge")
        self._cache = VerdictCache(config.cache)
        parameters = {"temperature": 0, config.max_tokens_name: config.max_new_tokens}
        self._parameters = {k: v for k, v in parameters.items() if k not in config.omit}
        self._under_way: dict[str, asyncio.Task[bool]] = {}
        self.counts: Counter[str] = Counter()

    def check(self) -> None:
        """Raise ConfigError if the key is not there."""
        self._endpoint.check_key()

    async def ask(self, turns: tuple[dict[str, str], ...], details: Mapping[str, Any]) -> bool:
        """Return the verdict on one case, asked now or before.

        Raises:
            RewardError: There is none to be had.
        """
        key = self._key(turns)
        known = self._cache.get(key)
        if known is not None:
            self.counts["cache_hits"] += 1
            return known
        if key in self._under_way:
            self.counts["cache_hits"] += 1
        else:
            self._spend()
            task = asyncio.ensure_future(self._call(key, turns, details))
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
            self._under_way[key] = task
        # Shielded: one who waits may be cancelled, the others still want the verdict.
        return await asyncio.shield(self._under_way[key])

    def known(self, turns: tuple[dict[str, str], ...]) -> bool | None:
        """Return the verdict on a case that was asked before, by this process or another."""
        return self._cache.get(self._key(turns))

    def stats(self) -> dict[str, float]:
        """Return what was asked so far, and at what cost."""
        return {name: float(self.counts[name]) for name in _COUNTS} | self._endpoint.stats()

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._endpoint.close()

    def _spend(self) -> None:
        """Take one call from the budget."""
        most = self.config.max_calls
        if most is not None and self.counts["calls"] >= most:
            if not self.counts["over_budget"]:
                _log.warning(
                    "rewards.judge.max_calls = %d is used up: what only the judge can grade stays "
                    "ungraded",
                    most,
                )
            self.counts["over_budget"] += 1
            raise RewardError(f"the judge's budget is used up (rewards.judge.max_calls = {most})")
        self.counts["calls"] += 1

    async def _call(
        self, key: str, turns: tuple[dict[str, str], ...], details: Mapping[str, Any]
    ) -> bool:
        try:
            reply = await self._endpoint.complete(turns, self._parameters)
        except EndpointError as error:
            raise RewardError(f"the judge gave no verdict: {error}") from error
        right = None if reply.finish == "length" else verdict(reply.text)
        if right is None:
            self.counts["unreadable"] += 1
            cut = ", cut off at rewards.judge.max_new_tokens" if reply.finish == "length" else ""
            raise RewardError(f"the judge gave no verdict but {reply.text[:80]!r}{cut}")
        details = {**details, "model": self.config.model}
        try:
            # In a thread: it waits for the disk.
            right = await asyncio.to_thread(self._cache.put, key, right, details)
        except OSError as error:
            _log.warning("a verdict could not be kept in %s: %s", self.config.cache, error)
        return right

    def _key(self, turns: tuple[dict[str, str], ...]) -> str:
        """The hash of everything that decides a verdict."""
        asked = [self.config.model, self._parameters, turns]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class JudgeGrader:
    """Grades what the rules cannot, by asking the judge of the run."""

    def __init__(self, config: RewardsConfig, judge: Judge | None = None) -> None:
        """Check options and server.

        Args:
            config: Its ``judge`` section names the server.
            judge: The judge to share; None makes one.

        Raises:
            ConfigError: An option is unknown, or no server or model is named.
        """
        options = parse_options(Options, config.options, "rewards.options")
        self._domain = load_domain(options.domain, "rewards.options.domain")
        self._judge = judge or Judge(config.judge)

    async def __call__(self, task: Task, trajectory: Trajectory) -> Grade:
        """Return 1 for an answer that says what the reference says, else 0.

        Raises:
            RewardError: The judge gave no verdict, or may not be asked any more.
        """
        answer, gold, config = trajectory.answer, task.gold, self._judge.config
        if answer is None:
            return Grade(0.0, False, "no answer", "rule")
        if config.rules_first:
            found = match(answer, gold.answer, gold.answer_type)
            chosen = same_choice(answer, gold.answer, task.input.question)
            if found.correct or chosen:
                self._judge.counts["rules"] += 1
                why = found.why if found.correct else "same choice"
                return Grade(1.0, True, f"rule: {why}", "rule")
        return await self.judged(task, answer)

    async def judged(self, task: Task, answer: str) -> Grade:
        """Return the grade of an answer that rules do not find right.

        Raises:
            RewardError: The judge gave no verdict, or may not be asked any more.
        """
        gold, config = task.gold, self._judge.config
        if len(answer) > config.max_answer_chars:
            why = f"answer is longer than {config.max_answer_chars} characters"
            return Grade(0.0, False, why, "rule")
        if says_something(gold.answer) and not says_something(answer):
            return Grade(0.0, False, "answer holds no word, number or sign", "rule")
        right = await self.ask(task, answer)
        said = "right" if right else "wrong"
        return Grade(float(right), right, f"judge {config.model}: {said}", "judge")

    async def ask(self, task: Task, answer: str) -> bool:
        """Return the judge's verdict on an answer, whatever rules say of it.

        Raises:
            RewardError: See ``Judge.ask``.
        """
        case = _case(task, answer)
        return await self._judge.ask(messages(self._domain, **case), case)

    def known(self, task: Task, answer: str) -> bool | None:
        """Return the verdict on an answer that was given before; asks nobody."""
        return self._judge.known(messages(self._domain, **_case(task, answer)))

    def check(self, sources: Callable[[], frozenset[str]]) -> None:
        """Raise ConfigError if the judge's key is not there; any data source will do."""
        self._judge.check()

    def stats(self) -> dict[str, float]:
        """Return the judge's numbers so far, named ``judge_...``."""
        return {f"judge_{name}": value for name, value in self._judge.stats().items()}

    async def close(self) -> None:
        """Close the judge. Idempotent."""
        await self._judge.close()


def _case(task: Task, answer: str) -> dict[str, str]:
    return {"question": task.input.question, "reference": task.gold.answer, "answer": answer}
