"""Rows of a Parquet file, with a bounded part of it in memory.

In: a Parquet file. Out: its rows as dicts, and again the images, or all fields, of one row. Knows
nothing of what the fields mean. pyarrow (extra ``data``) is imported when a file is opened.
"""

from __future__ import annotations

import importlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.registry import missing

IMAGE_COLUMNS = ("image", "images")
KEPT_BYTES = 256 * 2**20
_BUFFER = 2**20
_ROWS_AT_ONCE = 64
"""Turned into Python objects together."""


class ParquetRows:
    """Reads rows in order, and some columns again by row number."""

    def __init__(
        self,
        path: Path,
        kept_bytes: int = KEPT_BYTES,
        columns: Sequence[str] | None = IMAGE_COLUMNS,
    ) -> None:
        """Open a file.

        Args:
            path: The file.
            kept_bytes: Columns of the row groups read last stay in memory up to this size.
            columns: Those that ``fields`` gives; None gives all.

        Raises:
            ConfigError: pyarrow is not installed, or the file is not Parquet.
        """
        self._path = path
        try:
            parquet = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise missing(error, str(path)) from error
        try:
            # Read in pieces: a file may be one row group of gigabytes.
            self._file: Any = parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: not a Parquet file ({error})") from error
        groups = range(self._file.num_row_groups)
        sizes = (self._file.metadata.row_group(g).num_rows for g in groups)
        self._starts = list(accumulate(sizes, initial=0))
        names = self._file.schema_arrow.names
        self._columns = names if columns is None else [c for c in columns if c in names]
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[int, Any] = OrderedDict()
        """Row group -> its columns as an Arrow table, the last read at the end."""

    def rows(self) -> Iterator[tuple[int, dict[str, Any] | str]]:
        """Yield (row number from 1, fields).

        Raises:
            TaskError: A row group is damaged.
        """
        for group, start in enumerate(self._starts[:-1]):
            try:
                batches = self._file.iter_batches(_ROWS_AT_ONCE, row_groups=[group])
                rows = chain.from_iterable(batch.to_pylist() for batch in batches)
                row = start
                for row, fields in enumerate(rows, start=start + 1):
                    yield row, fields
            except (OSError, ValueError) as error:
                raise self._damaged(group, error) from error
            if row < self._starts[group + 1]:
                raise self._damaged(group, f"it ends after {row - start} rows")

    def fields(self, row: int) -> dict[str, Any]:
        """Return the columns of a row (from 1).

        Raises:
            TaskError: Its row group is damaged.
        """
        group = bisect_right(self._starts, row - 1) - 1
        table = self._kept.pop(group, None)
        if table is None:
            table = self._read(group, self._columns)
        self._kept[group] = table
        # The one just read stays, whatever its size: it is asked for again.
        while len(self._kept) > 1 and self._size() > self._kept_bytes:
            self._kept.popitem(last=False)
        fields: dict[str, Any] = table.slice(row - 1 - self._starts[group], 1).to_pylist()[0]
        return fields

    def _size(self) -> int:
        return sum(table.nbytes for table in self._kept.values())

    def _read(self, group: int, columns: list[str]) -> Any:
        """One row group as an Arrow table."""
        try:
            table = self._file.read_row_group(group, columns)
        except (OSError, ValueError) as error:
            raise self._damaged(group, error) from error
        # A file that was cut since it was opened may be read as if it held less.
        if table.num_rows != self._starts[group + 1] - self._starts[group]:
            raise self._damaged(group, f"it ends after {table.num_rows} rows")
        return table

    def _damaged(self, group: int, why: object) -> TaskError:
        return TaskError(f"{self._path}: row group {group} cannot be read ({why})")
