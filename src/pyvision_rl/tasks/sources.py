"""Which data sources the tasks of a set come from.

In: a task set. Out: the names it tells, or those of some of its tasks if it does not tell any.
"""

from __future__ import annotations

from contextlib import suppress

from pyvision_rl.errors import TaskError
from pyvision_rl.tasks.base import Sourced, TaskSet

NUM_SAMPLED = 16


def sources_of(tasks: TaskSet, limit: int | None = None) -> frozenset[str]:
    """Return the data sources of the first ``limit`` tasks, or of a sample of them."""
    if isinstance(tasks, Sourced):
        return tasks.data_sources()
    total = len(tasks) if limit is None else min(limit, len(tasks))
    count = min(total, NUM_SAMPLED)
    found = set()
    for index in range(count):
        # A task that cannot be read is skipped and counted by the run.
        with suppress(TaskError):
            found.add(tasks[index * total // count].input.data_source)
    return frozenset(found)
