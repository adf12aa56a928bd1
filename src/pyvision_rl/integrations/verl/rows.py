"""Tasks as rows of the Parquet files that verl reads.

In: tasks. Out: rows with verl's columns, and the images of the tasks as files. The agent loop reads
``extra_info.task``, which holds the whole task; the other columns are what verl's own data set
wants to see. Pixels stand in files beside, by content, and videos where they lie.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.integrations.verl.mapping import AGENT
from pyvision_rl.media import write_png
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.runs_codec import SavedRollout, encode
from pyvision_rl.runs_videos import note_videos
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import EndReason, Media, Message, Task, Text, Trajectory

_CHUNK = 256
_PLACEHOLDERS = ("<image>", "<video>", "<audio>")
"""What verl's data set replaces in a prompt by the next file of the row."""
_NO_SOURCE = "tasks"
"""verl tells its validation by data source and wants one."""


class RowWriter:
    """Writes one Parquet file after the other into the exported folder."""

    def __init__(self, folder: Path, prompts: PromptBuilder) -> None:
        """Take the folder, and what words the prompts.

        Raises:
            ConfigError: pyarrow is not installed.
        """
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ConfigError(
                "pvrl export-verl needs pyarrow, which is not installed; run: pip install "
                '"pyvision-rl[data]"'
            ) from error
        self._arrow: Any = pyarrow
        self._parquet: Any = pyarrow.parquet
        self._folder = folder
        self._prompts = prompts
        self._videos: list[Media] = []
        """To be noted: all of a chunk at once, because each time writes the whole list anew."""
        self.unread: list[str] = []
        """Why tasks were left out, one line each."""

    def write(self, tasks: TaskSet, indices: Sequence[int], split: str) -> int:
        """Write ``<split>.parquet`` and return its rows; a task that cannot be read has none."""
        schema = _schema(self._arrow)
        written = 0
        with self._parquet.ParquetWriter(self._folder / f"{split}.parquet", schema) as writer:
            for start in range(0, len(indices), _CHUNK):
                rows = list(self._rows(tasks, indices[start : start + _CHUNK], split))
                if self._videos:
                    note_videos(self._folder / "media", self._videos)
                    self._videos = []
                writer.write_table(self._arrow.Table.from_pylist(rows, schema=schema))
                written += len(rows)
        return written

    def _rows(self, tasks: TaskSet, indices: Sequence[int], split: str) -> Iterator[dict[str, Any]]:
        for index in indices:
            try:
                task = tasks[index]
                row = row_of_task(task, index, split, self._prompts, self._folder / "media")
            except TaskError as error:
                self.unread.append(f"{split} {index}: {error}")
                continue
            self._videos += [m for m in task.input.media if m.kind == "video"]
            yield row


def row_of_task(
    task: Task, index: int, split: str, prompts: PromptBuilder, media: Path
) -> dict[str, Any]:
    """Return one row, its images written to ``media``.

    Raises:
        TaskError: The prompt cannot be made, or an image not be read.
    """
    images = {m.sha256: write_png(m, media) for m in task.input.media if m.kind == "image"}
    messages = prompts.prompt(task.input).messages
    used: list[str] = []
    prompt = [_message(message, images, used) for message in messages]
    return {
        "data_source": task.input.data_source or _NO_SOURCE,
        "agent_name": AGENT,
        "prompt": prompt,
        "images": used,
        "ability": task.input.category,
        "reward_model": {"style": "rule", "ground_truth": task.gold.answer},
        "extra_info": {"index": index, "split": split, "id": task.id, "task": task_line(task)},
    }


def task_line(task: Task) -> str:
    """Return a task as a line of JSON that ``runs_codec.decode`` reads."""
    nothing = Trajectory(task.id, 0, (), (), (), EndReason.FAILED)
    return json.dumps(encode(SavedRollout(task, nothing), tokens=False))


def _message(message: Message, images: dict[str, Path], used: list[str]) -> dict[str, str]:
    content = ""
    for part in message.parts:
        if isinstance(part, Text):
            content += _broken(part.text)
        elif part.sha256 in images:
            content += "<image>"
            used.append(str(images[part.sha256].absolute()))
        else:
            content += "[frame]"
    return {"role": message.role, "content": content}


def _broken(text: str) -> str:
    """Text in which verl finds no placeholder; only its own data set reads it."""
    for name in _PLACEHOLDERS:
        text = text.replace(name, f"< {name[1:]}")
    return text


def _schema(arrow: Any) -> Any:
    text, whole = arrow.string(), arrow.int64()
    return arrow.schema(
        [
            ("data_source", text),
            ("agent_name", text),
            ("prompt", arrow.list_(arrow.struct([("role", text), ("content", text)]))),
            ("images", arrow.list_(text)),
            ("ability", text),
            ("reward_model", arrow.struct([("style", text), ("ground_truth", text)])),
            (
                "extra_info",
                arrow.struct([("index", whole), ("split", text), ("id", text), ("task", text)]),
            ),
        ]
    )
