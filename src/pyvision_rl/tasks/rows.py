"""Task rows as people write them: read, check, and say what is wrong on which line.

In: a JSONL or Parquet file. Out: checked ``Row`` records and every ``Fault`` found. A row is::

    {"id": "q1", "question": "...", "answer": "B", "answer_type": "letter",
     "images": ["a.png"], "videos": ["a.mp4"], "category": "...", "data_source": "..."}

Only ``question`` and ``answer`` are required; ``image`` and ``video`` are short for one; paths are
relative to the file's folder. In Parquet an image may also be encoded bytes, or ``{"bytes",
"path"}``; a video is always a file. Other fields go unused and are logged. Does not build tasks and
keeps no image in memory.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.media import bytes_media, file_media
from pyvision_rl.tasks.parquet import ParquetRows
from pyvision_rl.types import ANSWER_TYPES
from pyvision_rl.video import check_video

FIELDS = (
    "id",
    "question",
    "answer",
    "answer_type",
    "image",
    "images",
    "video",
    "videos",
    "category",
    "data_source",
)
SUFFIXES = (".jsonl", ".parquet")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with one row."""

    line: int
    """Line of a JSONL file, or row of a Parquet file, from 1."""
    id: str
    """The row's id, which is its line when none is written; empty when there is no row."""
    message: str

    def __str__(self) -> str:
        """One line for people."""
        return f"line {self.line}{f' (id {self.id})' if self.id else ''}: {self.message}"


@dataclass(frozen=True, slots=True)
class Row:
    """A checked row; its images and videos are not opened yet."""

    line: int
    id: str
    question: str
    answer: str
    answer_type: str
    images: tuple[Path | int, ...]
    """Files, or the position of an image embedded in the row."""
    videos: tuple[Path, ...]
    category: str
    data_source: str


class _RowError(Exception):
    """A fault found while one field is read."""


def load(path: Path, *, limit: int | None, decode: bool) -> tuple[list[Row], list[Fault]]:
    """Return the good rows and all faults of a file.

    Args:
        path: A ``.jsonl`` or ``.parquet`` file.
        limit: Stop after this many rows; None reads all.
        decode: Decode every image, and look into every video; False only checks that the files
            are there.

    Raises:
        ConfigError: No such file, not one of the two formats, or videos and nothing to read them.
    """
    rows: list[Row] = []
    faults: list[Fault] = []
    line_of_id: dict[str, int] = {}
    unused: set[str] = set()
    for count, (line, raw) in enumerate(read(path)):
        if limit is not None and count >= limit:
            break
        if isinstance(raw, str):
            faults.append(Fault(line, "", raw))
            continue
        unused.update(raw.keys() - set(FIELDS))
        row, messages = _check(raw, line, path.parent, decode)
        first = line_of_id.setdefault(row.id, line)
        if first != line:
            messages.append(f"id is already used on line {first}")
        faults.extend(Fault(line, row.id, message) for message in messages)
        if not messages:
            rows.append(row)
    if unused:
        _log.info("%s: fields that go unused: %s", path, ", ".join(sorted(unused)))
    return rows, faults


def read(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (line, fields) of every row, or (line, what is wrong) where there is no row to read.

    Raises:
        ConfigError: No such file, or not one of the two formats.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: suffix {path.suffix!r}; allowed: {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    return ParquetRows(path).rows() if path.suffix == ".parquet" else read_jsonl(path)


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (line, object) of a JSONL file, or (line, what is wrong); blank lines are skipped."""
    with path.open("rb") as file:
        for line, data in enumerate(file, start=1):
            if data.strip():
                yield line, _parse_line(data)


def image_of(value: Any, folder: Path) -> Path | bytes:
    """Return where one image value points: a file, or encoded bytes.

    Raises:
        TaskError: The value is neither path nor bytes nor ``{"bytes", "path"}``.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if isinstance(value, str) and value:
        return folder / value
    raise TaskError(f"image {value!r:.80} is neither a path nor encoded bytes")


def media_values(raw: Mapping[str, Any], kind: Literal["image", "video"]) -> list[Any]:
    """Return the values of ``image`` or ``images`` of a row, or of the same for videos."""
    single, several = raw.get(kind), raw.get(f"{kind}s")
    if several is None:
        return [] if single is None else [single]
    return list(several) if isinstance(several, list | tuple) else [several]


def _parse_line(data: bytes) -> dict[str, Any] | str:
    """The object on a line, or what is wrong with the line."""
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return f"not UTF-8 ({error.reason} at byte {error.start})"
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"
    return value if isinstance(value, dict) else f"a {type(value).__name__}, wants an object"


def _check(raw: dict[str, Any], line: int, folder: Path, decode: bool) -> tuple[Row, list[str]]:
    """The row, and everything wrong with it; a faulty field stands as an empty one."""
    messages: list[str] = []
    text = {}
    for field in ("id", "question", "answer", "answer_type", "category", "data_source"):
        try:
            text[field] = _text(raw, field)
        except _RowError as error:
            text[field] = ""
            messages.append(str(error))
    text["answer_type"] = text["answer_type"] or "auto"
    if text["answer_type"] not in ANSWER_TYPES:
        known = ", ".join(ANSWER_TYPES)
        messages.append(f"answer_type is {text['answer_type']!r}; allowed: {known}")
    for kind in ("image", "video"):
        if raw.get(kind) is not None and raw.get(f"{kind}s") is not None:
            messages.append(f"both {kind} and {kind}s are given; use one")
    images: list[Path | int] = []
    for position, value in enumerate(media_values(raw, "image")):
        try:
            where = image_of(value, folder)
            images.append(where if isinstance(where, Path) else position)
            _check_image(where, position, decode)
        except TaskError as error:
            messages.append(str(error))
    videos: list[Path] = []
    for value in media_values(raw, "video"):
        try:
            videos.append(_video(value, folder, decode))
        except TaskError as error:
            messages.append(str(error))
    text["id"] = text["id"] or str(line)
    return Row(line=line, images=tuple(images), videos=tuple(videos), **text), messages


def _check_image(where: Path | bytes, position: int, decode: bool) -> None:
    """Raise TaskError when the image is not there, or with ``decode`` cannot be decoded."""
    if isinstance(where, bytes):
        if decode:
            bytes_media(where, f"image {position}")
    elif decode:
        file_media(where)
    elif not where.is_file():
        raise TaskError(f"{where}: no such file")


def _video(value: Any, folder: Path, decode: bool) -> Path:
    """The file of one video value; TaskError when it is no path, or nothing good is there."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        raise TaskError("a video is given as bytes; write it to a file and give its path")
    if not (isinstance(value, str) and value):
        raise TaskError(f"video {value!r:.80} is not a path")
    path = folder / value
    if decode:
        check_video(path)
    elif not path.is_file():
        raise TaskError(f"{path}: no such file")
    return path


def _text(raw: Mapping[str, Any], field: str) -> str:
    """A field as text; empty when an optional one is absent."""
    value = raw.get(field)
    required = field in ("question", "answer")
    if value is None:
        if required:
            raise _RowError(f"{field} is missing")
        return ""
    numeric = field != "question" and isinstance(value, int | float | Decimal)
    if isinstance(value, bool) or not (isinstance(value, str) or numeric):
        allowed = "text" if field == "question" else "text or a number"
        raise _RowError(f"{field} is {value!r:.80}, wants {allowed}")
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise _RowError(f"{field} is {value!r}, wants a finite number")
    text = str(value)
    if required and not text.strip():
        raise _RowError(f"{field} is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _RowError(f"{field} holds half of a surrogate pair") from error
    return text
