"""Are two expressions equal? math-verify is asked, in children that cost at most their limits.

In: pairs of expressions as ``expressions`` writes them. Out: an ``Outcome``. A child is started
when one is first needed, imports math-verify once, and is used again and again; one that takes too
much CPU time or memory for a pair is ended by the kernel and replaced, which is counted. A child
that something else ended says nothing of its pair, which is tried once more. Works from any thread
and under asyncio, where several pairs wait for a free child without blocking the loop. What a pair
came to is kept: a bomb that eight rollouts write goes off once.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import queue
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from pyvision_rl.errors import ConfigError, RewardError
from pyvision_rl.rewards.maths_child import OUT_OF_MEMORY

CPU_S = 2.0
MEMORY_MB = 1024
PROCESSES = 1
START_S = 120.0
"""Seconds for a child to be ready: importing takes half a second, on a starved machine minutes."""
WAIT_PER_CPU_S = 60.0
"""A child that has neither answered nor used up its CPU time after so many times it is stuck."""
END_S = 10.0
"""Seconds for a child that has closed its pipe to be gone."""
LIMITS = frozenset({-signal.SIGPROF, -signal.SIGABRT, -signal.SIGSEGV, OUT_OF_MEMORY})
"""How a child ends by limits of its own: CPU time; memory that the allocator, the stack or an error
could not have. SIGKILL is somebody else's."""
MAX_KNOWN = 20_000
MAX_REPLY = 4096

_CHILD = Path(__file__).with_name("maths_child.py")
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")


class Outcome(StrEnum):
    """What became of one pair."""

    EQUAL = "equal"
    UNEQUAL = "unequal"
    """Both are numbers, and differ by more than rounding."""
    UNPROVED = "unproved"
    """Neither shown to be equal nor to be different."""
    UNREADABLE = "unreadable"
    """The answer; ``UNREADABLE_GOLD``: the reference."""
    UNREADABLE_GOLD = "unreadable_gold"
    OVER_LIMIT = "over_limit"
    """The answer took too much time or memory; ``OVER_LIMIT_GOLD``: already the reference."""
    OVER_LIMIT_GOLD = "over_limit_gold"


def require_math_verify(where: str) -> None:
    """Raise ConfigError if math-verify is not installed; ``where`` is what asks for it."""
    if not has_math_verify():
        raise ConfigError(
            f"{where} needs math_verify, which is not installed; "
            'run: pip install "pyvision-rl[grading]", or set maths = "off"'
        )


def has_math_verify() -> bool:
    """Return whether math-verify is installed; imports nothing."""
    return importlib.util.find_spec("math_verify") is not None


class Maths:
    """A few children, and what they found."""

    def __init__(
        self, *, cpu_s: float = CPU_S, memory_mb: int = MEMORY_MB, processes: int = PROCESSES
    ) -> None:
        """Set the limits of one pair; starts nothing.

        Args:
            cpu_s: Seconds of CPU time.
            memory_mb: Address space of a child.
            processes: Children at most.
        """
        self._cpu_s = cpu_s
        self._children = [_Child(memory_mb) for _ in range(processes)]
        self._free: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        for child in self._children:
            self._free.put(child)
        self._threads: ThreadPoolExecutor | None = None
        self._known: dict[tuple[str, str], Outcome] = {}
        self.counts: Counter[str] = Counter()

    async def compare(self, gold: str, answer: str) -> Outcome:
        """Return what became of a pair; the loop goes on meanwhile.

        Raises:
            RewardError: See ``compare_now``.
        """
        if (gold, answer) in self._known:
            return self.compare_now(gold, answer)
        if self._threads is None:
            # Of our own: those who wait here must not take the threads that others wait for.
            self._threads = ThreadPoolExecutor(len(self._children), thread_name_prefix="maths")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self.compare_now, gold, answer)

    def compare_now(self, gold: str, answer: str) -> Outcome:
        """Return what became of a pair, from any thread.

        Raises:
            RewardError: No child could be started, one was stuck without using its time, or two
                were ended by something else: our own failure, which says nothing about the answer.
        """
        known = self._known.get((gold, answer))
        if known is not None:
            self.counts["repeated"] += 1
            return known
        with self._child() as child:
            outcome = child.compare(gold, answer, self._cpu_s)
        self.counts["asked"] += 1
        self.counts[outcome.value] += 1
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[gold, answer] = outcome
        return outcome

    def stats(self) -> dict[str, float]:
        """Return what was asked so far; ``over_limit`` counts references too."""
        over = self.counts[Outcome.OVER_LIMIT] + self.counts[Outcome.OVER_LIMIT_GOLD]
        names = ("asked", "repeated", "equal")
        return {name: float(self.counts[name]) for name in names} | {"over_limit": float(over)}

    def close(self) -> None:
        """End the children, each after the pair it is at. Idempotent; they can be used again."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=True, cancel_futures=True)
        taken = [self._free.get() for _ in self._children]
        for child in taken:
            child.end()
            self._free.put(child)

    @contextmanager
    def _child(self) -> Iterator[_Child]:
        child = self._free.get()
        try:
            yield child
        finally:
            self._free.put(child)


class _LostError(Exception):
    """A child was ended by something else than its limits, or said what no child says."""


class _Child:
    """One child process, started anew after it has ended. Used by one thread at a time."""

    def __init__(self, memory_mb: int) -> None:
        self._memory_mb = memory_mb
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def compare(self, gold: str, answer: str, cpu_s: float) -> Outcome:
        """Return what became of one pair.

        Raises:
            RewardError: The child cannot be started, is stuck, or was lost twice.
        """
        try:
            return self._ask(gold, answer, cpu_s)
        except _LostError:
            # A fresh one may live: whoever ended the first looked at the machine, not at the pair.
            pass
        try:
            return self._ask(gold, answer, cpu_s)
        except _LostError as error:
            raise RewardError(f"the process of math-verify was lost twice: {error}") from error

    def _ask(self, gold: str, answer: str, cpu_s: float) -> Outcome:
        """Return what a child makes of a pair.

        Raises:
            RewardError: It cannot be started, or is stuck.
            _LostError: It is gone, and not by its limits.
        """
        process = self._running()
        over = Outcome.OVER_LIMIT_GOLD
        request = json.dumps({"gold": gold, "answer": answer, "cpu_s": cpu_s}).encode() + b"\n"
        until = time.monotonic() + START_S + WAIT_PER_CPU_S * cpu_s
        try:
            assert process.stdin is not None
            process.stdin.write(request)
            process.stdin.flush()
            while "outcome" not in (reply := self._reply(process, until)):
                over = Outcome.OVER_LIMIT
            outcome = Outcome(reply["outcome"])
        except TimeoutError as error:
            self.end()
            raise RewardError("the process of math-verify is stuck") from error
        except (OSError, EOFError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
            self.end()
            if process.returncode in LIMITS:
                return over
            raise _LostError(_told(process.returncode)) from error
        except ValueError as error:
            self.end()
            raise _LostError("it said what cannot be read") from error
        except BaseException:
            # Stopped between two replies: what comes next would answer another question.
            self.end()
            raise
        if outcome is Outcome.OVER_LIMIT:
            self.end()
            return over
        return outcome

    def end(self) -> None:
        """End the process. Idempotent."""
        process, self._process, self._rest = self._process, None, b""
        if process is not None:
            process.kill()
            process.communicate()

    def _running(self) -> subprocess.Popen[bytes]:
        """The process, ready to be asked."""
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.end()
        try:
            self._process = _start(self._memory_mb)
            self._reply(self._process, time.monotonic() + START_S)
        except (OSError, EOFError, ValueError) as error:
            process, self._process = self._process, None
            fate = _fate(process) if process is not None else str(error)
            raise RewardError(f"the process of math-verify cannot be started: {fate}") from error
        return self._process

    def _reply(self, process: subprocess.Popen[bytes], until: float) -> dict[str, Any]:
        """The next line of a child.

        Raises:
            EOFError: It has ended.
            TimeoutError: It says nothing.
            ValueError: It says something else.
        """
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while b"\n" not in self._rest:
            if not poll.poll(max(0.0, 1000 * (until - time.monotonic()))):
                raise TimeoutError
            part = os.read(pipe, MAX_REPLY)
            if not part:
                raise EOFError
            self._rest += part
            if len(self._rest) > MAX_REPLY:
                raise ValueError("a reply is too long")
        line, _, self._rest = self._rest.partition(b"\n")
        reply = json.loads(line)
        if not isinstance(reply, dict):
            raise ValueError("a reply is no object")
        return reply


def _start(memory_mb: int) -> subprocess.Popen[bytes]:
    environment = {n: os.environ[n] for n in _PASSED_ON if n in os.environ}
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry)
    return subprocess.Popen(
        [sys.executable, "-s", "-P", str(_CHILD), str(memory_mb)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environment, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        # Control-C is for the driver.
        start_new_session=True,
    )


def _fate(process: subprocess.Popen[bytes]) -> str:
    """What became of a child, for people."""
    process.kill()
    process.communicate()
    return _told(process.returncode)


def _told(status: int) -> str:
    """An exit status, for people."""
    return (
        f"it was ended ({signal.Signals(-status).name})" if status < 0 else f"exit status {status}"
    )
