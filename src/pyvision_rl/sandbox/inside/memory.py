"""The address space of a session: its limit, and a reserve for cells that ran into it.

A cell that finds no memory could not even say so, and the next one could not be read. So the limit
is raised a little when memory runs out, and lowered again once enough is free. A cell that uses up
the reserve too has spent everything: its session cannot go on. Loaded by the child only; imports
nothing of ours.
"""

from __future__ import annotations

import builtins
import mmap
import resource

# A copy for this file's functions: model code may change or empty the original.
__builtins__ = dict(vars(builtins))  # type: ignore[assignment]

RESERVE_MB = 32
ROOM_MB = 8
"""With less than this below the limit, memory counts as full."""
ADVICE = "\n[nearly all memory is taken: free some, with del or clear(), before anything else]"
_setrlimit, _AS, _map = resource.setrlimit, resource.RLIMIT_AS, mmap.mmap


class Memory:
    """The limit of one session."""

    def __init__(self) -> None:
        self.spent = False
        """A cell ran out of memory although it had the reserve."""
        self._first = _mapped()
        self._limits = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        self._raised = self._limits  # made in advance: once memory is full, nothing can be
        self._lent = self._had_reserve = False

    def allow(self, memory_mb: int) -> None:
        """Allow so much beyond what was mapped when this object was made."""
        most = self._first + (memory_mb + RESERVE_MB) * 2**20
        hard = resource.getrlimit(_AS)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        self._limits, self._raised = (most - RESERVE_MB * 2**20, most), (most, most)
        _setrlimit(_AS, self._limits)

    def begin(self) -> None:
        """Start a cell: the reserve is taken back if there is memory without it."""
        if self._lent and _room(RESERVE_MB + ROOM_MB):
            self._lent = False
            _setrlimit(_AS, self._limits)
        self._had_reserve = self._lent

    def settle(self) -> str:
        """End a cell: one that hid that memory is full gets the reserve too; as ``lend``."""
        return "" if self._lent or _room(ROOM_MB) else self.lend()

    def lend(self) -> str:
        """Note that no memory was found, and raise the limit; return what the model should know."""
        if self._lent:
            self.spent = self._had_reserve
            return ADVICE
        self._lent = True
        _setrlimit(_AS, self._raised)
        return "" if _room(RESERVE_MB + ROOM_MB) else ADVICE


def _room(size_mb: int) -> bool:
    """Whether so much memory can still be had; /proc need not be there to ask."""
    try:
        _map(-1, size_mb * 2**20).close()
    except (OSError, MemoryError):
        return False
    return True


def _mapped() -> int:
    """Bytes of address space in use."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - as short as the file
        return int(file.read().split()[0]) * resource.getpagesize()
