"""Weights & Biases; its own environment variables choose the server, or offline mode.

In: the numbers of a step. Out: one row per step. The server's history only grows: a resumed run
keeps its id, and steps that the server has are not sent again. Offline, every process leaves a
folder that holds the whole history; ``wandb sync`` merges them by the id.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyvision_rl.tracking.base import Tracked


class Wandb:
    """Keeps its files in the run folder, in ``wandb/``."""

    package = "wandb"

    def __init__(self, run: Tracked) -> None:
        import wandb

        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.run_id or None,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.config),
        )
        self.run_id = str(self._run.id)
        self._first = int(self._run.step)
        """The server has all steps before."""

    def log(self, step: int, values: Mapping[str, float], time: float) -> None:
        """Send one row."""
        if step >= self._first:
            self._run.log(dict(values), step=step, commit=True)

    def close(self) -> None:
        """Wait until everything is sent."""
        self._run.finish()
