"""Verdicts that were paid for, kept by what was asked.

In: a key (the hash of everything that was sent) and a verdict. Out: the verdict again, in this
process or another. One small file per verdict, written beside its place and linked there, so that
of writers that meet the first one is believed by all, and a killed one leaves nothing half done. A
file that cannot be read is no verdict. Holds no API key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4


class VerdictCache:
    """A folder of verdicts, or only memory."""

    def __init__(self, folder: str) -> None:
        """Take the folder; an empty name keeps verdicts in memory only. Makes no file."""
        self._folder = Path(folder) if folder else None
        self._known: dict[str, bool] = {}

    def get(self, key: str) -> bool | None:
        """Return the verdict on what ``key`` stands for; None if there is none."""
        if key not in self._known and (right := self._read(key)) is not None:
            self._known[key] = right
        return self._known.get(key)

    def put(self, key: str, right: bool, details: Mapping[str, Any]) -> bool:
        """Keep a verdict, with what people may want to read beside it; return the one that counts.

        It is another process's, if that was faster.

        Raises:
            OSError: The folder cannot be written.
        """
        self._known[key] = right
        if self._folder is None:
            return right
        file = self._file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{key}.{uuid4().hex}.part")
        try:
            with temporary.open("w", encoding="utf-8") as out:
                json.dump({"key": key, "right": right, **details}, out)
                out.flush()
                os.fsync(out.fileno())
            try:
                os.link(temporary, file)
            except OSError:
                # Another was first; or its file is broken, or there are no links here.
                first = self._read(key)
                if first is None:
                    temporary.replace(file)
                else:
                    self._known[key] = first
        finally:
            temporary.unlink(missing_ok=True)
        return self._known[key]

    def _read(self, key: str) -> bool | None:
        """The verdict on disk; None if there is none that can be read."""
        if self._folder is not None:
            with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                entry = json.loads(self._file(key).read_bytes())
                if entry["key"] == key and isinstance(entry["right"], bool):
                    return bool(entry["right"])
        return None

    def _file(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / key[:2] / f"{key}.json"
