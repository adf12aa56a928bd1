"""What sessions could leave behind, counted from outside."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def all_gone(pids: list[int], within_s: float = 3.0) -> bool:
    end = time.monotonic() + within_s
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    return not any(map(alive, pids))


def descendants(pid: int) -> list[int]:
    """All processes below one, as this process sees them; those without a parent too."""
    parents: dict[int, int] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(path.name)] = int(fields[1])
    found, new = [], [pid]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found += new
    return found


def descriptors(pid: int | str) -> Counter[str]:
    """Kinds of the open descriptors of a process."""
    kinds: Counter[str] = Counter()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            link = str(path.readlink())
        except OSError:
            continue
        kind = "memfd" if "memfd:" in link else link.partition(":")[0]
        kinds[kind if not kind.startswith("/") else "file"] += 1
    return kinds


def mounts(pid: int | str) -> int:
    return len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())


def traces(zygote: int, folder: Path) -> dict[str, object]:
    """Everything that must be the same before and after any number of sessions.

    Args:
        zygote: Its process id.
        folder: Where the sandbox makes its folders.
    """
    return {
        "processes": len(descendants(os.getpid())),
        "driver's descriptors": descriptors("self"),
        "zygote's descriptors": descriptors(zygote),
        "driver's mounts": mounts("self"),
        "zygote's mounts": mounts(zygote),
        "files": sorted(folder.rglob("*")),
    }


def resident_bytes() -> int:
    """Memory of this process."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
