"""Progress for people: lines of text in, a bar with an ETA on a terminal, plain lines elsewhere.

A line that counts, such as ``step 3/30`` or ``5 of 20 tasks``, also moves the bar. Writes to
stderr, so that stdout holds results only. Keeps no log: a run's numbers are in its folder.
"""

from __future__ import annotations

import re
import time
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_COUNT = re.compile(r"\b(\d+)(?:/| of )(\d+)\b")


class Reporter:
    """Shows one run's progress; call it with a line of text. A context manager."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._first: tuple[float, int, int] | None = None
        """Time, count and total of the first line of the current stretch."""

    def __enter__(self) -> Self:
        """Start the bar, if this is a terminal."""
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away; the lines stay."""
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, text: str) -> None:
        """Show one line, and move the bar if the line counts."""
        count = _COUNT.search(text)
        eta = self._eta(int(count[1]), int(count[2])) if count else ""
        if self._bar is None:
            self._console.print(f"{text}{eta}", markup=False, highlight=False, soft_wrap=True)
            return
        self._console.print(text, markup=False, highlight=False)
        if count:
            done, total = int(count[1]), int(count[2])
            if self._task is None:
                self._task = self._bar.add_task(self._title, total=total)
            self._bar.update(self._task, completed=done, total=total)

    def _eta(self, done: int, total: int) -> str:
        """Return the time left at the pace since the stretch began, as text."""
        now = time.monotonic()
        if self._first is None or self._first[2] != total or done <= self._first[1]:
            # The first count has no pace yet: a stretch is a run of counts to one total.
            self._first = (now, done, total)
            if self._bar is not None and self._task is not None:
                self._bar.reset(self._task, total=total)
            return ""
        began, first, _ = self._first
        left_s = (now - began) / (done - first) * max(0, total - done)
        return f" (eta {int(left_s) // 60}:{int(left_s) % 60:02d})" if done < total else ""
