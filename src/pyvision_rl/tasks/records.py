"""Records of a JSON array, JSONL or Parquet file: read one after the other, and found again.

In: a file. Out: ``Record`` for every one that it holds, or says to hold, with a place at which
``RecordFile.at`` finds it again, so that nobody keeps them all in memory. Of an array, one record
and a block of text are in memory at a time. Where an array is no longer JSON, the record there is
faulty and the last one: what stands behind cannot be told apart. Knows no fields.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pyvision_rl.absent import no_file
from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.tasks.parquet import ParquetRows
from pyvision_rl.tasks.rows import parse_line

SUFFIXES = (".json", ".jsonl", ".parquet")
BLOCK = 2**20
"""Bytes that are read together, at least."""

_SPACE = " \t\n\r"
_CUT_CHARS = 16
"""Text cut off so near to its end may be what is wrong with a value."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file."""

    number: int
    """From 1; of a JSONL file the line."""
    value: dict[str, Any] | str
    """Its fields, or what is wrong where there are none."""
    place: tuple[int, int] = (0, 0)
    """First byte and number of bytes; of a Parquet file the row, from 1, and 0."""


class RecordFile:
    """A file of records."""

    def __init__(self, path: Path) -> None:
        """Look at the file; reads nothing.

        Raises:
            ConfigError: No such file, or none of the three formats; or Parquet without pyarrow.
        """
        if path.suffix not in SUFFIXES:
            raise ConfigError(f"{path}: suffix {path.suffix!r}; allowed: {', '.join(SUFFIXES)}")
        if not path.is_file():
            raise ConfigError(no_file(path))
        self._path = path
        self._state = _state(path)
        self._rows = ParquetRows(path, columns=None) if path.suffix == ".parquet" else None

    def __iter__(self) -> Iterator[Record]:
        """Yield every record in file order.

        Raises:
            TaskError: The file as a whole holds none, or a part of a Parquet file is damaged.
        """
        if self._rows is not None:
            for row, value in self._rows.rows():
                yield Record(row, value, (row, 0))
            return
        with self._path.open("rb") as file:
            yield from _lines(file) if self._path.suffix == ".jsonl" else _array(file, self._path)

    def at(self, place: tuple[int, int]) -> dict[str, Any]:
        """Return the fields of the record at a place.

        Raises:
            TaskError: The file was changed since it was opened, or cannot be read.
        """
        try:
            if _state(self._path) != self._state:
                raise TaskError(f"{self._path}: changed since it was first read")
            if self._rows is not None:
                return self._rows.fields(place[0])
            with self._path.open("rb") as file:
                file.seek(place[0])
                found = parse_line(file.read(place[1]))
        except OSError as error:
            raise TaskError(f"{self._path}: {error.strerror or error}") from error
        if isinstance(found, str):
            raise TaskError(f"{self._path}: byte {place[0]}: {found}")
        return found


def _state(path: Path) -> tuple[int, int]:
    """Size and time of change, by which a changed file is told."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _lines(file: IO[bytes]) -> Iterator[Record]:
    start = 0
    for number, data in enumerate(file, start=1):
        if data.strip():
            yield Record(number, parse_line(data), (start, len(data)))
        start += len(data)


class _Text:
    """The text of a file from some place on, as much of it as was asked for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.text = ""
        self.at = 0
        """Where in ``text`` the next value begins."""
        self.byte = file.tell()
        """Where in the file ``at`` is."""

    def more(self) -> bool:
        """Append a block, of twice the size of what is not done with yet; False at the end.

        Raises:
            UnicodeDecodeError: It is not UTF-8.
        """
        self.text, self.at = self.text[self.at :], 0
        data = self._file.read(max(BLOCK, 2 * len(self.text)))
        self.text += self._decoder.decode(data, final=not data)
        return bool(data)

    def advance(self, count: int) -> int:
        """Go on by so many characters; return how many bytes that is."""
        size = len(self.text[self.at : self.at + count].encode())
        self.at += count
        self.byte += size
        return size

    def peek(self) -> str:
        """Return the next character that is no space, and go there; empty at the end."""
        while True:
            rest = len(self.text)
            end = next((i for i in range(self.at, rest) if self.text[i] not in _SPACE), rest)
            self.advance(end - self.at)
            if end < rest:
                return self.text[end]
            if not self.more():
                return ""

    def value(self) -> tuple[Any, int]:
        """Return the JSON value that begins here, and its bytes; goes behind it.

        Raises:
            ValueError: There is none.
            RecursionError: It is nested too deeply.
        """
        decode = json.JSONDecoder().raw_decode
        while True:
            try:
                value, end = decode(self.text, self.at)
            except json.JSONDecodeError as error:
                near_end = error.pos >= len(self.text) - _CUT_CHARS
                if (near_end or error.msg.startswith("Unterminated")) and self.more():
                    continue
                raise
            # A number at the end may go on.
            if end == len(self.text) and self.more():
                continue
            return value, self.advance(end - self.at)


def _array(file: IO[bytes], path: Path) -> Iterator[Record]:
    """The elements of an array.

    Raises:
        TaskError: The file holds none.
    """
    if file.read(3) != codecs.BOM_UTF8:
        file.seek(0)
    text = _Text(file)
    number = 1
    try:
        if text.peek() != "[":
            raise TaskError(f"{path}: wants a JSON array of records; one a line is .jsonl")
        text.advance(1)
        while text.peek() != "]":
            if number > 1:
                _comma(text)
            start = text.byte
            value, size = text.value()
            wrong = f"a {type(value).__name__}, wants an object"
            yield Record(number, value if isinstance(value, dict) else wrong, (start, size))
            number += 1
        text.advance(1)
        if sign := text.peek():
            raise ValueError(f"{sign!r} behind the end of the array")
    except TaskError:
        raise
    except (ValueError, RecursionError) as error:
        # The place in its own message counts from the beginning of a block.
        why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        why = why.removesuffix(" at").removesuffix(" starting")
        said = f"not JSON ({why}, at byte {text.byte} or behind it); nothing behind it is read"
        yield Record(number, said)


def _comma(text: _Text) -> None:
    """Go behind the comma between two elements."""
    sign = text.peek()
    if sign != ",":
        raise ValueError(f"wants a comma or the array's end, found {sign or 'the end of the file'}")
    text.advance(1)
    text.peek()
