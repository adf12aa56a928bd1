"""Tasks in a seeded order, epoch after epoch, with a cap on each kind in a round.

In: a task set. Out: the next tasks, and the place in the stream as plain values. The order is
computed, not stored. A task is drawn, put back for a later round, or skipped as unreadable and
noted; none is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyvision_rl.errors import TaskError
from pyvision_rl.rollout import derive_seed
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import Task, TaskInput

_LOOK_AHEAD = 8
"""How far a round looks for tasks of another kind, in rounds: so many it puts back or passes by."""


@dataclass(slots=True)
class TaskStream:
    """Tasks in a seeded order, epoch after epoch; ``state_dict`` is all that a resume needs."""

    tasks: TaskSet
    count: int
    seed: int
    position: int = 0
    check: Callable[[TaskInput], object] = lambda _: None
    """Raises TaskError for a task that cannot be shown."""
    max_per_round: Mapping[str, int] = field(default_factory=dict)
    """Kind -> tasks of one ``take`` (see ``kinds``)."""
    _held: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    """Position and kinds of the tasks that were put back."""
    _skipped: list[str] = field(default_factory=list)

    def take(self, number: int) -> list[Task]:
        """Return the next ``number`` tasks; one that cannot be read is skipped and noted.

        Tasks beyond ``max_per_round`` are put back and offered first next time; others are looked
        for in their place, at most eight rounds ahead. What is not found is missing. A task that
        still waits is passed by when the next epoch comes to it.

        Raises:
            TaskError: A whole epoch has no readable task.
        """
        drawn: list[Task] = []
        misses = 0
        room = dict(self.max_per_round)
        waiting, self._held = self._held[::-1], []
        waits = {self._index(position) for position, _ in waiting}
        looked = 0
        while len(drawn) < number and (waiting or looked < _LOOK_AHEAD * number):
            position, known = waiting.pop() if waiting else (self.position, ())
            if not _fits(known, room):
                self._held.append((position, known))
                continue
            if position == self.position:
                self.position += 1
                if self._index(position) in waits:
                    looked, misses = looked + 1, 0  # it was readable
                    continue
            try:
                task = self._read(position)
            except TaskError as error:
                misses += 1
                self._skipped.append(str(error))
                # As many in a row, over the border of two epochs, hold a whole one.
                if misses >= 2 * self.count - 1:
                    raise
                continue
            misses = 0
            if _fits(kinds(task.input), room):
                drawn.append(task)
                waits.discard(self._index(position))
                room = {k: n - (k in kinds(task.input)) for k, n in room.items()}
            else:
                looked += 1
                waits.add(self._index(position))
                self._held.append((position, kinds(task.input)))
        self._held += waiting[::-1]
        return drawn

    def _index(self, position: int) -> int:
        epoch, index = divmod(position, self.count)
        return _shuffled(index, self.count, derive_seed(self.seed, epoch))

    def _read(self, position: int) -> Task:
        task = self.tasks[self._index(position)]
        self.check(task.input)
        return task

    def skipped(self) -> list[tuple[str, str]]:
        """Return (event, reason) of every task skipped since the last call."""
        found, self._skipped = self._skipped, []
        return [("skipped_task", reason) for reason in found]

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the stream."""
        return {"position": self.position, "held": list(self._held)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a place; one that was saved without tasks put back has none."""
        self.position = int(state["position"])
        self._held = [(int(p), tuple(known)) for p, known in state.get("held", ())]


def kinds(task: TaskInput) -> tuple[str, ...]:
    """Return what ``selection.max_per_round`` may count a task as."""
    found = {f"media:{m.kind}" for m in task.media}
    return (*sorted(found), f"category:{task.category}", f"data_source:{task.data_source}")


def _fits(found: Sequence[str], room: Mapping[str, int]) -> bool:
    return all(room.get(kind, 1) > 0 for kind in found)


def _shuffled(index: int, count: int, seed: int) -> int:
    """Return where a seeded permutation of ``range(count)`` sends ``index``.

    A Feistel network with cycle walking: no table, so a set of 10^9 tasks costs nothing.
    """
    bits = max(2, (count - 1).bit_length() + 1) // 2
    mask = (1 << bits) - 1
    value = index
    while True:
        left, right = value >> bits, value & mask
        for round_ in range(4):
            left, right = right, left ^ (derive_seed(seed, round_, right) & mask)
        value = left << bits | right
        if value < count:
            return value
