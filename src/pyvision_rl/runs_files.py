"""Files of JSON lines that are whole at any moment.

In: lines. Out: files that are replaced as a whole or grow by whole lines; and the objects that
their lines hold. A process killed while writing leaves at most one cut line, the last, which the
reader names and skips. Knows no run folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pyvision_rl.errors import RunError

TEMPORARY = ".part"
"""How the name of a file that is being written ends."""


def line_of(values: Mapping[str, Any]) -> bytes:
    """Return an object as one line."""
    return json.dumps(values).encode() + b"\n"


def replace_file(file: Path, lines: Iterable[str]) -> None:
    """Write a file as a whole: readers see the old one or the new one, never a part."""
    temporary = file.with_name(file.name + TEMPORARY)
    with writing(file), temporary.open("w", encoding="utf-8") as out:
        out.writelines(line + "\n" for line in lines)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(file)


def append(file: BinaryIO, line: bytes) -> None:
    """Append a line as a whole or not at all: a disk that fills up may take only its beginning."""
    before = file.seek(0, os.SEEK_END)
    with writing(Path(file.name)):
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(before)
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses inside into a RunError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def read_lines(file: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file; a last line without its end is named in ``problems``.

    A cut line is never mistaken for a whole one: no proper beginning of a JSON object is JSON.
    """
    try:
        with file.open("rb") as lines:
            for index, raw in enumerate(lines, 1):
                try:
                    value = json.loads(raw)
                    if not isinstance(value, dict):
                        raise ValueError(f"no object, but {type(value).__name__}")
                    yield value
                except ValueError as error:
                    if raw.endswith(b"\n"):
                        raise RunError(f"{file}, line {index}: not JSON ({error})") from error
                    problem = f"{file.name}, line {index}: cut short, skipped"
                    problems.extend([problem] if problem not in problems else [])
    except OSError as error:
        raise RunError(f"cannot read {file}: {error}") from error
