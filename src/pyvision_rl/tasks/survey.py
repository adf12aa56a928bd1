"""Every row behind a task set, good or not, for those who check data before a run.

In: a ``[tasks]`` section. Out: its ``Entry`` records, with the file they are from; nothing for a
task set that makes its tasks instead of reading them. Opens no image and no video.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from pyvision_rl.config import TasksConfig
from pyvision_rl.errors import TaskError
from pyvision_rl.registry import parse_options
from pyvision_rl.tasks import published, records, rows
from pyvision_rl.tasks.mixture import Options as MixtureOptions

PUBLISHED_KEYS = frozenset({"image_path", "video_path", "ability", *published.PROCESSED})
"""A record with one of these is in a published shape."""
_LOOKED_AT = 20


def surveyed(section: TasksConfig) -> Iterator[tuple[Path, rows.Entry]]:
    """Yield (file, row) of every file behind a section; a mixture has several.

    Raises:
        ConfigError: A file is missing or of no known format, or an option is wrong.
        TaskError: A file as a whole holds no records.
    """
    path = Path(section.path)
    if section.name in ("jsonl", "parquet") and section.path:
        for entry in rows.entries(path, limit=section.limit):
            yield path, entry
    elif section.name == "published" and section.path:
        options = parse_options(published.Options, section.options, "tasks.options")
        file = records.RecordFile(path)
        for _, entry in published.found(file, path, options, section.limit):
            yield path, entry
    elif section.name == "mixture":
        options_of_all = parse_options(MixtureOptions, section.options, "tasks.options")
        for member in options_of_all.sets.values():
            yield from surveyed(member)


def names_records(path: Path) -> bool:
    """Whether a ``.json`` file is an array, and so no config."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    return False


def section_of(path: Path, media_root: str = "") -> TasksConfig:
    """Return the section that reads a file of records, in whichever shape they are.

    Args:
        path: A ``.json``, ``.jsonl`` or ``.parquet`` file.
        media_root: Where its relative paths start from; empty is the file's folder.

    Raises:
        ConfigError: No such file, or none of the formats.
    """
    keys: set[str] = set()
    with suppress(TaskError):
        for record in islice(records.RecordFile(path), _LOOKED_AT):
            keys |= record.value.keys() if isinstance(record.value, dict) else set()
    if path.suffix == ".json" or media_root or keys & PUBLISHED_KEYS:
        options = {"media_root": media_root} if media_root else {}
        return TasksConfig(name="published", path=str(path), options=options)
    return TasksConfig(path=str(path))
