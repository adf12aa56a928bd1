"""The task-set contract: numbered tasks, and optional abilities.

In: a file or a seed. Out: ``Task`` records, public half and gold apart. The same index always
gives the same task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from pyvision_rl.errors import ConfigError
from pyvision_rl.types import Pair, Task


class TaskSet(Protocol):
    """A finite, indexable set of tasks."""

    def __len__(self) -> int:
        """Number of tasks."""
        ...

    def __getitem__(self, index: int) -> Task:
        """Return task ``index``; the same one every time.

        Raises:
            TaskError: The row or its media cannot be read.
        """
        ...


@runtime_checkable
class Scripted(Protocol):
    """A task set that can show how its tasks are solved."""

    def script(self, index: int) -> tuple[str, ...]:
        """Return the assistant turns that solve task ``index``; the last one answers."""
        ...


def with_scripts(tasks: TaskSet, name: str) -> Scripted:
    """Return the task set if it has scripts.

    Raises:
        ConfigError: It has none.
    """
    if isinstance(tasks, Scripted):
        return tasks
    raise ConfigError(f'policy.name = "scripted": task set {name!r} has no scripts to play back')


@runtime_checkable
class Sourced(Protocol):
    """A task set that knows its data sources without making its tasks."""

    def data_sources(self) -> frozenset[str]:
        """Return the ``data_source`` of every task."""
        ...


@runtime_checkable
class Paired(Protocol):
    """A task set that can give plain prompt-target pairs."""

    def pairs(self, count: int) -> Sequence[Pair]:
        """Return ``count`` pairs; the same ones every time."""
        ...
