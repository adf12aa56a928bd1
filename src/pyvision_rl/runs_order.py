"""Which lines of a rollouts file count, and in which order.

In: a file, or what each line tells of its place: its task's place in the set, which evaluations
write, and the number of the sample. Out: the lines that count. An evaluation that is running or was
killed leaves its lines in the order in which episodes ended, and two of a sample that was run
again. RL writes a trajectory that it carried again with the next step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pyvision_rl.errors import RunError
from pyvision_rl.runs import CARRIED, read_rollouts
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.runs_files import read_lines


def in_order(places: Sequence[tuple[Any, Any]]) -> list[int]:
    """Return the numbers of the lines that count, by task and sample; of one sample the last.

    Args:
        places: Of each line the place of its task and the sample, as the line has them. Where one
            does not tell, all lines count as they stand.
    """
    if not all(isinstance(number, int) for place in places for number in place):
        return list(range(len(places)))
    last = {place: line for line, place in enumerate(places)}
    return [last[place] for place in sorted(last)]


def comes_again(saved: SavedRollout, last: int) -> bool:
    """Return whether a trajectory is written again with a later step.

    Args:
        saved: As it was read, with its step.
        last: The last step of the run; what that one carries is written nowhere else.
    """
    return saved.reason == CARRIED and saved.step != last


def counted(
    file: Path, problems: list[str]
) -> tuple[int, Iterator[tuple[int | None, SavedRollout]]]:
    """Return how many lines of a rollouts file do not count, and the records of those that do.

    A record comes with the place of its task, None where the file does not tell places. A file that
    grows meanwhile is read as far as it was looked through.

    Args:
        file: As ``read_rollouts`` takes it.
        problems: A line that was cut is named here and skipped.

    Raises:
        RunError: A line cannot be understood, or the file was replaced meanwhile.
    """
    inode = _inode(file)
    places: list[tuple[Any, Any]] = []
    for line in read_lines(file, problems):
        places.append((line.get("index"), line.get("rollout")))
        # The lines of most runs tell no place: they count as they stand, and are read once.
        if not isinstance(places[0][0], int):
            return 0, _all(file, inode, problems)
    order = in_order(places)
    return len(places) - len(order), _chosen(file, inode, places, order, problems)


def _all(
    file: Path, inode: int | None, problems: list[str]
) -> Iterator[tuple[int | None, SavedRollout]]:
    for saved in read_rollouts(file, problems=problems):
        yield None, saved
    _check(file, inode)


def _chosen(
    file: Path,
    inode: int | None,
    places: Sequence[tuple[Any, Any]],
    order: Sequence[int],
    problems: list[str],
) -> Iterator[tuple[int | None, SavedRollout]]:
    records = read_rollouts(file, problems=problems)
    if order != list(range(len(places))):
        # Only what was cut has to be in memory to be put in order.
        lines = list(records)
        _check(file, inode)
        records = iter([lines[k] for k in order])
    for number, saved in zip(order, records, strict=False):
        yield places[number][0], saved
    _check(file, inode)


def _check(file: Path, inode: int | None) -> None:
    if _inode(file) != inode:
        raise RunError(f"{file} was replaced while it was read: its run goes on; try again")


def _inode(file: Path) -> int | None:
    """What tells a file from one that took its name; one that grows stays the same."""
    return file.stat().st_ino if file.exists() else None
