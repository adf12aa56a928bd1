"""The episodes of any run folder as an evaluation reads them, one at a time.

In: a run folder. Out: (place of the task, saved episode) pairs, those of an evaluation by task and
sample, others in the order of the files; pictures by the path of their file. A trajectory that RL
carried from step to step comes once, with the last of them. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pyvision_rl.errors import RunError
from pyvision_rl.evaluation.items import Item, item_of
from pyvision_rl.runs import RunReader, step_files
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.runs_order import comes_again, counted


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
        self._superseded: dict[int, int] = {}

    @property
    def superseded(self) -> int:
        """How many lines so far a later one stood for: it was run again, or carried on."""
        return sum(self._superseded.values())

    @property
    def problems(self) -> list[str]:
        """What had to be skipped so far: lines cut by a killed process."""
        return self.reader.problems

    def of_step(self, step: int) -> Iterator[tuple[int, SavedRollout]]:
        """Yield the episodes of one step. A run that does not tell places is numbered by groups.

        Raises:
            RunError: A line cannot be understood, or the file was replaced meanwhile.
        """
        file = step_files(self.reader.path)[step]
        self._superseded[step], records = counted(file, self.problems)
        before: SavedRollout | None = None
        for index, saved in records:
            # A group ends where the task changes, or its numbers begin anew.
            if before is None or not _follows(before, saved):
                self._next += 1
            before = saved
            if comes_again(saved, self.steps[-1]):
                self._superseded[step] += 1
                continue
            yield self._next - 1 if index is None else index, saved

    def __iter__(self) -> Iterator[tuple[int, SavedRollout]]:
        """Yield all episodes."""
        for step in self.steps:
            yield from self.of_step(step)


def read_items(episodes: Episodes) -> list[Item]:
    """Return what is remembered of every episode of a run folder.

    Raises:
        RunError: A line cannot be understood.
    """
    return [item_of(index, saved) for index, saved in episodes]


def _follows(before: SavedRollout, saved: SavedRollout) -> bool:
    same = before.task.id == saved.task.id
    return same and saved.trajectory.rollout > before.trajectory.rollout
