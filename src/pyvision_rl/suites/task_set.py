"""A benchmark as a task set: ``[eval.tasks] name = "suite"``.

In: the options of the section. Out: the items of one suite, worded by one protocol. Scores nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pyvision_rl.config import TasksConfig
from pyvision_rl.errors import ConfigError
from pyvision_rl.registry import parse_options, resolve
from pyvision_rl.suites import TABLE
from pyvision_rl.suites.base import Items, Suite, protocol_name
from pyvision_rl.types import Task


class Options(BaseModel):
    """The options of the task set and of the grader ``suite``; both take the same ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    suite: str
    """vstar, hrbench, mathverse, mathvision, wemath, dynamath, vlmsareblind, tirbench, vsibench,
    videomme, or ``package.module:Class`` of your own."""
    path: str = ""
    """The benchmark's file or folder, or ``hf:owner/name`` (docs/suites.md)."""
    protocol: str = ""
    """How it is asked and scored; empty is the suite's default."""
    shuffle_options: bool = False
    """Options come in an order drawn from ``seed`` and the item's id."""
    seed: int = 0


class SuiteTasks:
    """The items of a suite."""

    def __init__(self, config: TasksConfig) -> None:
        """Read the items; media are read when a task is asked for.

        Raises:
            ConfigError: The suite or protocol is unknown, or there is no path.
            TaskError: A file is missing or malformed.
        """
        options = parse_options(Options, config.options, "tasks.options")
        suite, self.protocol = chosen(options, "tasks.options")
        path = options.path or config.path
        if not path:
            raise ConfigError(f"tasks.options.path is empty; suite {suite.name!r} wants its data")
        self.suite, self.path = suite, Path(path)
        seed = options.seed if options.shuffle_options else None
        self._items = suite.tasks(self.path, self.protocol, shuffle=seed)

    def __len__(self) -> int:
        """Number of items."""
        return len(self._items)

    def __getitem__(self, index: int) -> Task:
        """Return item ``index`` as a task (see ``Items``)."""
        return self._items[index]

    def ids(self) -> Sequence[str]:
        """Return the id of every item, in order."""
        if isinstance(self._items, Items):
            return self._items.ids()
        return [self._items[index].id for index in range(len(self._items))]

    def data_sources(self) -> frozenset[str]:
        """Return the suite's name."""
        return frozenset({self.suite.name})


def chosen(options: Options, where: str) -> tuple[Suite, str]:
    """Return the suite that options name, and the name of the protocol.

    Raises:
        ConfigError: One of the two is unknown.
    """
    suite = find_suite(options.suite, f"{where}.suite")
    return suite, protocol_name(suite, options.protocol)


def find_suite(name: str, where: str = "suite") -> Suite:
    """Return a suite by its short name or ``package.module:Class``.

    Raises:
        ConfigError: There is none.
    """
    made: Suite = resolve(name, TABLE, where)()
    return made
