"""Lines of JSON files, whatever became of them.

In: a file that may be growing, cut or broken. Out: the objects that can be read, with their places,
and a remark on what cannot. Never raises for what a file holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyvision_rl.view.scripts import Json

MAX_NAMED = 3
"""Faults of one file that are told one by one."""


@dataclass(slots=True)
class Problems:
    """What was skipped in one file."""

    file: str
    count: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Note one fault."""
        self.count += 1
        if self.count <= MAX_NAMED:
            self.named.append(f"{self.file}{text}")

    def told(self) -> tuple[str, ...]:
        """Return the faults in words."""
        more = self.count - len(self.named)
        rest = (f"{self.file}: {more} more lines were skipped",) if more else ()
        return (*self.named, *rest)


@dataclass(frozen=True, slots=True)
class Raw:
    """One whole line."""

    number: int
    """From 1."""
    offset: int
    content: bytes


def raw_lines(file: Path, problems: Problems) -> Iterator[Raw]:
    """Yield the whole lines of a file; a last one without its end is a problem."""
    offset = 0
    try:
        with file.open("rb") as lines:
            for number, content in enumerate(lines, 1):
                if content.endswith(b"\n"):
                    yield Raw(number, offset, content)
                else:
                    problems.add(f", line {number}: cut short, skipped")
                offset += len(content)
    except OSError as error:
        problems.add(f" cannot be read: {error.strerror or error}")


def objects(file: Path, problems: Problems) -> Iterator[Json]:
    """Yield the objects of a file of JSON lines; nothing if there is no such file."""
    if not file.exists():
        return
    for line in raw_lines(file, problems):
        value = parsed(line.content)
        if isinstance(value, dict):
            yield value
        else:
            problems.add(f", line {line.number}: not a JSON object, skipped")


def read_json(file: Path, problems: list[str]) -> Any:
    """Return what a JSON file holds; None if it is not there, or broken, which is a problem."""
    if not file.exists():
        return None
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{file.name} cannot be read: {error}")
        return None


def parsed(content: bytes) -> Any:
    """Return the value of a line; None if it is not JSON."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
