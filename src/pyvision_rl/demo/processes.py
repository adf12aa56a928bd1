"""Commands as child processes: in stages, some at a time, timed and measured.

In: commands. Out: run folders and logs that they wrote, and each stage's seconds and peak memory.
A finished stage is noted in the folder and not run again; an unfinished one starts afresh.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from pyvision_rl.errors import RunError
from pyvision_rl.present import last_lines
from pyvision_rl.show import sanitize

_SHOWN_LOG_LINES = 15


@dataclass(frozen=True, slots=True)
class Command:
    """One Python module run on one config."""

    name: str
    """Names the log."""
    module: tuple[str, ...]
    """The module, and the words that come before the config."""
    config: str
    out: Path
    overrides: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    """Further words."""
    threads: int = 1
    then: tuple[Command, ...] = ()
    """What its slot runs afterwards, one after another."""

    def environment(self) -> dict[str, str]:
        """Return the environment, with as many threads as asked for."""
        # Threads that share cores with another command must sleep while they wait; several
        # threads that have the cores to themselves are slowed down by it.
        waiting = {"OMP_WAIT_POLICY": "PASSIVE"} if self.threads == 1 else {}
        return {**os.environ, "OMP_NUM_THREADS": str(self.threads), **waiting}

    def argv(self) -> list[str]:
        """Return the words of the command line."""
        sets = [word for override in self.overrides for word in ("--set", override)]
        words = [sys.executable, "-m", *self.module, self.config, *sets, *self.more]
        return [*words, "--out", str(self.out)]


@dataclass(frozen=True, slots=True)
class Stage:
    """What a finished stage cost."""

    name: str
    seconds: float
    peak_mb: float
    """All its processes together; memory that processes share counts once."""


class Runner:
    """Runs stages one after another and keeps their account."""

    def __init__(self, folder: Path, *, jobs: int, console: Console) -> None:
        self.folder = folder
        self.stages: list[Stage] = []
        self._jobs = jobs
        self._console = console
        self._children: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, name: str, commands: Sequence[Command]) -> None:
        """Run the commands of a stage and what follows each, ``jobs`` at a time.

        Raises:
            RunError: A command failed; the message holds the end of its log.
        """
        self._stage(name, lambda: self._run_all(name, commands))

    def do(self, name: str, work: Callable[[], None]) -> None:
        """Run a stage that needs no process of its own; it is never skipped."""
        began = time.monotonic()
        work()
        self._account(Stage(name, time.monotonic() - began, 0.0))

    def _stage(self, name: str, work: Callable[[], None]) -> None:
        note = self.folder / "logs" / f"{name.replace(' ', '-')}.done.json"
        if note.exists():
            self._account(Stage(**json.loads(note.read_text())), "done before")
            return
        began = time.monotonic()
        with _MemorySampler() as memory:
            work()
        stage = Stage(name, round(time.monotonic() - began, 2), round(memory.peak_mb, 1))
        note.write_text(json.dumps(asdict(stage)))
        self._account(stage)

    def _account(self, stage: Stage, remark: str = "") -> None:
        self.stages.append(stage)
        memory = f"{stage.peak_mb:7.0f} MB" if stage.peak_mb else ""
        line = f"  {stage.name:<22}{stage.seconds:7.1f} s  {memory}  {remark}".rstrip()
        self._console.print(line, highlight=False)

    def _run_all(self, name: str, commands: Sequence[Command]) -> None:
        (self.folder / "logs").mkdir(exist_ok=True)
        self._stopped = False
        with ThreadPoolExecutor(self._jobs) as pool:
            waiting: list[Future[None]] = [pool.submit(self._run_chain, c) for c in commands]
            try:
                self._follow(name, commands, waiting)
                wait(waiting, return_when=FIRST_EXCEPTION)
                for future in waiting:
                    if future.done():
                        future.result()
            except BaseException:
                # Also on Ctrl-C: no command of ours outlives us.
                for future in waiting:
                    future.cancel()
                with self._lock:
                    self._stopped = True
                    for child in self._children:
                        child.terminate()
                raise
            finally:
                self._children.clear()

    def _run_chain(self, first: Command) -> None:
        for command in (first, *first.then):
            self._run_one(command)

    def _run_one(self, command: Command) -> None:
        # Left over from a run that was killed: nobody has read it.
        shutil.rmtree(command.out, ignore_errors=True)
        log = self._log(command)
        with log.open("wb") as out:
            with self._lock:
                if self._stopped:
                    return
                child = subprocess.Popen(
                    command.argv(),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env=command.environment(),
                )
                self._children.append(child)
            code = child.wait()
        if code:
            end = "\n".join(last_lines(log, _SHOWN_LOG_LINES))
            raise RunError(f"{command.name} failed (exit code {code}); {log} ends:\n{end}")

    def _log(self, command: Command) -> Path:
        return self.folder / "logs" / f"{command.name}.log"

    def _follow(
        self, name: str, commands: Sequence[Command], waiting: Sequence[Future[None]]
    ) -> None:
        """Show the newest log line of what runs, on a terminal only, until the stage ends."""
        if not self._console.is_terminal:
            return
        with self._console.status(name) as status:
            while not all(future.done() for future in waiting):
                if any(future.done() and future.exception() for future in waiting):
                    return
                running = [c for c, f in zip(commands, waiting, strict=True) if f.running()]
                lines = [self._newest_line(command) for command in running]
                status.update(Text(f"{name}: " + "  |  ".join(lines), overflow="ellipsis"))
                time.sleep(0.5)

    def _newest_line(self, first: Command) -> str:
        """Return where a chain stands."""
        begun = [log for c in (first, *first.then) if (log := self._log(c)).exists()]
        return sanitize(" ".join(last_lines(begun[-1], 1))) if begun else ""


class _MemorySampler:
    """Watches the memory of this process's descendants while a block runs."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _MemorySampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        pause_s = 0.5
        while not self._over.wait(pause_s):
            began = time.monotonic()
            self.peak_mb = max(self.peak_mb, descendants_mb(os.getpid()))
            # A busy sandbox has hundreds of processes: watching may take 3% of a core, not more.
            pause_s = max(1.0, 30 * (time.monotonic() - began))


def descendants_mb(root: int) -> float:
    """Return the memory of all processes below ``root``, shared pages once; 0 without /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            # The name is in parentheses and may hold anything, also parentheses.
            parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    below: list[int] = []
    queue = [root]
    while queue:
        queue += (found := children.get(queue.pop(), []))
        below += found
    return sum(_process_kb(pid) for pid in below) / 1024


def _process_kb(pid: int) -> int:
    """Return a process's proportional share of memory; its whole resident set if that is hidden."""
    for name, key in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/{name}").read_text(errors="replace").splitlines():
                if line.startswith(key):
                    return int(line.split()[1])
    return 0
