"""How much memory this process may use.

In: the files of the kernel. Out: bytes. Knows nothing of accelerators.
"""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")


def memory_limit(proc: Path = _PROC, groups: Path = _GROUPS) -> int | None:
    """Return the least of the machine's memory and the limits of the process's control groups.

    Args:
        proc: Where the kernel tells of processes.
        groups: Where it tells of control groups.

    Returns:
        None where neither is told (not Linux).
    """
    limits = [*_group_limits(proc, groups), *_machine()]
    return min(limits) if limits else None


def _machine() -> list[int]:
    try:
        return [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (ValueError, OSError):
        return []


def _group_limits(proc: Path, groups: Path) -> list[int]:
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found: list[int] = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root, file = groups, "memory.max"
        elif "memory" in controllers.split(","):
            root, file = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = root / name.lstrip("/")
        # A limit of any group above holds too; in a container the name may lead nowhere.
        for place in (folder, *folder.parents):
            if place == root or root in place.parents:
                found += _number(place / file)
    return found


def _number(file: Path) -> list[int]:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return []
    return [int(text)] if text.isdigit() else []  # "max" is no limit
