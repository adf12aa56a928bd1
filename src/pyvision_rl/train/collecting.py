"""What RL trains on: tasks in a seeded order, and the graded groups of one step.

In: a task set and an assembly. Out: groups with advantages, enough of them for one update where the
tasks allow it. Chooses none of them (see ``selection``) and trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pyvision_rl.advantages import assign
from pyvision_rl.assemble import Assembly
from pyvision_rl.errors import TaskError, TrainError
from pyvision_rl.rollout import derive_seed
from pyvision_rl.selection import num_usable
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import Group, Task, TaskInput


@dataclass(slots=True)
class TaskStream:
    """Tasks in a seeded order, epoch after epoch; ``position`` is all that a resume needs."""

    tasks: TaskSet
    count: int
    seed: int
    position: int = 0
    check: Callable[[TaskInput], object] = lambda _: None
    """Raises TaskError for a task that cannot be shown."""
    _skipped: list[str] = field(default_factory=list)

    def take(self, number: int) -> list[Task]:
        """Return the next ``number`` tasks; one that cannot be read is skipped and noted.

        Raises:
            TaskError: A whole epoch has no readable task.
        """
        drawn: list[Task] = []
        misses = 0
        while len(drawn) < number:
            epoch, index = divmod(self.position, self.count)
            self.position += 1
            try:
                task = self.tasks[_shuffled(index, self.count, derive_seed(self.seed, epoch))]
                self.check(task.input)
            except TaskError as error:
                misses += 1
                self._skipped.append(str(error))
                if misses >= self.count:
                    raise
                continue
            drawn.append(task)
        return drawn

    def skipped(self) -> list[tuple[str, str]]:
        """Return (event, reason) of every task skipped since the last call."""
        found, self._skipped = self._skipped, []
        return [("skipped_task", reason) for reason in found]


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


def collect(assembly: Assembly, stream: TaskStream, step: int) -> list[Group]:
    """Oversample: generate rounds of groups until enough survive the filters (paper section 3.3).

    Raises:
        TrainError: ``max_rounds`` did not fill the batch and ``on_short`` is "error".
    """
    selection = assembly.config.selection
    per_round = max(1, round(selection.groups_per_step * selection.oversample))
    groups: list[Group] = []
    for round_ in range(selection.max_rounds):
        fresh = assembly.rollout(
            stream.take(per_round), seed=derive_seed(assembly.config.seed, "step", step, round_)
        )
        groups += [assign(g, normalize_std=selection.normalize_std) for g in fresh]
        if num_usable(groups, selection) >= selection.groups_per_step:
            return groups
    if selection.on_short == "error":
        raise TrainError(
            f"step {step}: {num_usable(groups, selection)} of {len(groups)} groups survived the "
            f"filters in {selection.max_rounds} rounds; selection.groups_per_step wants "
            f"{selection.groups_per_step}. The tasks are too hard or too easy for this model"
        )
    return groups
