"""The lock that keeps a second process out of a folder.

In: a folder. Out: a block in which no other process that asks is in it. The file that holds the
lock names the process and stays; the lock itself goes with the process, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyvision_rl.errors import RunError
from pyvision_rl.runs_files import writing


@contextmanager
def locked(folder: Path, name: str, what: str) -> Iterator[None]:
    """Hold a folder while the block runs. Where a disk knows no locks, nobody is kept out.

    Args:
        folder: Made, if it is not there.
        name: Of the file in it that holds the lock.
        what: That the other process is, for the message.

    Raises:
        RunError: Another process holds it, or the disk refuses.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / name).open("a+", encoding="utf-8")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise RunError(f"{folder}: {what} is running there (process {owner})") from error
        except OSError:
            # Some shared disks have none; the work is still to be done.
            pass
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
