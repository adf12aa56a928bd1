"""Resource limits of a session, and the highest of them that the user may have.

In: numbers. Out: limits that this process and all it starts cannot raise again.
"""

from __future__ import annotations

import contextlib
import os
import resource

FILE_BYTES = 64 * 2**20
OPEN_FILES = 256
SESSION_TASKS = 64
"""Threads and processes of a session that has a user of its own."""
EXTRA_TASKS = 1024
"""Threads and processes that all sessions of a shared user may have, beyond those at the start."""


def limit(kind: int, value: int) -> None:
    """Set the soft and the hard limit, to the hard limit in force if that is lower."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def inherit() -> None:
    """Set what the zygote's children start with."""
    limit(resource.RLIMIT_CORE, 0)


def confine(tasks: int, scratch_mb: int) -> None:
    """Set what only a session is bound by, before it changes its user."""
    limit(resource.RLIMIT_FSIZE, max(FILE_BYTES, scratch_mb * 2**20))
    limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    limit(resource.RLIMIT_NPROC, tasks)
    limit(resource.RLIMIT_MSGQUEUE, 0)


def user_tasks() -> int:
    """Return how many processes and threads this user has now."""
    count = 0
    for name in os.listdir("/proc"):  # noqa: PTH208 - names only
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == os.getuid():  # noqa: PTH116
                    count += len(os.listdir(f"/proc/{name}/task"))  # noqa: PTH208
    return count
