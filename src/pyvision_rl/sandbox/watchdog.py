"""Measures the cells that run: computing time first, and memory.

In: running cells. Out: ``RunningCell.over`` when one used more than its limits; what follows is the
session's business. Samples through ``/proc/<pid>/stat`` while any cell runs, and does nothing
otherwise. Resource limits bound memory too; the watchdog catches what they do not count.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from pyvision_rl.sandbox.cell import Over, RunningCell

PERIOD_S = 0.05
SLACK_BYTES = 128 * 2**20
"""Beyond the limit: the limit on address space ends in a MemoryError, which keeps the variables,
and is to come first. Pages that were mapped before a session began are counted here only."""
MAX_THREADS = 64
"""Of a session. A session with a user of its own cannot start more; others are stopped here."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process used so far."""

    cpu_s: float
    """Of all its threads, those that ended included."""
    resident_bytes: int
    num_threads: int


class Watchdog:
    """Samples the cells it is given."""

    def __init__(self) -> None:
        self._cells: dict[RunningCell, Usage] = {}
        """What each had used when it began."""
        self._task: asyncio.Task[None] | None = None

    def watch(self, cell: RunningCell) -> None:
        """Measure a cell from now on."""
        usage = measure(cell.child.pid)
        if usage is None:
            return  # it is gone; its session will find out
        self._cells[cell] = usage
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def unwatch(self, cell: RunningCell) -> None:
        """Stop measuring a cell. Idempotent."""
        self._cells.pop(cell, None)

    async def _run(self) -> None:
        try:
            while self._cells:
                await asyncio.sleep(PERIOD_S)
                for cell, before in tuple(self._cells.items()):
                    now = measure(cell.child.pid)
                    if now is not None:
                        _judge(cell, before, now)
        finally:
            self._task = None


def measure(pid: int) -> Usage | None:
    """Return what a process used, or None if there is no such process."""
    if not pid:
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - many times a second: no Path
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS
    return Usage(cpu_s, int(fields[21]) * _PAGE, int(fields[17]))


def _judge(cell: RunningCell, before: Usage, now: Usage) -> None:
    limits = cell.limits
    if now.cpu_s - before.cpu_s > limits.cpu_s:
        cell.over(Over.CPU)
    elif now.resident_bytes - before.resident_bytes > limits.memory_mb * 2**20 + SLACK_BYTES:
        cell.over(Over.MEMORY)
    elif now.num_threads > MAX_THREADS:
        cell.over(Over.THREADS)
