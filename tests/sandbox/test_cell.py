"""A cell ends in time whatever its session does, also before it has taken the code."""

from __future__ import annotations

import asyncio
import signal
import socket
import time

from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.sandbox.cell import RunningCell
from pyvision_rl.sandbox.inside import protocol
from pyvision_rl.sandbox.process import Child
from pyvision_rl.types import ExecStatus


def test_a_session_that_takes_no_code_is_killed_in_time():
    async def run() -> tuple[ExecStatus, str]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        child = Child(1, ours)
        child.exited.set_result(-signal.SIGKILL)  # of the kill that must come
        cell = RunningCell(child, SandboxLimits(wall_s=0.2, grace_s=0.1), protocol.caps(64, 1, 1))
        with ours, theirs:
            try:
                return await cell.run("x" * 4_000_000, 1)
            finally:
                cell.exchange.close()

    began = time.monotonic()
    status, error = asyncio.run(asyncio.wait_for(run(), 10))
    assert status is ExecStatus.KILLED
    assert "did not take the code" in error
    assert time.monotonic() - began < 5
