r"""Tasks from the RL and validation files that the authors of PyVision-RL publish and convert.

In: a ``.json`` array, ``.jsonl`` or ``.parquet`` file whose records have either shape, or both::

    raw        {"id", "question", "answer", "ability", "data_source", "image_path" | "video_path"}
    processed  {"prompt": [{"role": "user", "content"}], "data_source", "ability", "env_name",
                "reward_model": {"ground_truth"}, "extra_info": {"question", "answer", "index"},
                "mm_hint": {"hint_path", "hint_type": "image" | "video"}}

A raw record may also hold ``image``, ``images``, ``video`` or ``videos``, encoded bytes among them,
as ``rows`` reads them. Out: ``Task`` records. Records are read once to check them, and again, one
at a time, when a task is asked for. Text is kept as it stands: the template of ``[prompts]`` is put
around the question, unless ``question = "prompt"`` takes the record's own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pyvision_rl.config import TasksConfig
from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.media import bytes_media, file_media
from pyvision_rl.registry import parse_options
from pyvision_rl.tasks.records import Record, RecordFile
from pyvision_rl.tasks.rows import (
    Entry,
    Fault,
    FieldError,
    Row,
    as_text,
    given_twice,
    media_values,
    require_file,
    summary,
)
from pyvision_rl.template import spelt_out
from pyvision_rl.types import ANSWER_TYPES, Gold, Media, Task, TaskInput
from pyvision_rl.video import file_video, require_av

PROCESSED = ("prompt", "reward_model", "extra_info", "mm_hint")
"""A record that has one of these was converted by the authors' code."""
MARKER = "<image>"
"""Stands in a processed prompt where the image goes."""
MEDIA = ("image", "video")

_log = logging.getLogger(__name__)


class Options(BaseModel):
    """The options of ``[tasks] name = "published"``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    media_root: str = ""
    """Folder that relative paths of images and videos start from; empty is the file's folder."""
    drop_prefix: str = ""
    """Folder that paths begin with and that is taken off, such as ``/path/to`` of another machine;
    what is left is relative."""
    question: Literal["question", "prompt"] = "question"
    """prompt: the whole prompt of processed records, without its ``<image>`` line; with
    ``prompts.template = "minimal"`` the model reads what the authors' code shows it."""
    ids: Literal["written", "sourced", "numbered"] = "written"
    """written: as they stand. sourced: with the data source before them. numbered: the number of
    the record. Two tasks of one id are a fault."""
    answer_type: Literal[
        "auto", "text", "letter", "integer", "float", "yes_no", "set", "sequence"
    ] = "auto"
    """How answers compare; auto goes by a record's own ``answer_type``, else by its reference."""
    skip_faulty: bool = False
    """Leave faulty records out, with a warning that counts them, instead of refusing the file."""


class PublishedTasks:
    """The records of one file as tasks."""

    def __init__(self, config: TasksConfig) -> None:
        """Read and check the records; images and videos are only looked for, not opened.

        Raises:
            ConfigError: ``tasks.path`` is missing or no file of these formats, or there are videos
                and the extra ``video`` is not installed.
            TaskError: A record is faulty and not to be skipped, or there is none left.
        """
        self._options = parse_options(Options, config.options, "tasks.options")
        if not config.path:
            raise ConfigError("tasks.path is empty; wants a .json, .jsonl or .parquet file")
        self._path = Path(config.path)
        self._file = RecordFile(self._path)
        self._places: list[tuple[int, tuple[int, int]]] = []
        """Number and place of each good record."""
        faults: list[Fault] = []
        sources: set[str] = set()
        faulty = 0
        films = False
        for record, entry in found(self._file, self._path, self._options, config.limit):
            if entry.row is None or entry.faults:
                faults += entry.faults
                faulty += 1
                continue
            self._places.append((record.number, record.place))
            sources.add(entry.row.data_source)
            films = films or bool(entry.row.videos)
        if faults and not self._options.skip_faulty:
            raise TaskError(summary(self._path, faults))
        if faults:
            total = faulty + len(self._places)
            text = summary(self._path, faults)
            _log.warning("%d of %d records are faulty and left out: %s", faulty, total, text)
        if not self._places:
            raise TaskError(f"{self._path}: holds no tasks")
        if films:
            require_av(f"{self._path}: a video")
        self._sources = frozenset(sources)

    def __len__(self) -> int:
        """Number of tasks."""
        return len(self._places)

    def __getitem__(self, index: int) -> Task:
        """Return task ``index`` with its images decoded and its videos probed.

        Raises:
            IndexError: There is no such task.
            TaskError: The file has changed, or an image or a video cannot be read.
        """
        if not 0 <= index < len(self._places):
            raise IndexError(f"task {index} of {len(self._places)}")
        number, place = self._places[index]
        entry = entry_of(Record(number, self._file.at(place)), self._path, self._options)
        if entry.row is None or entry.faults:
            raise TaskError(f"{self._path} {entry.faults[0]}")
        row = entry.row
        try:
            media = (*_images(entry), *(file_video(path) for path in row.videos))
        except TaskError as error:
            where = Fault(number, row.id, str(error), unit="record")
            raise TaskError(f"{self._path} {where}") from error
        return Task(
            TaskInput(row.id, row.question, media, row.category, row.data_source),
            Gold(row.answer, row.answer_type),
        )

    def data_sources(self) -> frozenset[str]:
        """Return the ``data_source`` of every task."""
        return self._sources


def found(
    file: Iterable[Record], path: Path, options: Options, limit: int | None = None
) -> Iterator[tuple[Record, Entry]]:
    """Yield every record of a file with what it says; media are looked for, not opened.

    Args:
        file: The records.
        path: Their file, for the folder that paths start from.
        options: Of the task set.
        limit: Stop after this many records.
    """
    number_of_id: dict[str, int] = {}
    for record in islice(file, limit):
        entry = entry_of(record, path, options)
        if entry.row is not None:
            first = number_of_id.setdefault(entry.row.id, record.number)
            if first != record.number:
                text = f"that of record {first} too; tasks.options.ids has ways to tell them apart"
                twice = Fault(record.number, entry.row.id, text, "id", "record")
                entry = replace(entry, faults=(*entry.faults, twice))
        yield record, entry


def entry_of(record: Record, path: Path, options: Options) -> Entry:
    """Return what one record says, and everything that is wrong with it."""
    raw = record.value
    if isinstance(raw, str):
        return Entry(None, (Fault(record.number, "", raw, unit="record"),))
    fields = _Fields(raw)
    processed = any(raw.get(key) is not None for key in PROCESSED)
    text = _processed(fields, options) if processed else _raw(fields, options)
    hints = _media(fields, raw) if processed else _pathed(fields, raw)
    root = Path(options.media_root) if options.media_root else path.parent
    images: list[Path | int] = []
    videos: list[Path] = []
    embedded: list[bytes] = []
    for kind, key, value in hints:
        try:
            where = _located(value, kind, options, root)
            if isinstance(where, bytes):
                images.append(len(embedded))
                embedded.append(where)
                continue
            (images if kind == "image" else videos).append(where)
            require_file(where)
        except (FieldError, TaskError) as error:
            fields.wrong.append((key, str(error)))
    text["id"] = _named(text, record.number, options)
    row = Row(record.number, **text, images=tuple(images), videos=tuple(videos))
    faults = (
        Fault(record.number, row.id, message, key, "record")
        for key, message in dict.fromkeys(fields.wrong)
    )
    environment = raw.get("env_name")
    known = spelt_out(environment) if isinstance(environment, str) else ""
    return Entry(row, tuple(faults), tuple(embedded), known)


class _Fields:
    """The fields of one record, and what is wrong with them."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = raw
        self.wrong: list[tuple[str, str]] = []
        """(key, message)."""

    def find(self, key: str) -> Any:
        """Return what stands under a dotted key; None where nothing does."""
        value: Any = self._raw
        names = key.split(".")
        for depth, name in enumerate(names):
            if value is None:
                return None
            if not isinstance(value, Mapping):
                where = ".".join(names[:depth])
                self.wrong.append((where, f"is a {type(value).__name__}, wants an object"))
                return None
            value = value.get(name)
        return value

    def text(self, key: str, *, required: bool = False, numeric: bool = True) -> str:
        """Return a field as text; empty where it is absent or faulty."""
        before = len(self.wrong)
        value = self.find(key)
        if len(self.wrong) > before:
            return ""  # what it should stand in is faulty already
        try:
            return as_text(value, required=required, numeric=numeric)
        except FieldError as error:
            self.wrong.append((key, str(error)))
            return ""


def _raw(fields: _Fields, options: Options) -> dict[str, str]:
    if options.question == "prompt":
        fields.wrong.append(("prompt", 'is missing, and tasks.options.question is "prompt"'))
    return {
        "id": fields.text("id"),
        "question": fields.text("question", required=True, numeric=False),
        "answer": fields.text("answer", required=True),
        **_labels(fields, options),
    }


def _processed(fields: _Fields, options: Options) -> dict[str, str]:
    key = "id" if fields.find("id") is not None else "extra_info.index"
    if options.question == "prompt":
        question = _prompt(fields)
    else:
        question = fields.text("extra_info.question", required=True, numeric=False)
    answer = fields.text("reward_model.ground_truth", required=True)
    other = fields.text("extra_info.answer")
    if answer and other and answer != other:
        text = f"is {other!r:.60}, but reward_model.ground_truth is {answer!r:.60}"
        fields.wrong.append(("extra_info.answer", text))
    return {
        "id": fields.text(key),
        "question": question,
        "answer": answer,
        **_labels(fields, options),
    }


def _labels(fields: _Fields, options: Options) -> dict[str, str]:
    kind: str = options.answer_type
    if kind == "auto" and (own := fields.text("answer_type")):
        kind = own
        if own not in ANSWER_TYPES:
            allowed = ", ".join(ANSWER_TYPES)
            fields.wrong.append(("answer_type", f"is {own!r:.40}; allowed: {allowed}"))
    named = "category" if isinstance(fields.find("category"), str) else "ability"
    return {
        "answer_type": kind,
        "category": fields.text("ability") or fields.text(named),
        "data_source": fields.text("data_source"),
    }


def _prompt(fields: _Fields) -> str:
    """What the one user message of a processed prompt says, without the image's line."""
    messages = fields.find("prompt")
    if not (
        isinstance(messages, list | tuple)
        and len(messages) == 1
        and isinstance(messages[0], Mapping)
        and messages[0].get("role") == "user"
    ):
        fields.wrong.append(("prompt", "wants a list of one message of the user"))
        return ""
    try:
        text = as_text(messages[0].get("content"), required=True, numeric=False)
    except FieldError as error:
        fields.wrong.append(("prompt[0].content", str(error)))
        return ""
    return text.removeprefix(MARKER).removeprefix("\n") if text.startswith(MARKER) else text


def _media(fields: _Fields, raw: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """(kind, key, value) of each medium of a processed record: its hint's, or a column's."""
    hinted, held = list(_hinted(fields)), list(_pathed(fields, raw))
    if hinted and held:
        fields.wrong.append((held[0][1], "stands beside mm_hint; use one"))
    return hinted or held


def _hinted(fields: _Fields) -> Iterator[tuple[str, str, Any]]:
    """(kind, key, value) of each medium that a processed record's hint names."""
    kind, value = fields.find("mm_hint.hint_type"), fields.find("mm_hint.hint_path")
    if kind is None and value is None:
        return
    if kind not in MEDIA:
        fields.wrong.append(("mm_hint.hint_type", f"is {kind!r:.40}; allowed: {', '.join(MEDIA)}"))
    else:
        yield from _each(kind, "mm_hint.hint_path", value)


def _pathed(fields: _Fields, raw: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(kind, key, value) of each medium that a record's own columns name, images first."""
    kinds: tuple[Literal["image", "video"], ...] = ("image", "video")
    for kind in kinds:
        path = fields.find(f"{kind}_path")
        held = media_values(raw, kind)
        if given_twice(raw, kind):
            fields.wrong.append((kind, f"stands beside {kind}s; use one"))
        if path is not None and held:
            fields.wrong.append((kind, f"stands beside {kind}_path; use one"))
        elif path is not None:
            yield from _each(kind, f"{kind}_path", path)
        else:
            yield from _each(kind, kind, held)


def _each(kind: str, key: str, value: Any) -> Iterator[tuple[str, str, Any]]:
    """One medium, or each of a list."""
    if not isinstance(value, list | tuple):
        yield kind, key, value
        return
    for place, each in enumerate(value):
        yield kind, f"{key}[{place}]", each


def _located(value: Any, kind: str, options: Options, root: Path) -> Path | bytes:
    """The file of a medium, or an image's encoded bytes."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        if kind == "video":
            raise FieldError("is given as bytes; write it to a file and give its path")
        return value
    if not (isinstance(value, str) and value.strip()):
        raise FieldError(f"is {value!r:.80}, wants a path")
    name, prefix = str(value), options.drop_prefix.rstrip("/")
    if options.drop_prefix and name.startswith(f"{prefix}/"):
        name = name.removeprefix(prefix).lstrip("/")
    return root / name


def _named(text: Mapping[str, str], number: int, options: Options) -> str:
    """The id of a task."""
    name = text["id"] or str(number)
    if options.ids == "numbered":
        return str(number)
    return f"{text['data_source']}/{name}" if options.ids == "sourced" else name


def _images(entry: Entry) -> Iterator[Media]:
    """The images of a record, decoded."""
    assert entry.row is not None
    for image in entry.row.images:
        if isinstance(image, Path):
            yield file_media(image)
        else:
            yield bytes_media(entry.embedded[image], f"image {image}")
