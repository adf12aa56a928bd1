"""Which lines of a rollouts file count, and in which order.

In: what each line tells of its place: its task's place in the set, which evaluations write, and the
number of the sample. Out: the numbers of the lines that count. An evaluation that is running or was
killed leaves its lines in the order in which episodes ended, and two of a sample that was run
again. RL writes a trajectory that it carried again with the next step. Reads no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyvision_rl.runs import CARRIED
from pyvision_rl.runs_codec import SavedRollout


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
