"""What a study folder remembers about its units, and the lock that keeps a second study out.

In: outcomes of units. Out: one small JSON file per unit that ended, and the same record; and what
a unit was begun with. A unit without a note never ended: it is new, or was interrupted. So is one
that is tried again after it failed; its note remembers the failures. Runs nothing.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyvision_rl.errors import RunError
from pyvision_rl.runs_files import replace_file
from pyvision_rl.runs_lock import locked as hold

DONE, FAILED = "done", "failed"
RETRYING = "retrying"
"""Failed before, and begun again since: no end, for whoever asks how a unit ended."""
_LOCK = "study.lock"
_BEGUN = ".begun"


@dataclass(frozen=True, slots=True)
class Note:
    """How a unit ended."""

    name: str
    status: str
    """``DONE``, ``FAILED`` or ``RETRYING``."""
    sha256: str
    """Of the unit that was run."""
    exit_code: int
    seconds: float
    """Of the last attempt; an interrupted one before it is not counted."""
    finished: str
    """Date and time, UTC."""
    tail: str = ""
    """The end of the log of a unit that failed."""
    failures: int = 0
    """How often it failed, in all."""


def log_of(folder: Path, name: str) -> Path:
    """Return the file that a unit's output goes to."""
    return folder / "logs" / f"{_flat(name)}.log"


def read_note(folder: Path, name: str) -> Note | None:
    """Return how a unit ended; None if it never did.

    Raises:
        RunError: The note cannot be understood.
    """
    file = _file(folder, name)
    if not file.exists():
        return None
    try:
        return Note(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{file} is no note of a unit: {error!r}") from error


def write_note(folder: Path, note: Note) -> None:
    """Write how a unit ended, as a whole or not at all."""
    write_json(_file(folder, note.name), asdict(note))


def read_begun(folder: Path, name: str) -> str:
    """Return the ``sha256`` that a unit was last begun with; "" if nobody wrote it down."""
    file = _file(folder, name, _BEGUN)
    return file.read_text(encoding="utf-8").strip() if file.exists() else ""


def write_begun(folder: Path, name: str, sha256: str) -> None:
    """Write what a unit begins with, before it leaves anything that could be gone on from."""
    write_text(_file(folder, name, _BEGUN), f"{sha256}\n")


def write_json(file: Path, value: Any) -> None:
    """Write a JSON file as a whole or not at all."""
    write_text(file, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write a text file as a whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, text.removesuffix("\n").split("\n"))


def locked(folder: Path) -> AbstractContextManager[None]:
    """Hold the folder while a block runs (see ``runs_lock.locked``).

    Raises:
        RunError: Another process holds it.
    """
    return hold(folder, _LOCK, "a study")


def _file(folder: Path, name: str, ending: str = ".json") -> Path:
    return folder / "units" / f"{_flat(name)}{ending}"


def _flat(name: str) -> str:
    return name.replace("/", "--")
