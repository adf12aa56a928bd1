"""What runs short costs the session that needed it, and no other: descriptors, buffers, memory."""

from __future__ import annotations

import asyncio
import collections
import itertools
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from semantics_bench import Bench, picture

from pyvision_rl.errors import SandboxError
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.types import ExecStatus

LIMITS = SandboxLimits(wall_s=30)
SANDBOX = {"max_running": 512}
SMALL = SandboxLimits(memory_mb=150)


@contextmanager
def descriptors(more: int) -> Iterator[None]:
    """Let this process open only so many descriptors more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
    free = (number for number in range(before[0]) if number not in used)
    limit = next(itertools.islice(free, more, None))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def said(result: object) -> str:
    if isinstance(result, BaseException):
        return type(result).__name__
    return str(getattr(result, "status", result))


@pytest.mark.parametrize("more", [0, 1, 2, 3, 7, 20])
def test_too_few_descriptors_fail_new_sessions_and_leave_the_others(
    bench: Bench, more: int
) -> None:
    async def scenario() -> None:
        sandbox = bench.sandbox
        old = [await sandbox.open({}, LIMITS, 0) for _ in range(4)]
        await asyncio.gather(*(session.run("x = 1") for session in old))
        zygote = sandbox.pid
        new = [await sandbox.open({"image_clue_0": picture()}, LIMITS, 0) for _ in range(24)]
        with descriptors(more):
            runs = (session.run("image_clue_0.size") for session in new)
            ends = collections.Counter(
                map(said, await asyncio.gather(*runs, return_exceptions=True))
            )
        assert set(ends) <= {"SandboxError", "ok"}
        assert ends["SandboxError"] > 0
        alive = await asyncio.gather(*(session.run("print(x)") for session in old))
        assert [run.output for run in alive] == ["1\n"] * 4
        assert sandbox.pid == zygote
        again = await asyncio.gather(*(session.run("2") for session in new))
        assert [run.output for run in again] == ["2\n"] * 24
        for session in (*old, *new):
            await session.close()

    bench.runner.run(scenario())


def test_more_sessions_than_the_socket_holds_start_all_the_same(bench: Bench) -> None:
    async def scenario() -> None:
        sandbox = bench.sandbox
        zygote = sandbox.pid
        new = [await sandbox.open({}, LIMITS, 0) for _ in range(400)]
        runs = await asyncio.gather(*(session.run("3") for session in new))
        assert {run.output for run in runs} == {"3\n"}
        assert sandbox.pid == zygote
        await asyncio.gather(*(session.close() for session in new))

    bench.runner.run(scenario())


def test_a_session_that_is_closed_while_it_is_made_runs_nothing(bench: Bench) -> None:
    async def scenario() -> None:
        session = await bench.sandbox.open({}, LIMITS, 0)
        run = asyncio.create_task(session.run("import time; time.sleep(20)"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await session.close()
        with pytest.raises(SandboxError, match="closed"):
            await asyncio.wait_for(run, 10)

    bench.runner.run(scenario())


@pytest.mark.parametrize("piece", ["bytes(1000)", "bytes(50)", "[k, str(k), (k, k + 1)]"])
@pytest.mark.parametrize("end", ["", "print('full')"])
def test_memory_taken_in_small_pieces_and_kept_ends_no_session(
    bench: Bench, piece: str, end: str
) -> None:
    fill = f"""
    kept, k = [], 0
    try:
        while True:
            kept.append({piece})
            k += 1
    except MemoryError:
        {end or "raise"}
    """
    free = "len(kept) - k in (0, 1)", "del kept; 4"
    for more in (1, 1500):
        cells = bench.cells(fill, "x = 1\n" * more, *free, limits=SMALL)
        assert not any(cell.state_lost for cell in cells), [cell.error for cell in cells]
        assert [cell.output for cell in cells[2:]] == ["True\n", "4\n"]


def test_a_session_of_a_group_that_fails_says_nothing_on_its_own_socket(bench: Bench) -> None:
    # The interpreter itself is broken by model code; what it says of that is for the driver.
    spoil = """
    import sys
    frame = sys._getframe()
    while "request" not in frame.f_locals: frame = frame.f_back
    frame.f_locals["self"]._memory = None
    """
    given = {"image_clue_0": picture()}
    for _ in range(4):  # the third is forked from a group
        [result] = bench.cells(spoil, bindings=given)
        assert (result.status, "status 70" in result.error) == (ExecStatus.DIED, True)
