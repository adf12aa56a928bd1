"""Trackio: a local store of its own (or a Space, as its own settings say).

In: the numbers of a step. Out: one entry per step. A resumed run is stored anew: the entries of
the earlier process are deleted from the local store first. A Space keeps them, as a run beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyvision_rl.tracking.base import Tracked


class Trackio:
    """Starts no dashboard: ``trackio show`` does."""

    package = "trackio"

    def __init__(self, run: Tracked) -> None:
        import trackio

        if run.run_id:
            for earlier in trackio.Api().runs(run.project):
                if earlier.id == run.run_id:
                    earlier.delete()
        self._run = trackio.init(
            project=run.project,
            name=run.name,
            config=dict(run.config),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self.run_id = str(self._run.id)

    def log(self, step: int, values: Mapping[str, float], time: float) -> None:
        """Store one step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Write what waits."""
        self._run.finish()
