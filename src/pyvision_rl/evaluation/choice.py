"""Which tasks an evaluation uses, and how it asks without tools.

In: a config. Out: the places of the chosen tasks in their set, by chunk; and a harness in which the
first turn has to answer. A task keeps its place, and with it its random numbers, whatever else was
chosen. Reads no media where the task set tells its ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol, runtime_checkable

from pyvision_rl.assemble import num_tasks
from pyvision_rl.config import Config
from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.evaluation.evaluate import chunk_start, evaluated, held_out
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.registry import suggestion
from pyvision_rl.rollout import Harness
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import Prompt, TaskInput

DIRECT = "direct"
"""The built-in question template without tools."""


@runtime_checkable
class Listed(Protocol):
    """A task set that knows its ids without making its tasks."""

    def ids(self) -> Sequence[str]:
        """Return the id of every task, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """The tasks of one evaluation."""

    tasks: TaskSet
    indices: tuple[int, ...]
    """Places in the set, ascending."""
    of_the_set: int
    """Tasks of the set, whatever the config takes of them."""

    def chunks(self) -> list[tuple[int, ...]]:
        """Return the places in pieces: those of one piece share a file and a seed."""
        return [tuple(part) for _, part in groupby(self.indices, chunk_start)]


def choose(config: Config) -> Choice:
    """Return the tasks that ``[eval]`` names.

    Raises:
        ConfigError: There is no task of an id in ``eval.ids``, or no task set.
        TaskError: The task set is broken, or such a task may be one that cannot be read.
    """
    tasks, first = held_out(config)
    total = num_tasks(tasks, evaluated(config))
    if not config.eval.ids:
        return Choice(tasks, tuple(range(first)), len(tasks))
    places = _places(tasks, total, config.eval.ids)
    return Choice(tasks, tuple(places[: config.eval.num_tasks]), len(tasks))


def _places(tasks: TaskSet, total: int, ids: Sequence[str]) -> list[int]:
    """Return where the ids stand in the set.

    Raises:
        ConfigError: One stands nowhere.
        TaskError: Likewise, and a task that does not tell its id cannot be read.
    """
    wanted = set(ids)
    known = tasks.ids() if isinstance(tasks, Listed) else None
    found: dict[int, str] = {}
    unread: TaskError | None = None
    for place in range(total):
        try:
            # Without a list, each task has to be made; it is let go at once.
            name = known[place] if known is not None else tasks[place].id
        except TaskError as error:
            # Nobody may have asked for this one.
            unread = unread or error
            continue
        if name in wanted:
            found[place] = name
    if lost := [name for name in dict.fromkeys(ids) if name not in found.values()]:
        if unread:
            raise unread
        hint = suggestion(lost[0], known) if known is not None else ""
        raise ConfigError(
            f"eval.ids: no task {lost[0]!r} among {total}{hint}"
            + (f"; and {len(lost) - 1} more are missing" if len(lost) > 1 else "")
        )
    return list(found)


class DirectPrompts(PromptBuilder):
    """Prompts for a model that has to answer at once."""

    def __init__(self, config: Config) -> None:
        """Read ``eval.direct_template``.

        Raises:
            ConfigError: It is no template, or images are for code only.
        """
        section = config.prompts
        if section.context == "runtime":
            raise ConfigError(
                'eval.tools = false with prompts.context = "runtime": nobody would see the images; '
                'set prompts.context = "on_demand"'
            )
        self._videos_are_hidden = section.context == "on_demand"
        template = config.eval.direct_template or DIRECT
        super().__init__(section.model_copy(update={"template": template}))

    def prompt(self, task: TaskInput) -> Prompt:
        """Return the first messages of an episode.

        Raises:
            ConfigError: The task has a video that only code would see.
            TaskError: A medium of the task cannot be shown.
        """
        if self._videos_are_hidden and any(m.kind == "video" for m in task.media):
            raise ConfigError(
                f"eval.tools = false: nobody would see the video of task {task.id!r}; "
                'set prompts.context = "frames" and prompts.num_frames'
            )
        return super().prompt(task)


def direct(harness: Harness, config: Config) -> Harness:
    """Return a harness without tools: the first turn is the only one."""
    rollout = harness.config.model_copy(update={"max_tool_calls": 0})
    return replace(harness, prompts=DirectPrompts(config), config=rollout)
