"""One cell under way: the clock it runs under, and what is made of its end.

In: a child that has started, and code. Out: a status and the words about it; what the code said and
showed is in the exchange's ``replies``. Computing time, memory and threads are measured by a
watchdog, which calls ``over``; what follows is decided here.
"""

from __future__ import annotations

import asyncio
import signal
from enum import Enum
from typing import Any

from pyvision_rl.errors import SandboxError
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.sandbox.exchange import Exchange, check_silent
from pyvision_rl.sandbox.inside import protocol
from pyvision_rl.sandbox.process import END_S, Child
from pyvision_rl.types import ExecStatus

_LAST_WORDS_S = 3.0
"""For the end of a process that has closed its socket."""
_LOST = "all variables are lost"


class Over(Enum):
    """Which limit of a cell was passed."""

    WALL = "time"
    CPU = "computing time"
    MEMORY = "memory"
    THREADS = "threads"


class RunningCell:
    """A cell from its request to its end."""

    def __init__(self, child: Child, limits: SandboxLimits, caps: protocol.Caps) -> None:
        loop = asyncio.get_running_loop()
        self.child = child
        self.limits = limits
        self.exchange = Exchange(child.sock, caps)
        self.began = loop.time()
        self._limit: asyncio.Future[Over] = loop.create_future()

    def over(self, what: Over) -> None:
        """Say that a limit was passed; only the first word counts."""
        if not self._limit.done():
            self._limit.set_result(what)

    async def run(self, code: str, number: int) -> tuple[ExecStatus, str]:
        """Run the cell and return (status, error).

        Raises:
            SandboxError: The child died with the zygote.
        """
        exchange = self.exchange
        try:
            try:
                async with asyncio.timeout(self.limits.wall_s + self.limits.grace_s):
                    await exchange.ask({"op": "run", "code": code, "number": number})
            except TimeoutError:
                await self._kill()
                why = "killed, because it did not take the code of this cell"
                return ExecStatus.KILLED, f"the interpreter was {why}; {_LOST}"
            over = await self._wait()
            if over is not None:
                killed = await self._stop(over)
                if killed is not None:
                    return killed
            # An answer that was complete before its sender ended still counts.
            exchange.drain()
            if not exchange.over.done():
                return await self._death()
            await exchange.over
            check_silent(self.child.sock)
        except protocol.Violation as violation:
            return ExecStatus.VIOLATION, f"the code broke the interpreter: {violation}"
        except (protocol.Ended, OSError):
            return await self._death()
        return self._judge(over)

    async def _wait(self) -> Over | None:
        """Wait for the end of the cell or for a limit; return the limit."""
        waiting: set[asyncio.Future[Any]] = {self.exchange.over, self.child.exited, self._limit}
        done, _ = await asyncio.wait(
            waiting, timeout=self.limits.wall_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            return Over.WALL
        return self._limit.result() if done == {self._limit} else None

    async def _stop(self, over: Over) -> tuple[ExecStatus, str] | None:
        """Interrupt the cell, or kill it; None when it ended by itself after the interrupt."""
        if over is Over.MEMORY:
            why = f"it used more than {self.limits.memory_mb} MB of memory"
            status = ExecStatus.OOM
        elif over is Over.THREADS:
            why, status = "it started too many threads", ExecStatus.KILLED
        else:
            self.child.signal(signal.SIGINT)
            if await _any({self.exchange.over, self.child.exited}, self.limits.grace_s):
                return None
            await self._kill()
            why = "and killed, because it did not end when interrupted"
            return ExecStatus.KILLED, f"{self._stopped(over)} {why}; {_LOST}"
        await self._kill()
        return status, f"the interpreter was killed, because {why}; {_LOST}"

    def _judge(self, over: Over | None) -> tuple[ExecStatus, str]:
        """What a whole answer says."""
        replies = self.exchange.replies
        if replies.flags & protocol.SPENT:
            why = "the interpreter was ended, because no memory was left to go on with"
            return ExecStatus.OOM, f"{replies.error}\n{why}; {_LOST}".lstrip()
        if over is not None and replies.flags & protocol.INTERRUPTED:
            why = f"{self._stopped(over)}; variables are kept"
            return ExecStatus.TIMEOUT, f"{replies.error}\n{why}".lstrip()
        raised = replies.flags & protocol.RAISED
        return ExecStatus.RAISED if raised else ExecStatus.OK, replies.error

    def _stopped(self, over: Over) -> str:
        limit = self.limits.cpu_s if over is Over.CPU else self.limits.wall_s
        return f"stopped after {limit:g} s (the {over.value} limit)"

    async def _kill(self) -> None:
        """Kill the child and take what it said before."""
        self.child.signal(signal.SIGKILL)
        await _any({self.child.exited}, END_S)
        self.exchange.drain()

    async def _death(self) -> tuple[ExecStatus, str]:
        """What to say of a child that ended or hung up without an answer."""
        if not await _any({self.child.exited}, _LAST_WORDS_S):
            why = "the code broke the interpreter: it closed its connection"
            return ExecStatus.VIOLATION, why
        code = self.child.exited.result()
        if code is None:
            raise SandboxError("the sandbox zygote died, and the session with it")
        if code == -signal.SIGKILL:
            why = "the interpreter was killed, most likely for want of memory"
            return ExecStatus.OOM, f"{why}; {_LOST}"
        how = f"exited with status {code}" if code >= 0 else f"crashed with {_name(-code)}"
        return ExecStatus.DIED, f"the interpreter {how}; {_LOST}"


async def _any(futures: set[asyncio.Future[Any]], timeout_s: float) -> bool:
    """Whether one of them is done in time; none is cancelled."""
    first = asyncio.FIRST_COMPLETED
    done, _ = await asyncio.wait(futures, timeout=timeout_s, return_when=first)
    return bool(done)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
