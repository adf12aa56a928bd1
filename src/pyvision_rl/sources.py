"""Which data sources the tasks of a config come from.

In: a config and the function that builds task sets. Out: the names, for graders that are chosen by
them. A set that does not tell them is sampled. Grades nothing and loads no model.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from pyvision_rl.config import Config, TasksConfig
from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.tasks.base import Sourced, TaskSet

NUM_SAMPLED = 16


def data_sources(config: Config, build: Callable[[TasksConfig], TaskSet]) -> frozenset[str]:
    """Return the data sources of ``[tasks]``, ``[eval.tasks]`` and ``[probe.tasks]``.

    A task set that cannot be built adds none: the verb that reads it says what is wrong.
    """
    found: frozenset[str] = frozenset()
    for section in (config.tasks, config.eval.tasks, config.probe.tasks):
        if section is not None:
            with suppress(ConfigError, TaskError):
                found |= sources_of(build(section), section)
    return found


def sources_of(tasks: TaskSet, section: TasksConfig) -> frozenset[str]:
    """Return the data sources of one task set, or of some of its tasks if it does not tell."""
    if isinstance(tasks, Sourced):
        return tasks.data_sources()
    total = min(section.limit or len(tasks), len(tasks))
    count = min(total, NUM_SAMPLED)
    found = set()
    for index in range(count):
        # A task that cannot be read is skipped and counted by the run.
        with suppress(TaskError):
            found.add(tasks[index * total // count].input.data_source)
    return frozenset(found)
