"""A Parquet file of which some columns are too large to be held.

In: a file, and the names of those columns. Out: the other columns as rows, and single values of the
large ones. Published files often put gigabytes of pictures into one row group, so values are
streamed: asking in the order of the rows reads the file once; going back begins again.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pyvision_rl.errors import TaskError
from pyvision_rl.registry import missing

_ROWS = 4
"""Of a batch of large values."""
_BATCHES = 4
"""Kept, so that rows which share a picture with one shortly before cost nothing."""
_BUFFER = 2**20
"""Bytes; without it a whole column of a row group would be read at once."""


class ParquetTable:
    """Rows in memory, large values from the file."""

    def __init__(self, path: Path, large: Collection[str]) -> None:
        """Read the rows.

        Args:
            path: The file.
            large: Columns that ``value`` gives; those of them that are there.

        Raises:
            ConfigError: pyarrow is not installed.
            TaskError: The file is missing, no Parquet file, or damaged.
        """
        if not path.is_file():
            raise TaskError(f"{path}: no such file")
        try:
            self._parquet = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise missing(error, str(path)) from error
        self._path = path
        try:
            file = self._open()
            self.columns: tuple[str, ...] = tuple(file.schema_arrow.names)
            small = [name for name in self.columns if name not in large]
            self.rows: tuple[dict[str, Any], ...] = tuple(
                row for batch in file.iter_batches(columns=small) for row in batch.to_pylist()
            )
        except (OSError, ValueError) as error:
            raise TaskError(f"{path}: not a readable Parquet file ({error})") from error
        self._large = [name for name in self.columns if name in large]
        self._stream: Iterator[Any] = iter(())
        self._next = 0
        """The first row of the batch that the stream gives next."""
        self._kept: OrderedDict[int, Any] = OrderedDict()
        """First row -> batch, the last read at the end."""

    def value(self, row: int, column: str) -> Any:
        """Return one value of a large column; rows count from 0.

        Raises:
            TaskError: The file is damaged.
        """
        try:
            start, batch = self._batch(row)
        except (OSError, ValueError, StopIteration) as error:
            raise TaskError(f"{self._path}: row {row + 1} cannot be read ({error})") from error
        return batch.column(column)[row - start].as_py()

    def _batch(self, row: int) -> tuple[int, Any]:
        """The batch that holds a row, and its first row."""
        while True:
            for start, batch in self._kept.items():
                if start <= row < start + batch.num_rows:
                    return start, batch
            if row < self._next or not self._next:
                self._stream = self._open().iter_batches(_ROWS, columns=self._large)
                self._next = 0
                self._kept.clear()
            batch = next(self._stream)
            self._kept[self._next] = batch
            self._next += batch.num_rows
            if len(self._kept) > _BATCHES:
                self._kept.popitem(last=False)

    def _open(self) -> Any:
        return self._parquet.ParquetFile(self._path, buffer_size=_BUFFER)
