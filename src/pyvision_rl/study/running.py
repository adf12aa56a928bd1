"""Units as child processes, several at a time: longest chain first, resumed, and never lost.

In: units. Out: their folders, logs and notes. A unit that was interrupted goes on where its verb
can (``pvrl rl --resume``); one that failed is noted with the end of its log and the others go on.
Reads no results.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pyvision_rl.errors import RunError
from pyvision_rl.present import last_lines
from pyvision_rl.resuming import can_go_on
from pyvision_rl.show import sanitize
from pyvision_rl.study import guard
from pyvision_rl.study.notes import (
    DONE,
    FAILED,
    RETRYING,
    Note,
    log_of,
    read_begun,
    read_note,
    write_begun,
    write_note,
)
from pyvision_rl.study.plan import Unit, blocked, priorities, ready, seconds_left
from pyvision_rl.train.interrupts import StopSignal

PVRL = (sys.executable, "-m", "pyvision_rl.cli.main")
"""The program whose verbs the units are."""
_TAIL_LINES = 15
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a study stands."""

    done: int
    failed: int
    """With those that wait for a failed one."""
    total: int
    running: tuple[str, ...]
    seconds_left: float | None
    """None while nothing was measured."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How the units of a study ended."""

    notes: dict[str, Note]
    """By unit; one that never ended has none."""
    blocked: dict[str, str]
    """Unit -> the failed unit it waits for."""
    stopped: int | None
    """The signal that stopped the study; None if it came to its end."""


@dataclass(frozen=True, slots=True)
class _Child:
    unit: Unit
    process: subprocess.Popen[bytes]
    began: float


class Runner:
    """Runs the units of one study folder."""

    def __init__(
        self,
        folder: Path,
        *,
        jobs: int,
        program: Sequence[str] = PVRL,
        report: Callable[[str], None] = lambda _: None,
        status: Callable[[Progress], None] = lambda _: None,
        patience_s: float = 600.0,
    ) -> None:
        """Prepare to run.

        Args:
            folder: The study folder; units lie below it.
            jobs: Units at a time, one core each.
            program: What the words of a unit are given to.
            report: Receives a line when a unit starts or ends.
            status: Receives the state of things, several times a second.
            patience_s: After a stop, units are waited for this long before they are killed.
        """
        self._folder = folder.resolve()
        self._jobs = jobs
        self._program = tuple(program)
        self._report = report
        self._status = status
        self._patience_s = patience_s
        self._running: list[_Child] = []
        self._notes: dict[str, Note] = {}

    def run(self, units: Sequence[Unit], *, retry_failed: bool = False) -> Finished:
        """Run every unit that has not ended yet.

        Args:
            units: All units, each after those it needs.
            retry_failed: Whether to start those again, from scratch, that failed before.

        Raises:
            RunError: A unit was made or begun by another config.
        """
        self._notes = notes_of(self._folder, units, retry_failed=retry_failed)
        order = priorities(units)
        with StopSignal() as stop:
            try:
                while stop.received is None and self._advance(units, order):
                    self._status(self._progress(units))
                    time.sleep(_POLL_S)
                if stop.received is not None:
                    self._stop()
            finally:
                # Also after a second Ctrl-C: nothing of ours outlives us.
                self._kill()
        failed = [n for n, note in self._notes.items() if note.status == FAILED]
        return Finished(dict(self._notes), blocked(units, failed), stop.received)

    def _advance(self, units: Sequence[Unit], order: Mapping[str, float]) -> bool:
        """Take in what ended and start what may; False when nothing is left to do."""
        for child in self._running:
            if child.process.poll() is not None:
                self._end(child)
        self._running = [c for c in self._running if c.process.returncode is None]
        done = {n for n, note in self._notes.items() if note.status == DONE}
        taken = self._notes.keys() | {c.unit.name for c in self._running}
        for unit in ready(units, done, taken, order)[: self._jobs - len(self._running)]:
            self._start(unit)
        return bool(self._running)

    def _start(self, unit: Unit) -> None:
        out = self._folder / unit.name
        goes_on = _interrupted(self._folder, unit)
        if not goes_on:
            shutil.rmtree(out, ignore_errors=True)
            write_begun(self._folder, unit.name, unit.sha256)
        before = read_note(self._folder, unit.name)
        if before is not None:
            # Not before what it failed on is gone: what is found from here on is gone on from.
            write_note(self._folder, replace(before, status=RETRYING, sha256=unit.sha256))
        tied = (sys.executable, "-S", guard.__file__, str(os.getpid()))
        command = (*tied, *self._program, *arguments(unit, out, goes_on=goes_on))
        log = log_of(self._folder, unit.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_one_thread(),
                # A Ctrl-C is for the study alone, which passes it on once.
                start_new_session=True,
            )
        self._running.append(_Child(unit, process, time.monotonic()))
        self._report(f"{unit.name}: {'goes on' if goes_on else 'started'}")

    def _end(self, child: _Child) -> None:
        name, code = child.unit.name, child.process.returncode
        seconds = round(time.monotonic() - child.began, 2)
        before = read_note(self._folder, name)
        failures = (before.failures if before else 0) + (code != 0)
        lines = last_lines(log_of(self._folder, name), _TAIL_LINES)
        tail = "\n".join(map(sanitize, lines)) if code else ""
        note = Note(
            name,
            FAILED if code else DONE,
            child.unit.sha256,
            code,
            seconds,
            datetime.now(UTC).isoformat(timespec="seconds"),
            tail,
            failures,
        )
        write_note(self._folder, note)
        self._notes[name] = note
        how = f"FAILED (exit code {code})" if code else "done"
        self._report(f"{name}: {how} after {seconds:.0f} s")

    def _stop(self) -> None:
        """Pass the signal on once, so that units save, and wait for them."""
        self._report(f"stopping {len(self._running)} units; Ctrl-C again kills them")
        for child in self._running:
            child.process.send_signal(signal.SIGINT)
        until = time.monotonic() + self._patience_s
        while self._running and time.monotonic() < until:
            for child in self._running:
                # One that came to its end all the same is done; any other is interrupted.
                if child.process.poll() == 0:
                    self._end(child)
            self._running = [c for c in self._running if c.process.returncode is None]
            time.sleep(_POLL_S)

    def _kill(self) -> None:
        for child in self._running:
            with suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()
        self._running = []

    def _progress(self, units: Sequence[Unit]) -> Progress:
        failed = [n for n, note in self._notes.items() if note.status == FAILED]
        lost = {*failed, *blocked(units, failed)}
        now = time.monotonic()
        running = {c.unit.name: now - c.began for c in self._running}
        measured = {n: note.seconds for n, note in self._notes.items() if n not in lost}
        left = seconds_left([u for u in units if u.name not in lost], measured, running, self._jobs)
        return Progress(len(measured), len(lost), len(units), tuple(running), left)


def arguments(unit: Unit, out: Path, *, goes_on: bool) -> tuple[str, ...]:
    """Return the words after ``pvrl``."""
    if goes_on:
        return (unit.verb, "--resume", str(out))
    sets = (word for override in unit.overrides for word in ("--set", override))
    return (unit.verb, unit.config, *sets, "--out", str(out))


def notes_of(folder: Path, units: Sequence[Unit], *, retry_failed: bool) -> dict[str, Note]:
    """Return the notes of units that are not to be run, by name.

    Raises:
        RunError: A unit that is kept, or gone on with, was made or begun by another config.
    """
    notes = {}
    kept = (DONE,) if retry_failed else (DONE, FAILED)
    for unit in units:
        note = read_note(folder, unit.name)
        sha256 = unit.sha256
        if _interrupted(folder, unit):
            sha256 = read_begun(folder, unit.name) or "unknown"
        elif note is not None and note.status in kept:
            sha256, notes[unit.name] = note.sha256, note
        if sha256 != unit.sha256:
            raise RunError(
                f"{folder / unit.name} was made by another config or version "
                f"({sha256}, not {unit.sha256}); name another folder for the study"
            )
    return notes


def existing(
    folder: Path, units: Sequence[Unit], *, retry_failed: bool = False
) -> Mapping[str, Collection[str]]:
    """Return the units that ended or began before, by what would be done with them now.

    Raises:
        RunError: One of them was made or begun by another config.
    """
    found: dict[str, list[str]] = {DONE: [], FAILED: [], "interrupted": []}
    notes = notes_of(folder, units, retry_failed=retry_failed)
    for unit in units:
        if unit.name in notes:
            found[notes[unit.name].status].append(unit.name)
        elif _interrupted(folder, unit):
            found["interrupted"].append(unit.name)
    return found


def _interrupted(folder: Path, unit: Unit) -> bool:
    """Whether a unit began, did not end, and left what it can go on from.

    One that failed starts from scratch: what it saved may be what it failed on.
    """
    note = read_note(folder, unit.name)
    began = note is None or note.status == RETRYING
    return began and can_go_on(unit.verb, folder / unit.name)


def _one_thread() -> dict[str, str]:
    # Threads that share cores with other units must sleep while they wait.
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
