"""The conformance list of a sandbox: every promise of ``sandbox.base``, tried on a live backend.

In: a way to make a backend, and ``[sandbox]``. Out: one ``Finding`` per promise, named by it, and
what the backend says of its isolation: the level, and each attack that its self-check tried. Says
nothing about attacks that nobody has thought of.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from PIL import Image

from pyvision_rl.assemble import sandbox_limits
from pyvision_rl.config import SandboxConfig
from pyvision_rl.errors import PVRLError, SandboxError
from pyvision_rl.media import image_media
from pyvision_rl.sandbox.base import Sandbox, SandboxLimits, Session
from pyvision_rl.sandbox.levels import Isolation
from pyvision_rl.types import ExecStatus, Execution, Media

WALL_S = 1.0
"""Time limit in the checks: a backend that keeps a short one keeps a long one."""
SLACK_S = 5.0
"""What a busy machine may add to a limit."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: Literal["ok", "note", "failed"]
    """note: nothing is wrong, but something is still to be supplied."""
    detail: str = ""

    @property
    def ok(self) -> bool:
        """False if it must be mended."""
        return self.status != "failed"


class BrokenPromiseError(Exception):
    """A promise that does not hold; its text says what happened instead."""


def require(holds: bool, otherwise: str) -> None:
    """Raise BrokenPromiseError with ``otherwise`` unless ``holds``."""
    if not holds:
        raise BrokenPromiseError(otherwise)


def try_check(name: str, check: Callable[[], str]) -> Finding:
    """Return the finding of one check, which returns a detail or raises."""
    try:
        return _passed(name, check())
    except Exception as error:  # noqa: BLE001  whatever other people's code raises is a finding
        return _failed(name, error)


async def try_async(name: str, check: Callable[[], Awaitable[str]]) -> Finding:
    """Return the finding of one async check."""
    try:
        return _passed(name, await check())
    except Exception as error:  # noqa: BLE001  likewise
        return _failed(name, error)


def _passed(name: str, detail: str) -> Finding:
    note = detail.startswith("note: ")
    return Finding(name, "note" if note else "ok", detail.removeprefix("note: "))


def _failed(name: str, error: Exception) -> Finding:
    if isinstance(error, PVRLError) and isinstance(error.__cause__, ImportError):
        # An optional package is missing: the message says how to install it.
        return Finding(name, "note", str(error))
    ours = isinstance(error, (PVRLError, BrokenPromiseError))
    return Finding(name, "failed", str(error) if ours else f"{type(error).__name__}: {error}")


def sandbox_findings(make: Callable[[], Sandbox], config: SandboxConfig) -> list[Finding]:
    """Return one finding per promise; each is tried in sessions of its own.

    Args:
        make: Makes the backend.
        config: Its limits, all but those of time: ``WALL_S``, and the default of computing.
    """
    limits = replace(
        sandbox_limits(config),
        cpu_s=SandboxLimits().cpu_s,
        wall_s=WALL_S,
        grace_s=min(config.grace_s, WALL_S),
    )

    async def run() -> list[Finding]:
        bench = _Bench(make(), limits)
        try:
            held = await _isolation(bench.sandbox)
            return [*held, *[await try_async(_title(p), partial(p, bench)) for p in PROMISES]]
        finally:
            await bench.sandbox.close()
            await bench.sandbox.close()

    return asyncio.run(run())


async def _isolation(sandbox: Sandbox) -> list[Finding]:
    """What the backend says of what holds model code."""
    isolate: Callable[[], Awaitable[Isolation]] | None = getattr(sandbox, "isolate", None)
    name = "Isolation holds"
    if isolate is None:
        return [Finding(name, "note", "this backend does not say what holds model code")]
    try:
        found = await isolate()
    except SandboxError as error:
        return [_failed(name, error)]
    if found.level == "unsafe":
        return [Finding(name, "note", f"MODEL CODE RUNS WITHOUT ISOLATION: {found}")]
    attacks = [Finding(f"No session {attack}", "ok") for attack in found.tried]
    return [Finding(name, "ok", str(found)), *attacks]


def _title(promise: _Promise) -> str:
    return (promise.__doc__ or promise.__name__).partition("\n")[0].rstrip(".")


@dataclass(frozen=True, slots=True)
class _Bench:
    """A backend under test."""

    sandbox: Sandbox
    limits: SandboxLimits

    @asynccontextmanager
    async def session(self, seed: int = 0) -> AsyncIterator[Session]:
        """Yield a session that holds one 8 x 6 picture as ``image_clue_0``."""
        session = await self.sandbox.open({"image_clue_0": _picture()}, self.limits, seed)
        try:
            yield session
        finally:
            await session.close()

    async def run(self, *blocks: str, seed: int = 0) -> list[Execution]:
        """Return what happened to each block, all run in one new session."""
        async with self.session(seed) as session:
            return [await session.run(block) for block in blocks]


def _picture() -> Media:
    return image_media(Image.new("RGB", (8, 6), (10, 20, 30)))


def _ok(execution: Execution) -> Execution:
    require(
        execution.status is ExecStatus.OK,
        f"status {execution.status.value} instead of ok: {execution.error[-300:]}",
    )
    return execution


def _says(execution: Execution, text: str) -> None:
    output = _ok(execution).output
    require(text in output, f"{text!r} is not in the output {output[:200]!r}")


async def _variables_persist(bench: _Bench) -> str:
    """Variables persist from one block to the next."""
    _, second = await bench.run("value = 20", "value += 1\nprint(value * 2)")
    _says(second, "42")
    return ""


async def _bindings_are_pictures(bench: _Bench) -> str:
    """Bound pictures are PIL images; np, plt and Image are there."""
    code = "print(image_clue_0.size, np.asarray(image_clue_0)[0, 0].tolist(), plt, Image)"
    (shown,) = await bench.run(code)
    _says(shown, "(8, 6) [10, 20, 30]")
    return ""


async def _error_is_data(bench: _Bench) -> str:
    """An error is data, and variables survive it."""
    _, raised, after = await bench.run("kept = 7", "1 / 0", "print(kept)")
    require(raised.status is ExecStatus.RAISED, f"status {raised.status.value}")
    require("ZeroDivisionError" in raised.error, f"error {raised.error!r}")
    _says(after, "7")
    (syntax,) = await bench.run("def (:")
    require("SyntaxError" in syntax.error, f"error {syntax.error!r} for code that is no Python")
    return ""


async def _output_in_order(bench: _Bench) -> str:
    """Printed text and the last expression's value come back in order."""
    (shown,) = await bench.run("print('first')\n'sec' + 'ond'")
    _says(shown, "first")
    _says(shown, "second")
    require(shown.output.index("first") < shown.output.index("second"), repr(shown.output))
    return ""


async def _output_is_cut(bench: _Bench) -> str:
    """Long output is cut to the limit, and the rest of the session is sound."""
    shown, after = await bench.run("print('a' * 10**7)", "print('sound')")
    most = bench.limits.max_output_chars
    # The sentence that states the cut may come on top.
    require(len(shown.output) <= most + 200, f"{len(shown.output)} characters; limit {most}")
    _says(after, "sound")
    return f"{len(shown.output)} of 10000001 characters"


async def _figure_comes_back(bench: _Bench) -> str:
    """A shown figure comes back as a picture and is bound under its number."""
    shown, after = await bench.run("plt.plot([0, 1])\nplt.show()", "print(image_clue_1.size)")
    require(len(_ok(shown).images) == 1, f"{len(shown.images)} pictures instead of 1")
    picture = shown.images[0]
    _says(after, f"({picture.width}, {picture.height})")
    return f"{picture.width} x {picture.height}"


async def _timeout_returns(bench: _Bench) -> str:
    """An endless loop ends at the time limit and the session goes on."""
    began = time.monotonic()
    _, stopped, after = await bench.run("kept = 7", "while True: pass", "print('on', kept)")
    took_s = time.monotonic() - began
    timed_out = stopped.status in (ExecStatus.TIMEOUT, ExecStatus.KILLED)
    require(timed_out, f"status {stopped.status.value}")
    most_s = bench.limits.wall_s + bench.limits.grace_s + SLACK_S
    require(took_s < most_s, f"took {took_s:.1f} s; limit {bench.limits.wall_s} s")
    if not stopped.state_lost:
        _says(after, "on 7")
    return f"{stopped.status.value} after {took_s:.1f} s"


async def _stubborn_code_ends(bench: _Bench) -> str:
    """Code that refuses to be interrupted ends all the same; bindings are there again."""
    deaf = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
    stubborn = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    stopped, after = await bench.run(deaf + stubborn, "print(image_clue_0.size)")
    killed = stopped.status is ExecStatus.KILLED
    require(killed or stopped.status is ExecStatus.TIMEOUT, f"status {stopped.status.value}")
    require(stopped.state_lost or not killed, "killed, but state_lost is False")
    _says(after, "(8, 6)")
    return stopped.status.value


async def _exit_is_data(bench: _Bench) -> str:
    """An interpreter that exits is data, and the next block runs."""
    died, after = await bench.run("import os\nos._exit(3)", "print(image_clue_0.size)")
    require(died.status is ExecStatus.DIED, f"status {died.status.value}")
    require(died.state_lost, "state_lost is False though the interpreter is gone")
    _says(after, "(8, 6)")
    return ""


async def _memory_is_limited(bench: _Bench) -> str:
    """Code that takes more memory than it may is stopped, and the session goes on."""
    # Every page is written to: a limit on what is used must see it, not only one on addresses.
    greedy = f"b = bytearray({bench.limits.memory_mb} * 1250000)\nb[::4096] = b[::4096]"
    stopped, after = await bench.run(greedy, "print('on')")
    require(stopped.status is not ExecStatus.OK, "it got the memory")
    _says(after, "on")
    return stopped.status.value


async def _sessions_are_apart(bench: _Bench) -> str:
    """Two sessions do not see each other."""
    async with bench.session() as one, bench.session() as two:
        _ok(await one.run("secret = 1\nnp.pi = 3"))
        seen = await two.run("print('secret' in globals(), np.pi > 3)")
    _says(seen, "False True")
    return ""


async def _sessions_run_together(bench: _Bench) -> str:
    """Sessions opened together all return."""
    runs = [bench.run(f"print({number} + 100)") for number in range(8)]
    for number, (shown,) in enumerate(await asyncio.gather(*runs)):
        _says(shown, str(number + 100))
    return ""


async def _seeds_hold(bench: _Bench) -> str:
    """One seed gives the same random numbers, another gives others."""
    code = "import random\nprint(random.random(), np.random.rand())"
    (first,) = await bench.run(code, seed=1)
    (again,) = await bench.run(code, seed=1)
    (other,) = await bench.run(code, seed=2)
    require(_ok(first).output == _ok(again).output, "the same seed gave other numbers")
    require(first.output != _ok(other).output, "another seed gave the same numbers")
    return ""


async def _only_media(bench: _Bench) -> str:
    """Only media under Python names are bound; anything else is refused."""
    refused: tuple[Mapping[str, Any], ...] = ({"answer": "42"}, {"not a name": _picture()})
    for bindings in refused:
        try:
            session = await bench.sandbox.open(bindings, bench.limits, 0)
        except SandboxError:
            continue
        await session.close()
        require(False, f"{bindings!r:.80} was accepted")
    return ""


async def _close_twice(bench: _Bench) -> str:
    """Closing a session twice does no harm."""
    session = await bench.sandbox.open({}, bench.limits, 0)
    await session.run("1")
    await session.close()
    await session.close()
    return ""


_Promise = Callable[[_Bench], Awaitable[str]]

PROMISES: tuple[_Promise, ...] = (
    _variables_persist,
    _bindings_are_pictures,
    _error_is_data,
    _output_in_order,
    _output_is_cut,
    _figure_comes_back,
    _timeout_returns,
    _stubborn_code_ends,
    _exit_is_data,
    _memory_is_limited,
    _sessions_are_apart,
    _sessions_run_together,
    _seeds_hold,
    _only_media,
    _close_twice,
)
"""What is tried, in this order; a function's first line names the promise."""
