"""Tables of published benchmarks: TSV, Parquet, JSON, JSONL, or a data set of the Hugging Face hub.

In: a file or a hub name, and which columns hold media. Out: a ``Table``: its rows without media,
which may be gigabytes, and a way to read one of them again. Knows no benchmark and decodes nothing.
"""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.suites.parquet import ParquetTable

Row: TypeAlias = Mapping[str, Any]
HUB = "hf:"
SHORT = 64
"""Characters. In a TSV, a shorter media value is no picture but the index of a row that has it."""
MAX_FIELD = 2**31 - 1
"""Bytes; the picture of an 8K photo takes tens of millions."""


@dataclass(frozen=True, slots=True)
class Table:
    """A file's rows, and its media on request."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    """Without media, but for those values of a TSV that are ``SHORT``."""
    read: Callable[[int, str], Any]
    """(row from 0, media column) -> its value; raises TaskError."""

    def need(self, *columns: str, where: str = "") -> None:
        """Check that the columns are there.

        Args:
            columns: Their names.
            where: Which file to get, for the error.

        Raises:
            TaskError: One is not.
        """
        if lost := [name for name in columns if name not in self.columns]:
            raise TaskError(
                f"{self.name}: has no column {', '.join(map(repr, lost))}; "
                f"its columns: {', '.join(self.columns)}{where and f'; {where}'}"
            )

    @contextmanager
    def naming(self, number: int, *also: type[Exception]) -> Iterator[None]:
        """Have a TaskError of row ``number``, and errors of other types, name table and row.

        Raises:
            TaskError: What went wrong inside.
        """
        kinds: tuple[type[Exception], ...] = (TaskError, *also)
        try:
            yield
        except kinds as error:
            raise TaskError(f"{self.name}: row {number + 1}: {error}") from error


def open_table(path: Path, media: Collection[str]) -> Table:
    """Return the table in a file, or of ``hf:owner/name``, ``hf:owner/name/config@split``.

    Raises:
        TaskError: The file is malformed or of an unknown kind.
        ConfigError: A package is not installed, or the hub does not give the data set.
    """
    if is_hub(path):
        return _hub(path, media)
    readers = {".tsv": _tsv, ".parquet": _parquet, ".jsonl": _jsonl, ".json": _json}
    reader = readers.get(path.suffix)
    if reader is None:
        raise TaskError(f"{path}: wants one of {', '.join(readers)}")
    try:
        return reader(path, media)
    except (OSError, UnicodeError) as error:
        raise TaskError(f"{path}: cannot be read ({error})") from error


def is_hub(path: Path) -> bool:
    """Return whether a path is the name of a data set on the hub."""
    return str(path).startswith(HUB)


class _Lines:
    """The lines of a file, and where the next one begins."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.position = file, file.tell()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        self.position += len(line)
        return line.decode("utf-8")


def _fields(lines: Iterator[str]) -> Iterator[list[str]]:
    """The records of a TSV; a quoted field may hold tabs and newlines."""
    # The limit is the process's; it is only ever raised, so no other reader is cut short.
    csv.field_size_limit(max(MAX_FIELD, csv.field_size_limit()))
    return csv.reader(lines, delimiter="\t")


def _tsv(path: Path, media: Collection[str]) -> Table:
    rows: list[Row] = []
    places: list[int] = []
    with path.open("rb") as file:
        lines = _Lines(file)
        records = _fields(lines)
        header = [name.removeprefix("\ufeff") for name in next(records, [])]
        place = lines.position
        try:
            for fields in records:
                if fields:
                    places.append(place)
                    rows.append(_row(path, header, fields, len(places), media))
                place = lines.position
        except csv.Error as error:
            raise TaskError(f"{path}: row {len(places) + 1}: {error}") from error

    def read(row: int, column: str) -> str:
        with path.open("rb") as file:
            file.seek(places[row])
            return next(_fields(_Lines(file)))[header.index(column)]

    return Table(str(path), tuple(header), tuple(rows), read)


def _row(
    path: Path, header: Sequence[str], fields: Sequence[str], number: int, media: Collection[str]
) -> Row:
    if len(fields) != len(header):
        raise TaskError(f"{path}: row {number} has {len(fields)} fields, wants {len(header)}")
    pairs = zip(header, fields, strict=True)
    return {name: text for name, text in pairs if name not in media or len(text) <= SHORT}


def _parquet(path: Path, media: Collection[str]) -> Table:
    file = ParquetTable(path, media)
    return Table(str(path), file.columns, file.rows, file.value)


def _jsonl(path: Path, media: Collection[str]) -> Table:
    found: list[Any] = []
    # Not splitlines: a text may hold U+2028 or a form feed, which JSON does not escape.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise TaskError(f"{path}: line {number} is not JSON ({error})") from error
    return _in_memory(str(path), found, media)


def _json(path: Path, media: Collection[str]) -> Table:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TaskError(f"{path}: is not JSON ({error})") from error
    if isinstance(found, dict):
        found = list(found.values())
    return _in_memory(str(path), found if isinstance(found, list) else [found], media)


def _in_memory(name: str, found: Sequence[Any], media: Collection[str]) -> Table:
    """The table of records that were read whole: paths of media are short."""
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            raise TaskError(f"{name}: record {number} is no object")
    columns = tuple(dict.fromkeys(key for row in found for key in row))
    rows = tuple({k: v for k, v in row.items() if k not in media} for row in found)
    return Table(name, columns, rows, lambda row, column: found[row].get(column))


def _hub(path: Path, media: Collection[str]) -> Table:
    name, _, split = str(path).removeprefix(HUB).partition("@")
    owner, _, rest = name.partition("/")
    repository, _, subset = rest.partition("/")
    if not (owner and repository):
        raise ConfigError(f"path = {str(path)!r}: wants hf:owner/name, hf:owner/name/config@split")
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise ConfigError(
            f"path = {str(path)!r} is read with the package datasets, which is not installed; run "
            f"pip install datasets, or download {owner}/{repository} and give its file as path"
        ) from error
    try:
        found = datasets.load_dataset(
            f"{owner}/{repository}", subset or None, split=split or "test"
        )
    except Exception as error:  # The hub's client raises any type.
        raise ConfigError(
            f"path = {str(path)!r} could not be loaded ({error}); without a connection, download "
            f"{owner}/{repository} elsewhere and give its file as path"
        ) from error
    columns = tuple(found.column_names)
    there = [name for name in columns if name in media]
    rows = tuple(dict(row) for row in found.remove_columns(there))
    return Table(str(path), columns, rows, lambda row, column: found[row][column])
