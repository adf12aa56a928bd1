"""What RL notes after each step, and what follows from all that was noted.

In: the numbers of a step. Out: lines in the run folder and in trackers, alarms, and two decisions:
which checkpoint is the best, and whether to stop early. All of it depends on ``metrics.jsonl``
only, from which a resumed run takes it: it decides as if it had never stopped. Neither trains nor
saves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pyvision_rl.config import Config
from pyvision_rl.errors import PVRLError, RunError
from pyvision_rl.runs import RunReader, RunWriter
from pyvision_rl.train.checkpoints import latest_checkpoint

if TYPE_CHECKING:
    from pyvision_rl.tracking.base import Trackers
    from pyvision_rl.train.watch import Alarm


_MIN_GRADED = 0.9


class Journal:
    """Notes one run; a context manager that ends with a summary for people."""

    def __init__(
        self,
        config: Config,
        writer: RunWriter,
        report: Callable[[str], None],
        tracker_ids: Mapping[str, str] | None = None,
    ) -> None:
        """Take up what ``writer``'s folder already holds.

        Args:
            config: Its ``train``, ``watch`` and ``run`` sections.
            writer: Of the run folder, cut back to the step to go on from.
            report: Receives a line for people now and then.
            tracker_ids: ``tracker_ids`` of the journal that noted those steps.
        """
        # It only looks on: a run can be read without it.
        from pyvision_rl.train.watch import Watch

        self.writer = writer
        self.report = report
        self._train = config.train
        self._watch = Watch(config)
        self._evaluations: dict[int, float] = {}
        self._trackers: Trackers | None = None
        past = RunReader(writer.path).metrics()
        self.started = bool(past)
        """Whether anything was noted, be it only the evaluation before the first step."""
        self.last_step = 0
        for line in past:
            self._take(line)
        if config.run.trackers:
            self._trackers = _open_trackers(config, writer, tracker_ids)
            self._trackers.replay(past)

    @property
    def tracker_ids(self) -> dict[str, str]:
        """Belongs into a checkpoint: tracker -> its run id."""
        return self._trackers.ids if self._trackers else {}

    @property
    def best_step(self) -> int | None:
        """The step whose evaluation was the best, the first of equals; None without evaluations."""
        found = self._evaluations
        return max(found, key=lambda step: (found[step], -step)) if found else None

    @property
    def ended(self) -> str:
        """Why the run should stop before its last step; "" when it should not."""
        found, target, name = self._evaluations, self._train.stop_at, self._train.best_metric
        if target is not None and found and max(found.values()) >= target:
            return f"{name} reached {max(found.values()):.4g} (train.stop_at = {target:g})"
        since = [step for step in found if step > (self.best_step or 0)]
        if self._train.patience and len(since) >= self._train.patience:
            return (
                f"{name} has not risen in {len(since)} evaluations since step {self.best_step} "
                f"(train.patience = {self._train.patience})"
            )
        return ""

    def event(self, name: str, text: str, step: int | None = None) -> None:
        """Note a warning or remark."""
        self.writer.event(name, text, step)

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        """Note a whole step."""
        self.writer.metrics(step, numbers)
        metric = self._train.best_metric
        if not _counts(numbers, metric) and any(name.startswith("eval_") for name in numbers):
            graded = f"{numbers.get('eval_graded_share', 1.0):.0%} of it was graded"
            text = f"step {step}: the evaluation has no {metric} to go by ({graded})"
            self.event("no_best_metric", text, step)
        line = {"step": step, "time": time.time(), **numbers}
        for alarm in self._take(line):
            kind = "alarm" if alarm.raised else "alarm_cleared"
            self.event(kind, alarm.text, step)
            self.report(f"{kind} at step {step}: {alarm.text}")
        if self._trackers:
            self._trackers.log(line)

    def alarms(self) -> dict[str, str]:
        """Return, for every alarm there was, when it was raised and cleared."""
        return self._watch.summary()

    def __enter__(self) -> Self:
        """Return the journal."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Note what ended the run, close the trackers, and sum up."""
        if isinstance(error, PVRLError):
            self._failed(error)
        if self._trackers:
            self._trackers.close()
            for name, count in self._trackers.failures.items():
                # The disk may be what ended the run.
                with suppress(RunError):
                    self.event("tracker_failed", f"{name}: {count} calls failed")
                self.report(f"tracker {name}: {count} calls failed; metrics.jsonl has everything")
        for name, history in self.alarms().items():
            self.report(f"alarm {name}: {history}")

    def _failed(self, error: PVRLError) -> None:
        """Note an error, and add to it what can be gone on from."""
        # The disk may be what failed.
        with suppress(RunError):
            self.event("failed", str(error), self.last_step + 1)
        out = self.writer.path
        latest = latest_checkpoint(out / "checkpoints")
        error.add_note(
            f"{latest} is whole; go on with: pvrl rl --resume {out}"
            if latest
            else "no checkpoint was saved before"
        )

    def _take(self, line: Mapping[str, Any]) -> list[Alarm]:
        self.last_step = line["step"]
        if self.last_step < 1:
            return []
        if _counts(line, self._train.best_metric):
            self._evaluations[line["step"]] = line[self._train.best_metric]
        return self._watch.see(line["step"], line)


def _counts(line: Mapping[str, Any], metric: str) -> bool:
    """Whether a step's evaluation may decide anything: not when much of it is unknown."""
    return metric in line and line.get("eval_graded_share", 1.0) >= _MIN_GRADED


def _open_trackers(config: Config, writer: RunWriter, ids: Mapping[str, str] | None) -> Trackers:
    from pyvision_rl.tracking.base import Tracked, Trackers

    name = config.run.run_name or writer.path.resolve().name
    run = Tracked(writer.path, config.run.project, name, config.model_dump(mode="json"))
    return Trackers(config.run.trackers, run, ids)
