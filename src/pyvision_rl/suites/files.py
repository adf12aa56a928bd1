"""Where a benchmark's files lie, what they weigh in, and pictures and videos out of them.

In: paths as a user gives them, and values of media columns. Out: the file to read, its hash,
``Media``. Archives that a benchmark is published in are read as they are; a video is unpacked
beside its archive, because the sandbox opens files. Downloads nothing.
"""

from __future__ import annotations

import ast
import base64
import binascii
import hashlib
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from PIL import Image

from pyvision_rl.errors import TaskError
from pyvision_rl.media import bytes_media, file_media, image_media
from pyvision_rl.suites.tables import SHORT, Table, is_hub
from pyvision_rl.types import Media

_DAMAGED = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What a damaged, encrypted or unknown member raises."""
MAX_NAME = 200
"""Characters; a longer text is no path but a picture."""


def data_file(path: Path, names: Sequence[str], where: str) -> Path:
    """Return the file that a path means: itself, or the first of ``names`` in a folder.

    Args:
        path: A file, a folder, or a name on the hub, which is returned as it is.
        names: Of the published files, or patterns of them.
        where: What to get and where to put it, for the error.

    Raises:
        TaskError: There is none, or nobody can tell which of several.
    """
    if is_hub(path) or path.is_file():
        return path
    if path.is_dir():
        for name in names:
            found = sorted(path.glob(name))
            if len(found) > 1:
                listed = ", ".join(file.name for file in found)
                raise TaskError(f"{path}: holds {listed}: give one of the files as path")
            if found:
                return found[0]
        raise TaskError(f"{path}: holds none of {', '.join(names)}; {where}")
    raise TaskError(f"{path}: no such file or folder; {where}")


def digests(paths: Sequence[Path]) -> dict[str, str]:
    """Return file name -> SHA-256 of its bytes in hex.

    Raises:
        TaskError: A file cannot be read.
    """
    found = {}
    for path in paths:
        try:
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise TaskError(f"{path}: cannot be read ({error})") from error
    return found


class Pictures:
    """The image column of a table whose rows may share pictures."""

    def __init__(self, table: Table, column: str, index: str = "index") -> None:
        """Take a table.

        Args:
            table: Its rows hold values of the column that are ``SHORT``.
            column: Of the pictures.
            index: The column that names rows.

        Raises:
            TaskError: A row names a picture of a row that has none.
        """
        self._table, self._column = table, column
        self._places = {str(row.get(index)): number for number, row in enumerate(table.rows)}
        for number, row in enumerate(table.rows):
            other = str(row.get(column) or "")
            if other and (other not in self._places or self._short(self._places[other])):
                raise TaskError(
                    f"{table.name}: row {number + 1} shares the picture of row {other!r}, "
                    "which has none"
                )

    def check(self, where: str, rows: Sequence[int] | None = None) -> None:
        """Check that the pictures of a JSONL or JSON file are there, which it names by path.

        Args:
            where: Where to get them, for the error.
            rows: Those that are asked with a picture; None takes all.

        Raises:
            TaskError: Some are not.
        """
        if Path(self._table.name).suffix in (".jsonl", ".json"):
            asked = range(len(self._table.rows)) if rows is None else rows
            values = (self._table.read(n, self._column) for n in asked)
            names = [v for v in values if isinstance(v, str) and 0 < len(v) <= MAX_NAME]
            check_media(Path(self._table.name).parent, names, where)

    def has(self, row: int) -> bool:
        """Return whether a row has a picture, its own or another's; not known is True."""
        return self._table.rows[row].get(self._column) != ""

    def media(self, row: int) -> tuple[Media, ...]:
        """Return the pictures of a row (from 0).

        Raises:
            TaskError: One cannot be read.
        """
        value = self._table.read(row, self._column)
        if isinstance(value, str) and 0 < len(value) <= SHORT and value in self._places:
            value = self._table.read(self._places[value], self._column)
        folder = Path(self._table.name).parent
        return tuple(picture(one, folder) for one in _listed(value))

    def _short(self, row: int) -> bool:
        return self._column in self._table.rows[row]


def _listed(value: Any) -> list[Any]:
    """The pictures of a value: a TSV writes several as the text of a list."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            found = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise TaskError(f"a list of pictures cannot be read ({error})") from error
        return list(found) if isinstance(found, list) else [found]
    return list(value) if isinstance(value, list) else [value]


def picture(value: Any, folder: Path) -> Media:
    """Return the image that a value of a media column stands for.

    Args:
        value: Encoded bytes, those as base64, ``{"bytes", "path"}``, a picture, or a path.
        folder: Paths are relative to it; a ``.zip`` of it is looked into as well.

    Raises:
        TaskError: It is none of these, or cannot be decoded.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return bytes_media(value, "image")
    if isinstance(value, Image.Image):
        return image_media(value)
    if not isinstance(value, str) or not value:
        raise TaskError("holds no picture")
    if len(value) <= MAX_NAME and (found := stored(folder, value)) is not None:
        return file_media(found) if isinstance(found, Path) else bytes_media(found, value)
    try:
        return bytes_media(base64.b64decode(value, validate=True), "image")
    except (binascii.Error, ValueError) as error:
        raise TaskError(f"{value[:SHORT]!r} is neither a file nor base64 ({error})") from error


def check_media(folder: Path, names: Sequence[str], where: str) -> None:
    """Check that a folder, or an archive in it, has files; reads none of them.

    Raises:
        TaskError: Some are not there.
    """
    lost = [name for name in dict.fromkeys(names) if _beside(folder, name) is None]
    if lost:
        inside = _archived(folder)
        lost = [name for name in lost if inside.isdisjoint(_variants(name))]
    if lost:
        raise TaskError(
            f"{folder}: {len(lost)} files are not there, the first is {lost[0]!r}; {where}"
        )


def _beside(folder: Path, name: str) -> Path | None:
    """The file of a folder that a name means, if it is there."""
    return next((folder / one for one in _variants(name) if (folder / one).is_file()), None)


def _archived(folder: Path) -> set[str]:
    """What the archives of a folder hold, with and without the first folder in them."""
    found: set[str] = set()
    for archive in sorted(folder.glob("*.zip")):
        with _opened(archive) as file:
            found.update(file.namelist())
    return found | {name.partition("/")[2] for name in found}


def _variants(name: str) -> tuple[str, ...]:
    """A name as given, and without or with a first folder ``data``."""
    bare = name.removeprefix("./").removeprefix("data/")
    return name, bare, f"data/{bare}"


def stored(folder: Path, name: str) -> Path | bytes | None:
    """Return a file of a folder, or its bytes where only an archive of the folder has it.

    An archive may have a first folder of its own, if no other member would then fit as well.

    Raises:
        TaskError: Several fit.
    """
    if (path := _beside(folder, name)) is not None:
        return path
    names = _variants(name)
    deeper: list[tuple[Path, str]] = []
    for archive in sorted(folder.glob("*.zip")):
        with _opened(archive) as file:
            inside = file.namelist()
            if found := next((one for one in names if one in inside), None):
                return _read(file, found)
            deeper += [(archive, one) for one in inside if one.partition("/")[2] in names]
    if len(deeper) > 1:
        places = ", ".join(f"{archive.name}: {one}" for archive, one in deeper[:3])
        raise TaskError(f"{name!r} is there {len(deeper)} times: {places}")
    if not deeper:
        return None
    [(archive, one)] = deeper
    with _opened(archive) as file:
        return _read(file, one)


def unpacked(folder: Path, name: str) -> Path:
    """Return a file of a folder, unpacked from an archive there if it is not there yet.

    Raises:
        TaskError: Neither the folder nor an archive of it has the file, or it cannot be written.
    """
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise TaskError(f"{name!r} leads out of {folder}")
    if (there := _beside(folder, name)) is not None:
        return there
    path = folder / name
    for archive in sorted(folder.glob("*.zip")):
        with _opened(archive) as file:
            ends = (one for one in file.namelist() if one == name or one.endswith(f"/{name}"))
            if (member := next(ends, None)) is not None:
                return _unpack(file, member, path)
    raise TaskError(f"{path}: no such file, and no .zip in {folder} holds it")


def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except (OSError, zipfile.BadZipFile) as error:
        raise TaskError(f"{archive}: not a readable archive ({error})") from error


def _read(archive: zipfile.ZipFile, member: str) -> bytes:
    try:
        return archive.read(member)
    except _DAMAGED as error:
        raise TaskError(f"{archive.filename}: {member} cannot be read ({error})") from error


def _unpack(archive: zipfile.ZipFile, member: str, path: Path) -> Path:
    """Write a member whole or not at all."""
    partial = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as source, partial.open("wb") as target:
            shutil.copyfileobj(source, target)
        partial.replace(path)
    except _DAMAGED as error:
        raise TaskError(f"{path}: cannot be unpacked from {archive.filename} ({error})") from error
    finally:
        partial.unlink(missing_ok=True)
    return path
