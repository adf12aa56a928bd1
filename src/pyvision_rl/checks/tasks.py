"""Prove that a task set works: that its rows are sound, and that its tasks fit config and grader.

In: a config. Out: ``Finding`` records, and the ``Survey`` of the files behind a task set that reads
some. A fault is a finding and never an exception, so that all of them are seen at once. Where a row
is faulty, no task set is built.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import chain

from pyvision_rl.assemble import build_tasks, num_tasks
from pyvision_rl.checks.sandbox import Finding, require, try_check
from pyvision_rl.checks.survey import Survey, by_rules, take
from pyvision_rl.config import Config
from pyvision_rl.errors import ConfigError
from pyvision_rl.parsing import CODE_CLOSE, parse
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.rewards import build_rewarder
from pyvision_rl.tasks.base import Scripted, TaskSet
from pyvision_rl.tasks.sources import sources_of
from pyvision_rl.tasks.survey import surveyed
from pyvision_rl.types import EndReason, GiveAnswer, RunCode, StopReason, Task, Trajectory

NUM_SAMPLED = 200
"""Tasks looked at when a set is larger."""


def check_tasks(config: Config) -> list[Finding]:
    """Return the findings of ``survey_tasks``."""
    return survey_tasks(config)[0]


def survey_tasks(
    config: Config, *, decode: bool = True, progress: Callable[[int], None] | None = None
) -> tuple[list[Finding], Survey | None]:
    """Return every fault of a task set and what holds for it, and the survey of its files.

    Args:
        config: With ``[tasks]``, and the prompts and grader that the tasks are to fit.
        decode: Decode every image, and both ends of every video; False reads headers.
        progress: Told how many rows were looked at.

    Raises:
        ConfigError: There is no ``[tasks]``, or its file or class is not there.
        TaskError: A file as a whole holds no records, or the set no tasks.
    """
    section = config.tasks
    if section is None:
        raise ConfigError("[tasks] is missing: name a task set")
    rows = iter(surveyed(section))
    first = next(rows, None)
    survey = None
    found: list[Finding] = []
    if first is not None:
        survey = take(config, chain([first], rows), decode=decode, progress=progress)
        found = list(survey.findings(config.prompts.context))
        if survey.faults:
            return found, survey
    tasks = build_tasks(section)
    total = num_tasks(tasks, section)
    indices = _spread(total)
    looked = f"{len(indices)} of {total} tasks"
    graded = "" if survey is None else f"all {survey.graded:,}"
    found += [
        try_check("ids are unique", lambda: _unique_ids(tasks, indices)),
        try_check("an index always gives the same task", lambda: _stable(tasks, indices)),
        try_check("every task makes a prompt", lambda: _prompts(config, tasks, indices)),
        try_check("every data source can be graded", lambda: _sources(config, tasks)),
        try_check(
            "the reference answer is graded right",
            lambda: _graded(config, tasks, indices) or graded,
        ),
        try_check("scripts parse and end in an answer", lambda: _scripts(config, tasks, indices)),
        Finding("looked at", "note" if len(indices) < total else "ok", looked),
    ]
    return found, survey


def _spread(total: int) -> list[int]:
    """Return up to ``NUM_SAMPLED`` indices, evenly over the whole set."""
    count = min(total, NUM_SAMPLED)
    return [index * total // count for index in range(count)]


def _unique_ids(tasks: TaskSet, indices: Iterable[int]) -> str:
    seen: dict[str, int] = {}
    for index in indices:
        first = seen.setdefault(tasks[index].id, index)
        require(first == index, f"tasks {first} and {index} share the id {tasks[index].id!r}")
    return ""


def _stable(tasks: TaskSet, indices: Iterable[int]) -> str:
    for index in indices:
        require(tasks[index] == tasks[index], f"task {index} changes from one look to the next")
    return ""


def _prompts(config: Config, tasks: TaskSet, indices: Iterable[int]) -> str:
    builder = PromptBuilder(config.prompts)
    for index in indices:
        builder.prompt(tasks[index].input)
    return ""


def _sources(config: Config, tasks: TaskSet) -> str:
    assert config.tasks is not None
    found = sources_of(tasks, config.tasks.limit)
    build_rewarder(config.rewards).check(lambda: found)
    return ", ".join(sorted(found - {""}))


def _graded(config: Config, tasks: TaskSet, indices: Iterable[int]) -> str:
    rewarder = build_rewarder(by_rules(config.rewards))

    async def grade(task: Task, answer: str | None) -> Trajectory:
        end = EndReason.MALFORMED if answer is None else EndReason.ANSWERED
        return await rewarder.grade(task, Trajectory(task.id, 0, (), (), (), end, answer))

    async def all_of_them() -> None:
        try:
            await one_by_one()
        finally:
            await rewarder.close()

    async def one_by_one() -> None:
        for index in indices:
            task = tasks[index]
            right = await grade(task, task.gold.answer)
            require(right.reward is not None, f"task {task.id!r} is not graded: {right.error}")
            correct = right.reward is not None and right.reward.correct
            why = right.reward.why if right.reward else ""
            require(correct, f"task {task.id!r}: {task.gold.answer!r} is graded wrong ({why})")
            none = await grade(task, None)
            require(
                none.reward is None or not none.reward.correct,
                f"task {task.id!r}: an episode without an answer is graded right",
            )

    asyncio.run(all_of_them())
    return ""


def _scripts(config: Config, tasks: TaskSet, indices: Iterable[int]) -> str:
    if not isinstance(tasks, Scripted):
        return "no scripts"
    for index in indices:
        turns = tasks.script(index)
        where = f"the script of task {tasks[index].id!r}"
        require(bool(turns), f"{where} is empty")
        for number, text in enumerate(turns, 1):
            stop = StopReason.STOP_STRING if text.endswith(CODE_CLOSE) else StopReason.END
            action = parse(text, stop)
            wanted = GiveAnswer if number == len(turns) else RunCode
            require(
                isinstance(action, wanted),
                f"{where}, turn {number}: {action!r:.200} instead of {wanted.__name__}",
            )
        calls = len(turns) - 1
        most = config.rollout.max_tool_calls
        require(calls <= most, f"{where} has {calls} calls; rollout.max_tool_calls = {most}")
    return ""
