"""The groups and the batch of one step, enough of them for one update where the tasks allow it.

In: an assembly and a stream of tasks. Out: for each step every group that was generated, with
advantages, and the batch selected from them and from what the step before left over. Trains
nothing. ``state_dict`` is all that a resume needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pyvision_rl.advantages import assign
from pyvision_rl.assemble import Assembly
from pyvision_rl.errors import TrainError
from pyvision_rl.rollout import derive_seed
from pyvision_rl.selection import num_usable, num_wanted, select
from pyvision_rl.train.task_stream import TaskStream
from pyvision_rl.types import Batch, Candidate, Group

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Collected:
    """What one step has to learn from."""

    groups: tuple[Group, ...]
    """All that were generated for this step, advantages assigned."""
    batch: Batch
    carried_in: tuple[Group, ...] = ()
    """Survivors of earlier groups that the batch was also selected from."""
    shortage: str = ""
    """Why the run must not go on: too little to train on, against what the config asks for."""

    def check(self) -> None:
        """Raise TrainError if there is a shortage; call it when the step has been written."""
        if self.shortage:
            raise TrainError(self.shortage)


class Collector:
    """Generates the groups of each step and selects its batch (paper section 3.3)."""

    def __init__(self, assembly: Assembly, stream: TaskStream) -> None:
        """Take what rolls out and what it is rolled out on."""
        self._assembly = assembly
        self._stream = stream
        self._carried: tuple[Candidate, ...] = ()
        self._empty_steps = 0

    def collect(self, step: int, stopped: Callable[[], bool] = lambda: False) -> Collected | None:
        """Oversample: generate rounds of groups until enough survive the filters; then select.

        ``stopped`` is asked between rounds. Where it says so the result is None, and the next call,
        also that of a resumed run, makes the same step from its beginning.
        """
        config = self._assembly.config.selection
        per_round = max(1, round(config.groups_per_step * config.oversample))
        groups: list[Group] = []
        full, rounds, usable = False, 0, len(self._carried)
        place = self._stream.state_dict()
        while not full and rounds < config.max_rounds:
            if rounds and stopped():
                self._stream.load_state_dict(place)
                return None
            seed = derive_seed(self._assembly.config.seed, "step", step, rounds)
            rolled = self._assembly.rollout(self._stream.take(per_round), seed=seed)
            fresh = [assign(g, config.advantage) for g in rolled]
            groups += fresh
            rounds += 1
            usable += num_usable(fresh, config)
            full = usable >= num_wanted(groups, config)
        carried, batch = self._carried, select(groups, config, step=step, carried=self._carried)
        self._carried = batch.carried
        self._empty_steps = 0 if batch.samples else self._empty_steps + 1
        shortage, most = "", config.max_empty_steps
        # Above it, if a resumed run allows fewer than were counted before.
        starved = most is not None and self._empty_steps >= most
        if starved or (not full and config.on_short == "error"):
            from pyvision_rl.train.shortage import explain

            shortage = explain(groups, batch, config, step, rounds, self._empty_steps)
        return Collected(tuple(groups), batch, self._groups(carried), shortage)

    def _groups(self, carried: tuple[Candidate, ...]) -> tuple[Group, ...]:
        if carried and self._assembly.config.selection.rank_unit == "trajectory":
            from pyvision_rl.train.carrying import regrouped

            return regrouped(carried)
        return tuple(c.group for c in carried)

    def beside(self, work: Callable[[], Made], step: int, stopped: Callable[[], bool]) -> Made:
        """Return what ``work``, the update of ``step``, makes; nothing is sampled meanwhile."""
        return work()

    def skipped(self) -> list[tuple[str, str]]:
        """Return (event, reason) of every task skipped since the last call."""
        return self._stream.skipped()

    def state_dict(self) -> dict[str, Any]:
        """Return what the next step depends on, as plain values and tensors."""
        state = {**self._stream.state_dict(), "empty_steps": self._empty_steps}
        if self._carried:
            from pyvision_rl.train.carrying import pack

            state["carried"] = pack(self._carried)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._stream.load_state_dict(state)
        self._empty_steps = int(state.get("empty_steps", 0))
        self._carried = ()
        if "carried" in state:
            from pyvision_rl.train.carrying import unpack

            self._carried = unpack(state["carried"])
