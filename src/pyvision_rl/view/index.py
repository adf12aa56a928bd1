"""A run folder at one moment: its steps in short, each file read once and again when it changes.

In: a run folder, also one that is being written. Out: what ``data/index.js`` holds, and a version
that changes with the folder. Holds a row per trajectory, and no trajectory.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pyvision_rl.runs import step_files
from pyvision_rl.view.limits import ALL_STEPS, Steps
from pyvision_rl.view.scripts import Json
from pyvision_rl.view.steps import Row, StepIndex, TaskRow, index_step, stamp_of

_GROWING = ("run.json", "metrics.jsonl", "events.jsonl", "result.json", "notes.jsonl")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All steps as they were last read."""

    version: str
    steps: tuple[StepIndex, ...]
    num_images: int
    """Different images that are named."""
    num_here: int
    """Those of them that have files."""

    def step(self, number: int) -> StepIndex | None:
        """Return one step; None if it is not there."""
        return next((s for s in self.steps if s.step == number), None)


class RunIndex:
    """Reads what is new in a run folder; may be used from several threads."""

    def __init__(self, path: Path, limits: Steps = ALL_STEPS) -> None:
        self.path = path
        self._limits = limits
        self._known: dict[Path, StepIndex] = {}
        self._last: Snapshot | None = None
        self._lock = threading.Lock()

    def refresh(self, report: Callable[[str], None] = lambda _: None) -> Snapshot:
        """Return what the folder holds now; only files that changed are read.

        Args:
            report: Receives a line per step file that is read.
        """
        with self._lock:
            files = step_files(self.path)
            chosen = self._limits.choose(sorted(files))
            stamps = [(files[step], stamp_of(files[step])) for step in chosen]
            version = _digest(self.path, stamps)
            if self._last is not None and self._last.version == version:
                return self._last
            known: dict[Path, StepIndex] = {}
            for number, (step, (file, stamp)) in enumerate(zip(chosen, stamps, strict=True), 1):
                before = self._known.get(file)
                if before is None or before.stamp != stamp:
                    report(f"read {file.name}, {number} of {len(chosen)} steps")
                    before = index_step(step, file)
                known[file] = before
            self._known = known
            self._last = self._snapshot(version, tuple(known.values()))
            return self._last

    def _snapshot(self, version: str, steps: tuple[StepIndex, ...]) -> Snapshot:
        named = frozenset().union(*(s.images for s in steps))
        there = _files(self.path / "media")
        here = sum(f"{digest}.png" in there for digest in named)
        return Snapshot(version, steps, len(named), here)


def _files(folder: Path) -> set[str]:
    """The names of a folder's files; a link is none (see ``media.saved_file``)."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}


def _digest(path: Path, stamps: Iterable[tuple[Path, str]]) -> str:
    parts = [f"{name} {stamp_of(path / name)}" for name in _GROWING]
    parts += [f"{file.name} {stamp}" for file, stamp in stamps]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class _Places:
    """Numbers texts in the order they come."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}

    def __call__(self, name: str) -> int:
        return self.names.setdefault(name, len(self.names))

    def listed(self) -> list[str]:
        return list(self.names)


def index_payload(snapshot: Snapshot) -> Json:
    """Return the content of ``data/index.js``: an array per name, an entry per trajectory."""
    categories, sources, ends, reasons = _Places(), _Places(), _Places(), _Places()
    tasks = _Places()
    shorts: dict[str, TaskRow] = {}
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    parts: dict[str, list[float | None]] = {}
    chunks: list[Json] = []
    count = 0
    for step in snapshot.steps:
        places = _chunk_places(step, len(chunks))
        chunks += _chunk_list(step)
        shorts = {**step.tasks, **shorts}
        for row, (chunk, at) in zip(step.rows, places, strict=True):
            short = step.tasks[row.task]
            values = {
                "step": step.step,
                "task": tasks(row.task),
                "category": categories(short.category),
                "source": sources(short.source),
                "end": ends(row.end),
                "reason": -1 if row.reason is None else reasons(row.reason),
                "correct": None if row.correct is None else int(row.correct),
                "std": step.stds[row.group],
                "chunk": chunk,
                "at": at,
                **{name: getattr(row, name) for name in _PLAIN},
            }
            for name, value in values.items():
                columns[name].append(value)
            _add_parts(parts, row, count)
            count += 1
    for values_of in parts.values():
        values_of += [None] * (count - len(values_of))
    return {
        "tasks": [_task(shorts[name]) for name in tasks.names],
        "categories": categories.listed(),
        "sources": sources.listed(),
        "ends": ends.listed(),
        "reasons": reasons.listed(),
        "chunks": chunks,
        "parts": parts,
        **columns,
    }


_PLAIN = (
    *("group", "rollout", "reward", "advantage", "calls", "errors", "turns", "tokens", "visual"),
    *("images", "seconds", "answer"),
)
_COLUMNS = (
    *("step", "task", "category", "source", "end", "reason", "correct", "std", "chunk", "at"),
    *_PLAIN,
)


def _add_parts(parts: dict[str, list[float | None]], row: Row, count: int) -> None:
    for name, value in row.parts.items():
        values = parts.setdefault(name, [])
        values += [None] * (count - len(values))
        values.append(value)


def _chunk_places(step: StepIndex, first: int) -> list[tuple[int, int]]:
    return [
        (first + number, at)
        for number, (start, end) in enumerate(step.chunks)
        for at in range(end - start)
    ]


def _chunk_list(step: StepIndex) -> list[Json]:
    tokens: Sequence[str | None] = step.chunk_names("t") if step.has_tokens else ()
    names = step.chunk_names()
    return [
        {
            "name": name,
            "step": step.step,
            "stamp": step.stamp,
            "tokens": tokens[number] if tokens else None,
        }
        for number, name in enumerate(names)
    ]


def _task(task: TaskRow) -> Json:
    return {
        "id": task.id,
        "category": task.category,
        "source": task.source,
        "question": task.question,
        "video": task.video,
    }


def step_list(snapshot: Snapshot) -> list[Json]:
    """Return the steps as ``data/run.js`` lists them."""
    return [
        {
            "step": s.step,
            "num": len(s.rows),
            "kept": sum(row.reason is None for row in s.rows),
            "groups": len(list(groupby(s.rows, key=lambda row: row.group))),
            "chunks": list(s.chunk_names()),
        }
        for s in snapshot.steps
    ]
