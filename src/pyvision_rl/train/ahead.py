"""The next step's episodes while this step's update runs; for a policy on machines of its own.

In: what a ``Collector`` takes. Out: a collector that samples step n + 1 beside the update of step
n, with the weights that step n began with: one update older than without, and never more
(``train.overlap``). The update runs in a thread of its own, so that signals, sandbox and event loop
stay where they are. Publishes no weights: between steps nothing is being sampled.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any, Generic, TypeVar

from pyvision_rl.assemble import Assembly
from pyvision_rl.train.collecting import Collected, Collector
from pyvision_rl.train.task_stream import TaskStream

Made = TypeVar("Made")


class AheadCollector(Collector):
    """Has the groups of the next step ready when this one ends."""

    def __init__(self, assembly: Assembly, stream: TaskStream) -> None:
        """Take what rolls out and what it is rolled out on."""
        super().__init__(assembly, stream)
        self._last = assembly.config.train.steps
        self._ready: Collected | Exception | None = None
        self._before: dict[str, Any] | None = None
        self._dropped = False

    def collect(self, step: int, stopped: Callable[[], bool] = lambda: False) -> Collected | None:
        """Return what was collected beside the update before, or collect now.

        Raises:
            Exception: What ended that collecting.
        """
        ready, self._ready, self._before = self._ready, None, None
        if isinstance(ready, Exception):
            raise ready
        return ready or super().collect(step, stopped)

    def beside(self, work: Callable[[], Made], step: int, stopped: Callable[[], bool]) -> Made:
        """Run the update of ``step``, and collect the next step meanwhile; return what it made.

        What ends the collecting is raised by the next ``collect``, when this step is written.
        """
        if step == self._last or stopped():
            return work()
        self._before = self.state_dict()
        update = _Beside(work)
        try:
            ready = super().collect(step + 1, lambda: stopped() or update.failed is not None)
        except Exception as error:  # noqa: BLE001 - whatever it is, this step has to be written
            self._ready = error
        else:
            self._ready, self._dropped = ready, ready is None
        return update.result()

    def skipped(self) -> list[tuple[str, str]]:
        """Return (event, reason) of skipped tasks, and of groups that no step will use."""
        unused = self._dropped or isinstance(self._ready, Collected)
        self._dropped = False
        text = "what was sampled ahead for the next step is not used: the run stops"
        return [*super().skipped(), *([("dropped_step", text)] if unused else [])]

    def state_dict(self) -> dict[str, Any]:
        """Return what the next step depends on, as if none of it were sampled yet."""
        return super().state_dict() if self._before is None else self._before


class _Beside(Generic[Made]):
    """Work in a thread; one that a second Ctrl-C need not wait for."""

    def __init__(self, work: Callable[[], Made]) -> None:
        self.failed: BaseException | None = None
        self._made: list[Made] = []
        self._work = work
        self._thread = Thread(target=self._run, name="update", daemon=True)
        self._thread.start()

    def result(self) -> Made:
        """Wait for the work; return what it made, or raise what ended it."""
        self._thread.join()
        if self.failed is not None:
            raise self.failed
        return self._made[0]

    def _run(self) -> None:
        try:
            self._made.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again by ``result``
            self.failed = error
