"""Tasks from a JSONL or Parquet file of questions, images, videos and reference answers.

In: ``[tasks] path``. Out: ``Task`` records, images before videos; images are decoded and videos
probed when a task is asked for. Rows and their fields are described in ``rows``. Builds no task
from a file that has a faulty row.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pyvision_rl.config import TasksConfig
from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.media import bytes_media, file_media
from pyvision_rl.registry import parse_options
from pyvision_rl.tasks.parquet import ParquetRows
from pyvision_rl.tasks.rows import Fault, Row, image_of, load, media_values, summary
from pyvision_rl.types import Gold, Media, Task, TaskInput
from pyvision_rl.video import file_video, require_av


class Options(BaseModel):
    """This task set has no options of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def scan(path: Path) -> list[Fault]:
    """Return every fault of a task file, in file order; decodes every image, checks every video.

    Raises:
        ConfigError: No such file, neither ``.jsonl`` nor ``.parquet``, or videos without the extra
            ``video``.
    """
    return load(path, limit=None, decode=True)[1]


class JsonlTasks:
    """The rows of one file as tasks."""

    def __init__(self, config: TasksConfig) -> None:
        """Read and check the rows; images and videos are only looked for, not opened.

        Raises:
            ConfigError: ``tasks.path`` is missing or no JSONL or Parquet file, or there are videos
                and the extra ``video`` is not installed.
            TaskError: A row is faulty, or there is none.
        """
        parse_options(Options, config.options, "tasks.options")
        if not config.path:
            raise ConfigError("tasks.path is empty; wants a .jsonl or .parquet file")
        self._path = Path(config.path)
        self._rows, faults = load(self._path, limit=config.limit, decode=False)
        if faults:
            raise TaskError(summary(self._path, faults))
        if not self._rows:
            raise TaskError(f"{self._path}: holds no tasks")
        if any(row.videos for row in self._rows):
            require_av(f"{self._path}: a video")
        self._parquet: ParquetRows | None = None

    def __len__(self) -> int:
        """Number of tasks."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Task:
        """Return task ``index`` with its images decoded and its videos probed.

        Raises:
            IndexError: There is no such task.
            TaskError: An image or a video cannot be read.
        """
        if not 0 <= index < len(self._rows):
            raise IndexError(f"task {index} of {len(self._rows)}")
        row = self._rows[index]
        where = f"{self._path} {Fault(row.line, row.id, '')}".rstrip(": ")
        try:
            images = [self._image(row, image) for image in row.images]
            media = (*images, *(file_video(path) for path in row.videos))
        except TaskError as error:
            raise TaskError(f"{where}: {error}") from error
        return Task(
            TaskInput(row.id, row.question, media, row.category, row.data_source),
            Gold(row.answer, row.answer_type),
        )

    def ids(self) -> tuple[str, ...]:
        """Return the id of every row, in order."""
        return tuple(row.id for row in self._rows)

    def data_sources(self) -> frozenset[str]:
        """Return the ``data_source`` of every row."""
        return frozenset(row.data_source for row in self._rows)

    def _image(self, row: Row, image: Path | int) -> Media:
        """One image of a row."""
        found = image if isinstance(image, Path) else self._embedded(row.line, image)
        return bytes_media(found, "image") if isinstance(found, bytes) else file_media(found)

    def _embedded(self, line: int, position: int) -> Path | bytes:
        """An image that is stored in the row itself."""
        if self._parquet is None:
            self._parquet = ParquetRows(self._path)
        values = media_values(self._parquet.fields(line), "image")
        return image_of(values[position], self._path.parent)
