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
from pyvision_rl.sandbox.launch import PASSED_ON
from pyvision_rl.sandbox.levels import Level
from pyvision_rl.sandbox.pixels import PixelStore
from pyvision_rl.sandbox.process import Child
from pyvision_rl.sandbox.session import RunningCell, ZygoteSession
from pyvision_rl.types import ExecStatus, Media

LIMITS = SandboxLimits(cpu_s=10, wall_s=30, scratch_mb=1)
ENVIRONMENT = (
    "HOME TMPDIR MPLCONFIGDIR LANG TZ PYTHONHASHSEED OMP_NUM_THREADS OPENBLAS_NUM_THREADS "
    "MKL_NUM_THREADS NUMEXPR_NUM_THREADS LC_CTYPE"
)
"""What a session's environment holds at most, besides ``PASSED_ON``."""

_PRELUDE = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
failed = []
def refused(name, attack):
    try:
        result = attack()
    except (OSError, PermissionError):
        return
    if result != -1:
        failed.append(name)
def holds(name, claim):
    if not claim:
        failed.append(name)
"""

ATTACKS: dict[str, str] = {
    "reads a file of the driver": "refused(NAME, lambda: open(FOLDER + '/canary').read())",
    "lists a folder of the driver": "refused(NAME, lambda: os.listdir(FOLDER))",
    "writes into a folder of the driver": "refused(NAME, lambda: open(FOLDER + '/new', 'w'))",
    "deletes a file of the driver": "refused(NAME, lambda: os.remove(FOLDER + '/canary'))",
    "changes the mode of a file": "refused(NAME, lambda: os.chmod(FOLDER + '/canary', 0))",
    "reads the user database": "refused(NAME, lambda: open('/etc/passwd').read())",
    "writes beside the standard library": "refused(NAME, lambda: open(os.__file__ + 'x', 'w'))",
    "opens a TCP socket": "refused(NAME, lambda: socket.socket())",
    "opens a Unix socket": "refused(NAME, lambda: socket.socket(socket.AF_UNIX))",
    "signals the driver": "os.getpid() == DRIVER or refused(NAME, lambda: os.kill(DRIVER, 0))",
    "forks": "refused(NAME, lambda: os.fork() or os._exit(0))",
    "runs a program": (
        "holds(NAME, libc.execv(b'/no/such', None) == -1 and ctypes.get_errno() == 1)"
    ),
    "makes namespaces": "refused(NAME, lambda: libc.unshare(0x10000000))",
    "mounts": "refused(NAME, lambda: libc.mount(b'x', b'/', b'tmpfs', 0, None))",
    "traces": "refused(NAME, lambda: libc.ptrace(16, DRIVER, None, None))",
    "becomes root": "refused(NAME, lambda: os.setresuid(0, 0, 0))",
    "has secrets in its environment": "holds(NAME, set(os.environ) <= ENVIRONMENT)",
    "could gain rights": "holds(NAME, libc.prctl(39, 0, 0, 0, 0) == 1)",
    "runs without a filter of system calls": "holds(NAME, libc.prctl(21, 0, 0, 0, 0) == 2)",
    "has capabilities": (
        # But to read, where only root can read the interpreter.
        "sets = (ctypes.c_uint * 6)()\n"
        "libc.capget((ctypes.c_uint * 2)(0x20080522, 0), sets)\n"
        "holds(NAME, {*sets[:2]} <= {0, 4} and not any(sets[2:]))"
    ),
    "inherits open files": (
        "def is_open(fd):\n"
        "    try: return bool(os.fstat(fd))\n"
        "    except OSError: return False\n"
        "holds(NAME, sum(map(is_open, range(256))) == 4)"
    ),
}
"""What must not succeed at any level with isolation -> code."""
_PROCESSES = "holds(NAME, os.getpid() == 1)"


class _Home:
    """As much of a sandbox as the one session needs."""

    def __init__(self, spawn: Callable[[int], Awaitable[Child]]) -> None:
        self.running = asyncio.Semaphore()
        self.pixels = PixelStore()
        self.branchable = False
        self._spawn = spawn

    async def spawn(self, bindings: Mapping[str, Media], limits: SandboxLimits) -> Child:
        return await self._spawn(limits.scratch_mb)

    def watch(self, cell: RunningCell) -> None:
        """Nothing: these cells are ours."""

    unwatch = watch

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
    attacks = dict(ATTACKS)
    if level in ("full", "ns"):
        attacks["sees other processes"] = _PROCESSES
    folder = Path(tempfile.mkdtemp(prefix="pyvision-rl-canary-"))
    session = ZygoteSession(_Home(spawn), {}, LIMITS, 0, {})
    word = secrets.token_hex(8)
    try:
        folder.chmod(0o777)  # nothing but the walls keeps a session out
        canary = folder / "canary"
        canary.write_text(word)
        canary.chmod(0o666)
        code = _code(attacks, str(folder), word)
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
    return tuple(attacks)


def _code(attacks: Mapping[str, str], folder: str, word: str) -> str:
    known: dict[str, Any] = {
        "FOLDER": folder,
        "DRIVER": os.getpid(),
        "ENVIRONMENT": {*ENVIRONMENT.split(), *PASSED_ON},
    }
    lines = [_PRELUDE, *(f"{name} = {value!r}" for name, value in known.items())]
    for name, attack in attacks.items():
        lines += [f"NAME = {name!r}", attack]
    return "\n".join([*lines, "print(*failed, sep='\\n')", f"print({word!r})"])
