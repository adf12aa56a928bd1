"""Another run beside the one that is shown: how often it had each task right.

In: a run folder. Out: what ``data/other.js`` holds. Tasks are the same if their ids are. Compares
nothing: the page does, and ``pvrl compare`` with tests.
"""

from __future__ import annotations

from pathlib import Path

from pyvision_rl.runs import read_info
from pyvision_rl.types import EndReason
from pyvision_rl.view.index import RunIndex
from pyvision_rl.view.scripts import Json


class Other:
    """One run, of which nothing but grades is read."""

    def __init__(self, path: Path, beside: Path) -> None:
        """Open the folder.

        Args:
            path: The other run.
            beside: The run that is shown: the name tells the other from it.

        Raises:
            RunError: It is no run folder, or newer than this version.
        """
        info = read_info(path)
        self.name = _told_apart(path.resolve(), beside.resolve())
        self._about = {"name": self.name, "verb": info.verb, "created": info.created}
        self._index = RunIndex(path)

    def payload(self) -> Json:
        """Return the run's name, and [task id, samples that were right, that count] of each."""
        tasks: dict[str, list[int]] = {}
        for step in self._index.refresh().steps:
            for row in step.rows:
                counts = tasks.setdefault(row.task, [0, 0])
                counts[0] += bool(row.correct)
                # As in every evaluation: what failed by our own fault is wrong.
                counts[1] += row.correct is not None or row.end == EndReason.FAILED
        # Not an object: in a script, "__proto__" is no name like others.
        return {**self._about, "tasks": [[task, *counts] for task, counts in tasks.items()]}


def _told_apart(path: Path, other: Path) -> str:
    """The end of a path, as much of it as another path does not share."""
    mine, theirs = path.parts, other.parts
    for count in range(1, len(mine)):
        if mine[-count:] != theirs[-count:]:
            return "/".join(mine[-count:])
    return path.name
