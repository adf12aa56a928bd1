"""The episodes of any run folder as an evaluation reads them, one at a time.

In: a run folder. Out: (place of the task, saved episode) pairs in the order of the files, pictures
by the path of their file. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pyvision_rl.errors import RunError
from pyvision_rl.evaluation_items import Item, item_of
from pyvision_rl.runs import RunReader, read_rollouts
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.runs_files import read_lines


class Episodes:
    """The episodes of one run folder, by step."""

    def __init__(self, folder: Path) -> None:
        """Open the folder.

        Raises:
            RunError: It is no run folder, or holds no episodes.
        """
        self.reader = RunReader(folder)
        self.steps = self.reader.steps()
        if not self.steps:
            raise RunError(f"{folder} holds no episodes")
        self._next = 0

    @property
    def problems(self) -> list[str]:
        """What had to be skipped so far: lines cut by a killed process."""
        return self.reader.problems

    def of_step(self, step: int) -> Iterator[tuple[int, SavedRollout]]:
        """Yield the episodes of one step. A run that does not tell places is numbered by groups.

        Raises:
            RunError: A line cannot be understood.
        """
        file = self.reader.path / "rollouts" / f"step_{step:06d}.jsonl"
        told = (line.get("index") for line in read_lines(file, []))
        before: SavedRollout | None = None
        for index, saved in zip(told, read_rollouts(file, problems=self.problems), strict=True):
            # A group ends where the task changes, or its numbers begin anew.
            if before is None or not _follows(before, saved):
                self._next += 1
            before = saved
            yield self._next - 1 if index is None else index, saved

    def __iter__(self) -> Iterator[tuple[int, SavedRollout]]:
        """Yield all episodes."""
        for step in self.steps:
            yield from self.of_step(step)


def read_items(folder: Path) -> list[Item]:
    """Return what is remembered of every episode of a run folder.

    Raises:
        RunError: It is no run folder, holds no episodes, or a line cannot be understood.
    """
    return [item_of(index, saved) for index, saved in Episodes(folder)]


def _follows(before: SavedRollout, saved: SavedRollout) -> bool:
    same = before.task.id == saved.task.id
    return same and saved.trajectory.rollout > before.trajectory.rollout
