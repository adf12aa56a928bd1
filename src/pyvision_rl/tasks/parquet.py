"""Rows of a Parquet file, one row group in memory at a time.

In: a Parquet file. Out: its rows as dicts, and again the images of one row. Knows nothing of what
the fields mean. pyarrow (extra ``data``) is imported when a file is opened.
"""

from __future__ import annotations

import importlib
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.registry import missing

IMAGE_COLUMNS = ("image", "images")


class ParquetRows:
    """Reads rows in order, and image columns again by row number."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            ConfigError: pyarrow is not installed, or the file is not Parquet.
        """
        self._path = path
        try:
            parquet = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise missing(error, str(path)) from error
        try:
            self._file: Any = parquet.ParquetFile(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: not a Parquet file ({error})") from error
        groups = range(self._file.num_row_groups)
        sizes = (self._file.metadata.row_group(g).num_rows for g in groups)
        self._starts = list(accumulate(sizes, initial=0))
        self._columns = [c for c in IMAGE_COLUMNS if c in self._file.schema_arrow.names]
        self._group = -1
        self._images: list[dict[str, Any]] = []

    def rows(self) -> Iterator[tuple[int, dict[str, Any] | str]]:
        """Yield (row number from 1, fields).

        Raises:
            TaskError: A row group is damaged.
        """
        for group, start in enumerate(self._starts[:-1]):
            yield from enumerate(self._read(group, None), start=start + 1)

    def images(self, row: int) -> dict[str, Any]:
        """Return the image columns of a row (from 1); its row group stays in memory."""
        group = bisect_right(self._starts, row - 1) - 1
        if group != self._group:
            self._images, self._group = self._read(group, self._columns), group
        offset: int = row - 1 - self._starts[group]
        return self._images[offset]

    def _read(self, group: int, columns: list[str] | None) -> list[dict[str, Any]]:
        """The rows of one row group; None takes all columns."""
        try:
            rows: list[dict[str, Any]] = self._file.read_row_group(group, columns).to_pylist()
        except (OSError, ValueError) as error:
            raise TaskError(f"{self._path}: row group {group} cannot be read ({error})") from error
        return rows
