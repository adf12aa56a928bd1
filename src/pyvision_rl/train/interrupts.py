"""Stopping a long run between two steps.

In: SIGINT (Ctrl-C) or SIGTERM. Out: a flag that a loop reads after each step, so that it can save
and leave. A second signal stops at once, as if none of this were here. Saves nothing.
"""

from __future__ import annotations

import logging
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Self

_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    """A run was stopped by a signal after a whole step, and can be resumed.

    Uncaught, it ends the process with the signal's exit code and no traceback.
    """

    def __init__(self, exit_code: int, resume: str) -> None:
        super().__init__(exit_code)
        self.resume = resume
        """The command that goes on."""


class StopSignal:
    """Context manager that turns the first SIGINT or SIGTERM into a flag."""

    def __init__(self) -> None:
        self.received: int | None = None
        """The signal's number; None while there was none."""
        self._previous: dict[signal.Signals, object] = {}

    def asked(self) -> bool:
        """Return whether a signal came."""
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process ended by the signal: 130 or 143."""
        return 128 + (self.received or 0)

    def __enter__(self) -> Self:
        """Start listening; does nothing outside the main thread, where Python allows no handler."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back to who handled them before."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.received = number
        self._restore()
        # The signal may have come while stderr was being written, which cannot be entered twice.
        with suppress(RuntimeError):
            name = signal.Signals(number).name
            _log.warning("%s: stopping after this step; once more stops at once", name)
