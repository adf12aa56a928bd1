"""Without isolation: model code can start processes, and none is left when its session ends."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from semantics_bench import SHORT, Bench, all_gone, children, picture, said_by_killed_driver

from pyvision_rl.types import ExecStatus

SANDBOX = {"level": "unsafe", "allow_unsafe": True, "options": {"max_groups": 0}}


def test_closing_a_session_ends_everything_it_started(bench: Bench) -> None:
    code = """
    import os, subprocess
    plain = subprocess.Popen(["sleep", "60"])
    away = subprocess.Popen(["sleep", "60"], start_new_session=True)
    print(os.getpid(), plain.pid, away.pid)
    """
    pids = list(map(int, bench.cell(code).output.split()))
    assert len(pids) == 3
    assert all_gone(pids)


def test_a_killed_cell_takes_its_processes_with_it(bench: Bench) -> None:
    code = """
    import os, signal, subprocess, sys
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "60"])
    open("/proc/self/comm", "w").write("pvrl-deaf")
    while True: pass
    """
    before = set(children(bench.sandbox.pid or 0))
    assert bench.cell(code, limits=SHORT).status is ExecStatus.KILLED
    end = time.monotonic() + 2
    while set(children(bench.sandbox.pid or 0)) - before and time.monotonic() < end:
        time.sleep(0.01)
    assert set(children(bench.sandbox.pid or 0)) <= before


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("os.abort()", ExecStatus.DIED, "SIGABRT"),
        ("os.kill(os.getpid(), 9)", ExecStatus.OOM, "memory"),
    ],
)
def test_a_signal_to_itself_ends_a_session(
    bench: Bench, code: str, status: ExecStatus, words: str
) -> None:
    code = "import os\nprint('before'); image_clue_0.show()\n" + code
    result, after = bench.cells(code, "image_clue_1.size")
    assert (result.status, result.state_lost) == (status, True)
    assert words in result.error
    assert (result.parts, result.images) == (("before\n", 0), (picture(),))
    assert after.output == "(40, 30)\n"


def test_the_driver_s_environment_is_not_passed_on(bench: Bench) -> None:
    code = """
    import os
    text = open(f'/proc/{os.getppid()}/environ').read() + str(os.environ)
    'CANARY' in text, 'canary' in text
    """
    assert bench.cell(code).output == "(False, False)\n"


def test_no_process_of_a_cell_outlives_a_driver_that_is_killed(tmp_path: Path) -> None:
    script = """
    import asyncio, os
    from pyvision_rl.config import SandboxConfig
    from pyvision_rl.sandbox.base import SandboxLimits
    from pyvision_rl.sandbox.pool import ZygoteSandbox

    async def main():
        sandbox = ZygoteSandbox(SandboxConfig(level="unsafe", allow_unsafe=True))
        session = await sandbox.open({}, SandboxLimits(), 0)
        code = "import os, subprocess; os.getpid(), subprocess.Popen(['sleep', '60']).pid"
        print((await session.run(code)).output, sandbox.pid, flush=True)
        os.kill(os.getpid(), 9)

    asyncio.run(main())
    """
    said = said_by_killed_driver(script, tmp_path)
    words = said.replace("(", " ").replace(")", " ").replace(",", " ").split()
    assert len(words) == 3
    assert all_gone([int(word) for word in words])
    end = time.monotonic() + 2
    while len(list(tmp_path.iterdir())) > 1 and time.monotonic() < end:
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == [tmp_path / "driver.py"]
