"""Remarks of people on trajectories: ``notes.jsonl`` in the run folder.

In: what a page sent. Out: a line, on the disk when this returns; and all lines. Changes no line.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from pyvision_rl.runs_files import append, line_of, writing
from pyvision_rl.view.lines import Problems, objects
from pyvision_rl.view.scripts import Json

FILE = "notes.jsonl"
MAX_TEXT, MAX_TAGS, MAX_TAG = 20_000, 20, 80
"""Characters, tags, characters of a tag."""
_KINDS: dict[str, type] = {"step": int, "task": str, "rollout": int, "tags": list, "text": str}
_LOCK = threading.Lock()


def check_note(sent: Any) -> Json:
    """Return the note that was sent, without anything that is not part of one.

    Raises:
        ValueError: It is none; the message says why.
    """
    if not isinstance(sent, dict):
        raise ValueError("a note is a JSON object")
    for name, kind in _KINDS.items():
        # True is an int to Python, and no step to people.
        if not isinstance(sent.get(name), kind) or isinstance(sent.get(name), bool):
            raise ValueError(f"a note has {name!r}, of type {kind.__name__}")
    tags = sent["tags"]
    if len(tags) > MAX_TAGS or not all(isinstance(t, str) and len(t) <= MAX_TAG for t in tags):
        raise ValueError(f"at most {MAX_TAGS} tags of at most {MAX_TAG} characters")
    if len(sent["text"]) > MAX_TEXT:
        raise ValueError(f"at most {MAX_TEXT} characters")
    if not tags and not sent["text"].strip():
        raise ValueError("a note has a tag or a text")
    return {name: sent[name] for name in _KINDS}


def append_note(path: Path, note: Json) -> Json:
    """Add a note, checked before, to a run folder; return it with its time.

    Raises:
        RunError: The disk refuses; the file is as it was before.
    """
    whole = {"time": round(time.time(), 3), **note}
    file = path / FILE
    with _LOCK, writing(file), file.open("ab+", buffering=0) as out:
        append(out, _separator(out) + line_of(whole))
        os.fsync(out.fileno())
    return whole


def _separator(out: Any) -> bytes:
    """Return what ends a line that was cut before, so that it takes no other with it."""
    size = out.seek(0, os.SEEK_END)
    if not size:
        return b""
    out.seek(size - 1)
    return b"" if out.read(1) == b"\n" else b"\n"


def read_notes(path: Path, problems: Problems) -> list[Json]:
    """Return the notes of a run folder, oldest first; what is none is a problem."""
    found = []
    for line in objects(path / FILE, problems):
        try:
            found.append({"time": line.get("time"), **check_note(line)})
        except ValueError as error:
            problems.add(f": {error}; skipped")
    return found
