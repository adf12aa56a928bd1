"""Several task sets as one, drawn by weight.

In: ``[tasks.options.sets]``, a table of task sets by name, each a ``[tasks]`` section of its own
with a ``weight``. Out: one task set in which an index alone says which set and which of its tasks
is meant, so that a resumed run meets the same tasks. Shuffles nothing: RL draws in a seeded order.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from pyvision_rl.config import TasksConfig
from pyvision_rl.errors import ConfigError
from pyvision_rl.registry import parse_options, resolve
from pyvision_rl.tasks import TABLE
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.tasks.sources import sources_of
from pyvision_rl.types import Task


class Member(TasksConfig):
    """One task set of a mixture."""

    weight: int = Field(1, gt=0)
    """Tasks of it in every run of sum-of-weights tasks."""


class Options(BaseModel):
    """The options of ``[tasks] name = "mixture"``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    sets: dict[str, Member]
    """Name -> task set. The name and a slash go before the ids of its tasks, so that it may hold
    no slash and no ``#``."""


class MixtureTasks:
    """Task sets interleaved by weight, until every task of every set was there once.

    A set that runs out before the others begins again; ids of its second pass begin ``NAME#2/``.
    """

    def __init__(self, config: TasksConfig) -> None:
        """Build the sets.

        Raises:
            ConfigError: There is none, one is unknown, or its options are wrong.
            TaskError: A set's file is broken.
        """
        options = parse_options(Options, config.options, "tasks.options")
        if not options.sets:
            raise ConfigError("tasks.options.sets is empty; name at least one task set")
        if config.path:
            raise ConfigError(f"tasks.path = {config.path!r}: a mixture reads no file of its own")
        self._sets: dict[str, tuple[TaskSet, int]] = {}
        for name, member in options.sets.items():
            made = _build(name, member)
            limit = len(made) if member.limit is None else min(member.limit, len(made))
            if limit == 0:
                raise ConfigError(f"tasks.options.sets.{name} holds no tasks")
            self._sets[name] = made, limit
        weights = {name: member.weight for name, member in options.sets.items()}
        self._weights = weights
        # Draw k of w lies at (k + 1/2) / w of a period: each set is spread evenly over it.
        slots = [
            ((k + 0.5) / w, i, n, k) for i, (n, w) in enumerate(weights.items()) for k in range(w)
        ]
        self._period = [(name, k) for _, _, name, k in sorted(slots)]
        rounds = max(-(-size // weights[name]) for name, (_, size) in self._sets.items())
        self._length = rounds * len(self._period)

    def __len__(self) -> int:
        """Number of draws that show every task of every set at least once."""
        return self._length

    def __getitem__(self, index: int) -> Task:
        """Return draw ``index``, its id made unique in the mixture.

        Raises:
            IndexError: There is no such draw.
            TaskError: The task cannot be read.
        """
        if not 0 <= index < self._length:
            raise IndexError(f"task {index} of {self._length}")
        turn, slot = divmod(index, len(self._period))
        name, k = self._period[slot]
        tasks, size = self._sets[name]
        repeat, place = divmod(turn * self._weights[name] + k, size)
        task = tasks[place]
        again = f"#{repeat + 1}" if repeat else ""
        return replace(task, input=replace(task.input, id=f"{name}{again}/{task.id}"))

    def data_sources(self) -> frozenset[str]:
        """Return those of every set."""
        return frozenset().union(*(sources_of(t, size) for t, size in self._sets.values()))


def _build(name: str, member: Member) -> TaskSet:
    where = f"tasks.options.sets.{name}"
    if {"/", "#"} & set(name):
        raise ConfigError(f"{where}: the name of a set may not hold '/' or '#'")
    try:
        made: TaskSet = resolve(member.name, TABLE, "name")(member)
    except ConfigError as error:
        raise ConfigError(f"in {where}: {error}") from error
    return made
