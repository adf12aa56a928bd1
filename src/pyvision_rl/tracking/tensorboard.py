"""TensorBoard: event files below the run folder, in ``tensorboard/``.

In: the numbers of a step. Out: one event per step. The folder is always that of ``metrics.jsonl``:
a resumed run writes it anew from there, so that undone steps leave nothing behind.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from pyvision_rl.tracking.base import Tracked


class TensorBoard:
    """Writes events; needs no server and no torch."""

    package = "tensorboard"

    def __init__(self, run: Tracked) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.run_id = ""
        folder = run.folder / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = EventFileWriter(str(folder))

    def log(self, step: int, values: Mapping[str, float], time: float) -> None:
        """Write one event, flushed at once: it is as whole as the metrics are."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=name, simple_value=v) for name, v in values.items()]
        event = Event(step=step, wall_time=time, summary=Summary(value=scalars))
        self._writer.add_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
