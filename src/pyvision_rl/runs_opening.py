"""Opening a run folder to write: a new one is empty, an old one is cut, nobody else writes there.

In: the folder. Out: the folder without what was written for later steps, and a hold on it.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from pyvision_rl.errors import RunError
from pyvision_rl.runs import step_files
from pyvision_rl.runs_files import TEMPORARY, read_lines, replace_file


class OnlyWriter:
    """Keeps every other writer out of a folder, until it is closed or the process ends.

    The folder itself is locked: it needs no file, and none of its files may be replaced under it.
    Where a disk knows no locks, nobody is kept out.
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder.

        Raises:
            RunError: Somebody has it.
        """
        self._folder = -1
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{folder}: another process is writing there") from error
        except OSError:
            pass

    def close(self) -> None:
        """Let others write. Idempotent."""
        folder, self._folder = self._folder, -1
        if folder >= 0:
            os.close(folder)

    __del__ = close


def refuse_foreign(path: Path) -> None:
    """Refuse a folder with anything in it, except what a writer killed at its start left."""
    if not path.exists():
        return
    if not path.is_dir():
        raise RunError(f"{path} is a file; a run needs a folder")
    if (path / "run.json").exists():
        raise RunError(f"{path} already holds a run; resume it, or choose another folder")
    others = [f for f in path.rglob("*") if f.is_file() and f.suffix != TEMPORARY]
    if others:
        raise RunError(f"{path} is not empty (it holds {others[0].name}); choose a new folder")


def cut_after(path: Path, step: int) -> None:
    """Remove what a run wrote after ``step``, half lines and temporary files."""
    metrics, events = path / "metrics.jsonl", path / "events.jsonl"
    if metrics.exists():
        replace_file(metrics, [json.dumps(m) for m in read_lines(metrics, []) if m["step"] <= step])
    if events.exists():
        kept = (e for e in read_lines(events, []) if e.get("step", step) <= step)
        replace_file(events, [json.dumps(e) for e in kept])
    for later, file in step_files(path).items():
        if later > step:
            file.unlink()
    for folder in (path, path / "rollouts", path / "media"):
        for file in folder.glob(f"*{TEMPORARY}"):
            file.unlink()
