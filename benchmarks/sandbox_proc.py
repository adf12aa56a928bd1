"""What the kernel says of a tree of processes: CPU time, page faults, private and shared memory.

In: the pid of a tree's root. Out: sums over it. A process that ends while it is read is left out;
what it used is then among its parent's dead children, and is counted there.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Used:
    """What a tree has used since it began; subtract two to have what it used in between."""

    cpu_s: float
    minor_faults: int

    def __sub__(self, other: Used) -> Used:
        return Used(self.cpu_s - other.cpu_s, self.minor_faults - other.minor_faults)


@dataclass(frozen=True, slots=True)
class Memory:
    """What processes hold, in MB of 2**20 bytes."""

    private_mb: float
    """In no other process: it comes back when they end."""
    pss_mb: float
    """Private, and a fair share of what is shared."""


def tree(root: int) -> set[int]:
    """Return the pids of ``root`` and of all below it."""
    children = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children[int(_stat(int(entry.name))[1])].append(int(entry.name))
    found: set[int] = set()
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        found.add(pid)
        waiting += children[pid]
    return found


def used(root: int) -> Used:
    """Return what a tree has used, its dead and reaped members included."""
    ticks = faults = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            fields = _stat(pid)
            ticks += sum(int(fields[i]) for i in (11, 12, 13, 14))
            faults += int(fields[7]) + int(fields[8])
    return Used(ticks / _TICKS, faults)


def memory(pids: Collection[int]) -> Memory | None:
    """Return what processes hold; None where the kernel does not let us read one of them."""
    private = pss = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except PermissionError:
            return None
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in text.splitlines():
            name, _, value = line.partition(":")
            if name in ("Private_Clean", "Private_Dirty", "Private_Hugetlb"):
                private += int(value.split()[0])
            elif name == "Pss":
                pss += int(value.split()[0])
    return Memory(private / 1024, pss / 1024)


def available_mb() -> float:
    """Return the memory that can be had without swapping, kernel memory taken into account."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/meminfo has no MemAvailable")


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/<pid>/stat`` from the state on: a name may hold blanks and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
