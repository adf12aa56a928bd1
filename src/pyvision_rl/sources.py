"""Which data sources the tasks of a config come from.

In: a config and the function that builds task sets. Out: the names, for graders that are chosen by
them. Grades nothing and loads no model.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from pyvision_rl.config import Config, TasksConfig
from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.tasks.sources import sources_of


def data_sources(config: Config, build: Callable[[TasksConfig], TaskSet]) -> frozenset[str]:
    """Return the data sources of ``[tasks]``, ``[eval.tasks]`` and ``[probe.tasks]``.

    A task set that cannot be built adds none: the verb that reads it says what is wrong.
    """
    found: frozenset[str] = frozenset()
    for section in (config.tasks, config.eval.tasks, config.probe.tasks):
        if section is not None:
            with suppress(ConfigError, TaskError):
                found |= sources_of(build(section), section.limit)
    return found
