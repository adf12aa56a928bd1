"""Attacks on a fresh zygote: a wall that says it is up and does not hold stops the run.

In: a way to fork children, and the level. Out: nothing, or a ``SandboxError`` that names every
attack that got through. Run whenever a zygote starts, before any model code: layers that silently
do nothing are how sandboxes fail.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from pyvision_rl.errors import SandboxError
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.sandbox.cell import RunningCell
from pyvision_rl.sandbox.inside import attacks
from pyvision_rl.sandbox.launch import PASSED_ON
from pyvision_rl.sandbox.levels import Level
from pyvision_rl.sandbox.pixels import PixelStore
from pyvision_rl.sandbox.process import Child
from pyvision_rl.sandbox.session import ZygoteSession
from pyvision_rl.sandbox.videos import VideoFiles
from pyvision_rl.types import ExecStatus, Media

LIMITS = SandboxLimits(cpu_s=10, wall_s=30, scratch_mb=1)
ENVIRONMENT = (
    "HOME TMPDIR MPLCONFIGDIR LANG TZ PYTHONHASHSEED OMP_NUM_THREADS OPENBLAS_NUM_THREADS "
    "MKL_NUM_THREADS NUMEXPR_NUM_THREADS MALLOC_ARENA_MAX LC_CTYPE"
)
"""What a session's environment holds at most, besides ``PASSED_ON``."""


class _Home:
    """As much of a sandbox as the one session needs."""

    def __init__(self, spawn: Callable[[int], Awaitable[Child]]) -> None:
        self.running = asyncio.Semaphore()
        self.pixels, self.videos = PixelStore(), VideoFiles()
        self.branchable = False
        self._spawn = spawn

    async def spawn(self, bindings: Mapping[str, Media], limits: SandboxLimits) -> Child:
        return await self._spawn(limits.scratch_mb)

    def watch(self, cell: RunningCell) -> None:
        """Nothing: these cells are ours."""

    unwatch = watch

    def notice(self, code: str) -> None:
        """Nothing: nobody's imports are ours."""

    def forget(self, session: ZygoteSession) -> None:
        """Nothing is kept."""

    adopt = forget


async def self_check(spawn: Callable[[int], Awaitable[Child]], level: Level) -> tuple[str, ...]:
    """Run the attacks in a session of their own; return what was tried and did not succeed.

    Args:
        spawn: Forks a child with a scratch folder of so many MB.
        level: The level that the zygote claims.

    Raises:
        SandboxError: An attack got through, or the session did not work.
    """
    tries = dict(attacks.ATTACKS)
    if level in ("full", "ns"):
        tries["sees other processes"] = attacks.PROCESSES
    folder = Path(tempfile.mkdtemp(prefix="pyvision-rl-canary-"))
    session = ZygoteSession(_Home(spawn), {}, LIMITS, 0, {})
    word = secrets.token_hex(8)
    try:
        folder.chmod(0o777)  # nothing but the walls keeps a session out
        canary = folder / "canary"
        canary.write_text(word)
        canary.chmod(0o666)
        code = _code(tries, str(folder), word)
        done = await session.run(code)
        untouched = canary.exists() and list(folder.iterdir()) == [canary]
    finally:
        await session.close()
        shutil.rmtree(folder, ignore_errors=True)
    said = done.output.strip().splitlines()
    if done.status is not ExecStatus.OK or said[-1:] != [word] or not untouched:
        why = f"it ended {done.status}: {done.error or done.output}"
        found = [f"its session did not survive it, or left traces ({why})"[:1000]]
    else:
        found = said[:-1]
    if found:
        raise SandboxError(
            f"the sandbox refuses to start: isolation at level {level} does not hold here. "
            f"The self-check of a session that {'; '.join(found)} got through. Choose another "
            f"sandbox.level, and report this: every wall was said to be up"
        )
    return tuple(tries)


def _code(tries: Mapping[str, str], folder: str, word: str) -> str:
    known: dict[str, Any] = {
        "FOLDER": folder,
        "DRIVER": os.getpid(),
        "ENVIRONMENT": {*ENVIRONMENT.split(), *PASSED_ON},
    }
    lines = [attacks.PRELUDE, *(f"{name} = {value!r}" for name, value in known.items())]
    for name, attack in tries.items():
        lines += [f"NAME = {name!r}", attack]
    return "\n".join([*lines, "print(*failed, sep='\\n')", f"print({word!r})"])
