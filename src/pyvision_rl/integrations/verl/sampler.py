"""verl's replay buffer with our selection: oversample, filter, rank. In verl's environment only.

In: the queue that verl's rollout workers fill. Out: the batch of one step, as verl's metadata, and
what became of everything that was generated for it. Each round waits for ``groups_per_step *
oversample`` groups, all of them, so that the best are chosen of many; rounds follow until enough
are usable. What is not chosen is cleared from the queue, counted, and kept in the run folder.

Only for ``trainer.v1.trainer_mode=sync``: the other modes train on groups while others are made.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transfer_queue as tq
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from pyvision_rl.config_file import load_config
from pyvision_rl.errors import ConfigError, TrainError
from pyvision_rl.integrations.verl.choice import Choice, all_groups, choose, usable
from pyvision_rl.integrations.verl.journal import Journal
from pyvision_rl.integrations.verl.summary import FIELD, read_summary
from pyvision_rl.metrics import check_failures
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.types import EndReason

logger = logging.getLogger(__name__)


class PyVisionSampler(ReplayBuffer):  # type: ignore[misc]  # verl is not where types are checked
    """Selects the batch of each step as ``[selection]`` of the exported config says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take verl's arguments; ``sampler_kwargs.folder`` is the exported folder.

        Raises:
            ConfigError: The trainer is not synchronous, or cannot be asked for more prompts.
        """
        super().__init__(*args, **kwargs)
        folder = Path(str(self.sampler_kwargs["folder"]))
        self._settings = load_config(folder)
        self._journal = Journal(folder, self._settings)
        if self.trainer_mode != "sync":
            raise ConfigError(
                f"trainer.v1.trainer_mode = {self.trainer_mode!r}; only sync is known"
            )
        if self.refill_fn is None:
            raise ConfigError("verl gave the sampler no refill_fn: it cannot oversample")
        self._began = time.time()
        """Until the first step of this process, which may not be the run's first."""
        self._found: dict[str, dict[int, SavedRollout]] = {}

    def sample(
        self, global_steps: int, partition_id: str, batch_size: int
    ) -> tuple[Any, dict[str, Any]]:
        """Return the batch of a step and its numbers; validation is verl's own.

        Raises:
            TrainError: More episodes failed or stayed ungraded than the config allows, or
                ``max_rounds`` (times ``max_empty_steps``) gave not one usable group, or too few
                with ``on_short = "error"``.
        """
        if partition_id == "val":
            validated: tuple[Any, dict[str, Any]]
            validated = super().sample(global_steps, partition_id, batch_size)
            return validated
        wanted = self._settings.selection.groups_per_step
        if batch_size != wanted:
            raise ConfigError(
                f"data.train_batch_size gives {batch_size} groups a step and the exported config "
                f"selection.groups_per_step = {wanted}: export again to change it"
            )
        if self._began:
            self._journal.begin(global_steps, self._began)
            self._began = 0.0
        self._found = {}
        try:
            rounds = self._generate(partition_id, batch_size, f"step {global_steps}")
        except TrainError:
            self._settle(global_steps)  # what stops the run can be looked at
            raise
        choice, not_noted = self._settle(global_steps)
        numbers = {**choice.numbers, "rounds": float(rounds), "lost": float(self._lost())}
        numbers["not_noted"] = float(not_noted)
        self._journal.metrics(global_steps, numbers)
        batch = self._take(partition_id, choice)
        return batch, {f"pyvision/{name}": value for name, value in numbers.items()}

    def _settle(self, step: int) -> tuple[Choice, int]:
        """Choose, file what became of every trajectory, and count those that nobody noted."""
        choice = choose(self._found, self._settings, step)
        fates = {f"{uid}_{rollout}": fate for (uid, rollout), fate in choice.fates.items()}
        return choice, self._journal.settle(step, fates)

    def _generate(self, partition_id: str, batch_size: int, where: str) -> int:
        """Have rounds generated until the batch can be filled; return how many."""
        selection = self._settings.selection
        per_round = max(1, round(selection.groups_per_step * selection.oversample))
        most = selection.max_rounds * (selection.max_empty_steps or 1)
        asked, rounds, good = batch_size, 0, 0
        while good < batch_size and rounds < (most if not good else selection.max_rounds):
            rounds += 1
            if more := per_round * rounds - asked:
                self.refill_fn(more)
                asked += more
            self._wait(partition_id, asked)
            self._read(partition_id)
            self._check(where)
            good = usable(self._found, self._settings)
        if good < batch_size and (not good or selection.on_short == "error"):
            raise TrainError(
                f"{where}: {good} of {batch_size} groups are usable after {rounds} rounds of "
                f"{per_round} (selection.max_rounds = {selection.max_rounds})"
            )
        return rounds

    def _wait(self, partition_id: str, asked: int) -> None:
        """Wait until every group that was asked for has ended."""
        told = time.time()
        while True:
            self._sync_metadata_from_transfer_queue()
            ended = self.finished_keys[partition_id] | self.failure_keys[partition_id]
            busy = self.pending_keys[partition_id] | self.running_keys[partition_id]
            if not busy and len(ended) >= asked:
                return
            told = self._wait_for_next_poll(partition_id, told)

    def _read(self, partition_id: str) -> None:
        """Read the summaries that are new in the queue."""
        ended = self.finished_keys[partition_id] | self.failure_keys[partition_id]
        for uid in self.prompt_global_steps[partition_id]:  # as they were asked for
            if uid in ended:
                self._found.setdefault(uid, {})
        new = [
            key
            for key in self.partitions[partition_id]
            if _place(key)[1] not in self._found.get(_place(key)[0], {})
        ]
        if not new:
            return
        data = tq.kv_batch_get(keys=new, partition_id=partition_id, select_fields=["extra_fields"])
        for key, value in zip(new, data["extra_fields"], strict=True):
            uid, rollout = _place(key)
            fields = getattr(value, "data", value)
            self._found[uid][rollout] = read_summary(fields[FIELD])

    def _check(self, where: str) -> None:
        """Raise TrainError where our own failures leave a biased sample; lost episodes are ours."""
        groups = all_groups(self._found)
        if remark := check_failures(groups, self._settings, where):
            logger.warning(remark)
        lost, most = self._lost(), self._settings.rollout.max_failed_share
        failed = sum(t.end is EndReason.FAILED for g in groups for t in g.trajectories)
        made = self._settings.rollout.group_size * len(self._found)
        if lost and lost + failed > most * made:
            raise TrainError(
                f"{where}: of {made} episodes {failed} failed and {lost} left nothing "
                f"behind; their workers' logs say why (rollout.max_failed_share = {most})"
            )

    def _lost(self) -> int:
        """How many episodes left nothing behind: their worker broke."""
        size = self._settings.rollout.group_size
        return sum(size - len(members) for members in self._found.values())

    def _take(self, partition_id: str, choice: Choice) -> Any:
        """Clear what is not used, and return the rest as verl's batch."""
        used = set(choice.prompts)
        self._clear_groups(partition_id, set(self._found) - used)
        members = self.partitions[partition_id]
        out = [key for key in members if _place(key)[0] in used and _place(key) not in choice.keys]
        self._clear(partition_id, out)
        return self._materialize_batch(partition_id, list(choice.prompts), dict(members))

    def _clear(self, partition_id: str, keys: Iterable[str]) -> None:
        if out := list(keys):
            tq.kv_clear(partition_id=partition_id, keys=out)
            for key in out:
                del self.partitions[partition_id][key]


def _place(key: str) -> tuple[str, int]:
    """Return the prompt id and the rollout of verl's key ``uid_session_index``."""
    uid, session, _ = key.rsplit("_", 2)
    return uid, int(session)
