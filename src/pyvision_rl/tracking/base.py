"""What a tracker must be able to do, and the group of trackers of one run.

In: the lines of ``metrics.jsonl``. Out: the same numbers in other people's dashboards. A tracker
that fails costs its curve, never the run: failures are counted and told once. Reads nothing back.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pyvision_rl.registry import missing, resolve
from pyvision_rl.tracking import TABLE

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tracked:
    """The run that a tracker is built for."""

    folder: Path
    project: str
    name: str
    config: Mapping[str, Any]
    """The resolved config as JSON values."""
    run_id: str = ""
    """The tracker's own name of the run, from the checkpoint a run goes on from; "" if new."""


class Tracker(Protocol):
    """One tracker; built with a ``Tracked``. Any method may raise anything."""

    package: ClassVar[str]
    """What must be installed; "" for nothing."""
    run_id: str
    """Kept in checkpoints, so that a resumed run continues its curve."""

    def log(self, step: int, values: Mapping[str, float], time: float) -> None:
        """Take one step's numbers.

        A resumed run sends every earlier step again, in order: what is there already must not
        appear twice. ``time`` is when the step ended (seconds since 1970).
        """
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker that is not known or whose package is not installed."""
    for name in names:
        package = resolve(name, TABLE, "run.trackers").package
        try:
            importlib.import_module(package or "builtins")
        except ImportError as error:
            raise missing(error, f"run.trackers = {name!r}") from error


class Trackers:
    """All trackers of one run."""

    def __init__(
        self, names: Sequence[str], run: Tracked, ids: Mapping[str, str] | None = None
    ) -> None:
        """Build them.

        Args:
            names: Of ``[run] trackers``, checked by ``check_trackers``.
            run: Its ``run_id`` is filled in for each.
            ids: Name -> the run id of an earlier process.
        """
        self.failures: dict[str, int] = {}
        """Name -> calls that failed."""
        self._ids = dict(ids or {})
        self._trackers: dict[str, Tracker] = {}
        for name in names:
            made = Tracked(run.folder, run.project, run.name, run.config, self._ids.get(name, ""))
            self._guard(name, lambda name=name, made=made: self._build(name, made))

    @property
    def ids(self) -> dict[str, str]:
        """Name -> the tracker's run id, of earlier processes too."""
        return self._ids | {name: t.run_id for name, t in self._trackers.items()}

    def log(self, line: Mapping[str, Any]) -> None:
        """Send one line of ``metrics.jsonl``; of its values, the numbers."""
        values = {
            name: float(value)
            for name, value in line.items()
            if name not in ("step", "time") and isinstance(value, (int, float))
        }
        for name, tracker in self._trackers.items():
            self._guard(name, lambda t=tracker: t.log(int(line["step"]), values, line["time"]))

    def close(self) -> None:
        """Close them all."""
        for name, tracker in self._trackers.items():
            self._guard(name, tracker.close)

    def replay(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Send the lines of an earlier process again."""
        for line in lines:
            self.log(line)

    def _build(self, name: str, run: Tracked) -> None:
        self._trackers[name] = resolve(name, TABLE, "run.trackers")(run)

    def _guard(self, name: str, call: Any) -> None:
        try:
            call()
        # A dashboard that is down must not end a run of days, whatever its library raises.
        except Exception as error:  # noqa: BLE001
            self.failures[name] = self.failures.get(name, 0) + 1
            if self.failures[name] == 1:
                _log.warning("tracker %s failed (told once): %r", name, error)
