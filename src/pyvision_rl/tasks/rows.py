"""Task rows as people write them: read, check, and say what is wrong on which line.

In: a JSONL or Parquet file. Out: checked ``Row`` records and every ``Fault`` found. A row is::

    {"id": "q1", "question": "...", "answer": "B", "answer_type": "letter",
     "images": ["a.png"], "videos": ["a.mp4"], "category": "...", "data_source": "..."}

Only ``question`` and ``answer`` are required; ``image`` and ``video`` are short for one; paths are
relative to the file's folder. In Parquet an image may also be encoded bytes, or ``{"bytes",
"path"}``; a video is always a file. Other fields go unused and are logged, but that a row without
media has none under a name of published records is a fault. Does not build tasks and keeps no image
in memory.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.media import bytes_media, file_media
from pyvision_rl.tasks.parquet import ParquetRows
from pyvision_rl.template import spelt_out
from pyvision_rl.types import ANSWER_TYPES, Gold, Task, TaskInput
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
SHOWN_FAULTS = 5
NO_FILE = "no such file"
_THEIRS = ("image_path", "video_path", "mm_hint")
_PUBLISHED = 'is of a published record, which tasks.name = "published" reads'

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with one row."""

    line: int
    """Line of a JSONL file, or row of a Parquet file, from 1."""
    id: str
    """The row's id, which is its line when none is written; empty when there is no row."""
    message: str
    key: str = ""
    """Where in the row, as far as it is told apart."""
    unit: Literal["line", "record"] = "line"
    """What is counted."""

    def __str__(self) -> str:
        """One line for people."""
        where = f"{self.unit} {self.line}{f' (id {self.id})' if self.id else ''}"
        return f"{where}: {f'{self.key}: ' if self.key else ''}{self.message}"


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


@dataclass(frozen=True, slots=True)
class Entry:
    """One row as it was found, good or not."""

    row: Row | None
    """None where there is no row to read."""
    faults: tuple[Fault, ...] = ()
    embedded: tuple[bytes, ...] = ()
    """Images that are stored in the row itself."""
    environment: str = ""
    """What the authors' code is told of the mode, where a row tells."""


class FieldError(Exception):
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
    for entry in entries(path, limit=limit, decode=decode):
        faults.extend(entry.faults)
        if entry.row is not None and not entry.faults:
            rows.append(entry.row)
    return rows, faults


def entries(path: Path, *, limit: int | None, decode: bool = False) -> Iterator[Entry]:
    """Yield every row of a file, good or not; arguments and errors are those of ``load``."""
    line_of_id: dict[str, int] = {}
    unused: set[str] = set()
    for line, raw in islice(read(path), limit):
        if isinstance(raw, str):
            yield Entry(None, (Fault(line, "", raw),))
            continue
        unused.update(raw.keys() - set(FIELDS))
        row, messages = _check(raw, line, path.parent, decode)
        if not any(media_values(raw, kind) for kind in ("image", "video")):
            messages += [f"{key}: {_PUBLISHED}" for key in _THEIRS if raw.get(key) is not None]
        first = line_of_id.setdefault(row.id, line)
        if first != line:
            messages.append(f"id is already used on line {first}")
        faults = tuple(Fault(line, row.id, message) for message in messages)
        yield Entry(row, faults, embedded_in(raw, path.parent))
    if unused:
        _log.info("%s: fields that go unused: %s", path, ", ".join(sorted(unused)))


def bare_task(row: Row) -> Task:
    """Return the task of a row without its media: all that graders by rule look at."""
    public = TaskInput(row.id, row.question, (), row.category, row.data_source)
    return Task(public, Gold(row.answer, row.answer_type))


def embedded_in(raw: Mapping[str, Any], folder: Path) -> tuple[bytes, ...]:
    """Return the images that are stored in a row itself, in their order."""
    found: list[Path | bytes] = []
    for value in media_values(raw, "image"):
        with suppress(TaskError):
            found.append(image_of(value, folder))
    return tuple(each for each in found if isinstance(each, bytes))


def summary(path: Path, faults: Sequence[Fault]) -> str:
    """Return the first few faults and their number."""
    lines = [f"{path}: {len(faults)} fault{'s' if len(faults) > 1 else ''}"]
    lines.extend(f"  {fault}" for fault in faults[:SHOWN_FAULTS])
    if len(faults) > SHOWN_FAULTS:
        more = len(faults) - SHOWN_FAULTS
        lines.append(f"  ... and {more} more; pvrl check tasks {path} --show 0 lists all")
    return "\n".join(lines)


def read(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (line, fields) of every row, or (line, what is wrong) where there is no row to read.

    Raises:
        ConfigError: No such file, or not one of the two formats.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: suffix {path.suffix!r}; allowed: {', '.join(SUFFIXES)}")
    if not path.is_file():
        from pyvision_rl.absent import no_file

        raise ConfigError(no_file(path))
    return ParquetRows(path).rows() if path.suffix == ".parquet" else read_jsonl(path)


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (line, object) of a JSONL file, or (line, what is wrong); blank lines are skipped."""
    with path.open("rb") as file:
        for line, data in enumerate(file, start=1):
            if data.strip():
                yield line, parse_line(data)


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
    """Return the values of ``image`` or ``images`` of a row, or of the same for videos.

    Either may hold a list: columns of images are called both ways.
    """
    single, several = raw.get(kind), raw.get(f"{kind}s")
    value = single if several is None else several
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def given_twice(raw: Mapping[str, Any], kind: str) -> bool:
    """Return whether a row has both columns of which ``media_values`` reads one."""
    return raw.get(kind) is not None and raw.get(f"{kind}s") is not None


def parse_line(data: bytes) -> dict[str, Any] | str:
    """Return the object on a line, or what is wrong with the line."""
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
        except FieldError as error:
            text[field] = ""
            messages.append(str(error))
    text["answer_type"] = text["answer_type"] or "auto"
    if text["answer_type"] not in ANSWER_TYPES:
        known = ", ".join(ANSWER_TYPES)
        messages.append(f"answer_type is {text['answer_type']!r}; allowed: {known}")
    for kind in ("image", "video"):
        if given_twice(raw, kind):
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
    else:
        require_file(where)


def _exists(path: Path) -> bool:
    """Whether something is there; a path that nothing can have names nothing."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def require_file(path: Path) -> None:
    """Raise TaskError when there is no such file."""
    if not (_exists(path) and path.is_file()):
        # A lone surrogate cannot be shown.
        raise TaskError(f"{spelt_out(str(path))}: {NO_FILE}")


def _video(value: Any, folder: Path, decode: bool) -> Path:
    """The file of one video value; TaskError when it is no path, or nothing good is there."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        raise TaskError("a video is given as bytes; write it to a file and give its path")
    if not (isinstance(value, str) and value):
        raise TaskError(f"video {value!r:.80} is not a path")
    path = folder / value
    if decode and _exists(path):
        check_video(path)
    else:
        require_file(path)
    return path


def _text(raw: Mapping[str, Any], field: str) -> str:
    """A field as text; empty when an optional one is absent."""
    required, numeric = field in ("question", "answer"), field != "question"
    try:
        return as_text(raw.get(field), required=required, numeric=numeric)
    except FieldError as error:
        raise FieldError(f"{field} {error}") from error


def as_text(value: Any, *, required: bool, numeric: bool) -> str:
    """Return the value of a field as text; empty when an optional one is absent.

    Args:
        value: What stands there.
        required: It may not be absent or blank.
        numeric: It may be a number.

    Raises:
        FieldError: It is something else; the message goes on from the field's name.
    """
    if value is None:
        if required:
            raise FieldError("is missing")
        return ""
    number = numeric and isinstance(value, int | float | Decimal)
    if isinstance(value, bool) or not (isinstance(value, str) or number):
        allowed = "text or a number" if numeric else "text"
        raise FieldError(f"is {value!r:.80}, wants {allowed}")
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise FieldError(f"is {value!r}, wants a finite number")
    try:
        text = str(value)
        text.encode()
    except UnicodeEncodeError as error:
        raise FieldError("holds half of a surrogate pair") from error
    except ValueError as error:
        raise FieldError("has too many digits") from error
    if required and not text.strip():
        raise FieldError("is empty")
    return text
