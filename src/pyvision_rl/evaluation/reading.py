"""The episodes of any run folder as an evaluation reads them, one at a time.

In: a run folder. Out: (place of the task, saved episode) pairs, those of an evaluation by task and
sample, others in the order of the files; pictures by the path of their file. A trajectory that RL
carried from step to step comes once, with the last of them. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pyvision_rl.errors import RunError
from pyvision_rl.evaluation.items import Item, item_of
from pyvision_rl.runs import RunReader, read_rollouts, step_files
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.runs_files import read_lines
from pyvision_rl.runs_order import comes_again, in_order


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
        inode = _inode(file)
        places = [
            (line.get("index"), line.get("rollout")) for line in read_lines(file, self.problems)
        ]
        order = in_order(places)
        self._superseded[step] = len(places) - len(order)
        records: Iterable[SavedRollout] = read_rollouts(file, problems=self.problems)
        if order != list(range(len(places))):
            # Only what was cut has to be in memory to be put in order.
            lines = list(records)
            records = [lines[k] for k in order]
        before: SavedRollout | None = None
        # A file that grows meanwhile is read as far as it was looked through.
        for (index, _), saved in zip([places[k] for k in order], records, strict=False):
            # A group ends where the task changes, or its numbers begin anew.
            if before is None or not _follows(before, saved):
                self._next += 1
            before = saved
            if comes_again(saved, self.steps[-1]):
                self._superseded[step] += 1
                continue
            yield self._next - 1 if index is None else index, saved
        if _inode(file) != inode:
            raise RunError(f"{file} was replaced while it was read: its run goes on; try again")

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


def _inode(file: Path) -> int | None:
    """What tells a file from one that took its name; one that grows stays the same."""
    return file.stat().st_ino if file.exists() else None


def _follows(before: SavedRollout, saved: SavedRollout) -> bool:
    same = before.task.id == saved.task.id
    return same and saved.trajectory.rollout > before.trajectory.rollout
