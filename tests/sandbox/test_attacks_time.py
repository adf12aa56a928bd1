"""Attacks 1-16: code that will not end, and code that will not be interrupted."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from attack_bench import Arena, limits
from attack_records import KILLED, PRELUDE, TIMEOUT, Attack, Expect

from pyvision_rl.types import ExecStatus

SHORT = {"cpu_s": 0.4, "wall_s": 0.8, "grace_s": 0.3}
ALONE = "test_without_a_limit_it_runs_on is the control: a bare interpreter"
DEAF = "test_without_a_limit_it_runs_on is the control: a bare interpreter that ignores SIGINT"


def endless(number: str, name: str, code: str, blocked: Expect = TIMEOUT) -> Attack:
    why = DEAF if blocked is KILLED else ALONE
    return Attack(number, name, code, blocked, no_control=why, limits=SHORT)


ATTACKS = (
    endless("001", "endless_loop", "while True: pass"),
    endless(
        "002",
        "handler_of_everything",
        """
        def spin():
            n = 0
            while True: n += 1
        while True:
            try: spin()
            except BaseException: pass
        """,
        KILLED,
    ),
    endless(
        "003",
        "interrupt_ignored",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        KILLED,
    ),
    endless("004", "loop_in_c", "sum(range(10**12))", KILLED),
    endless("005", "regex_backtracking", "import re\nre.match('(a+)+$', 'a' * 40 + 'b')"),
    endless("006", "big_power", "x = 7 ** (10**8)"),
    endless("007", "sleep", "time.sleep(100)"),
    endless(
        "008",
        "endless_finaliser",
        """
        class D:
            def __del__(self):
                while True: pass
        d = D()
        del d
        """,
    ),
    endless(
        "009",
        "endless_error_text",
        """
        class E(Exception):
            def __str__(self):
                while True: pass
        raise E
        """,
    ),
    endless(
        "010",
        "endless_repr",
        """
        class R:
            def __repr__(self):
                while True: pass
        R()
        """,
    ),
    endless(
        "014a",
        "trace_function",
        """
        def trace(*args):
            while True: pass
        def f(): pass
        sys.settrace(trace)
        f()
        """,
    ),
    endless(
        "014b",
        "profile_function",
        """
        def profile(*args):
            while True: pass
        def f(): pass
        sys.setprofile(profile)
        f()
        """,
    ),
    endless(
        "015",
        "interrupt_masked",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\nwhile True: pass",
        KILLED,
    ),
    endless(
        "016",
        "endless_import",
        """
        class Finder:
            def find_spec(self, *args):
                while True: pass
        sys.meta_path.insert(0, Finder())
        try:
            import nothing_of_this_name
        finally:
            del sys.meta_path[0]
        """,
    ),
    Attack(
        "011",
        "own_alarm",
        """
        signal.signal(signal.SIGALRM, lambda *_: print("ALARM"))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        end = time.monotonic() + 5
        time.sleep(0.3)
        """,
        Expect(output="^ALARM\n$"),
        no_control="harmless, and the same everywhere: the session's own timer ends with it",
    ),
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.id)
def test_attack(arena: Arena, attack: Attack) -> None:
    arena.repel(attack)


def waits(process: subprocess.Popen[bytes], within_s: float) -> bool:
    """Whether a process is still there after that time."""
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        return True
    return False


@pytest.mark.parametrize(
    "attack", [a for a in ATTACKS if a.blocked in (TIMEOUT, KILLED)], ids=lambda a: a.id
)
def test_without_a_limit_it_runs_on(attack: Attack) -> None:
    # Display is the sandbox's own: a bare interpreter is asked for the repr.
    code = textwrap.dedent(attack.code).strip().replace("\nR()", "\nrepr(R())")
    source = f"{PRELUDE}\nprint('ready', flush=True)\n{code}"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", source],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            assert waits(process, 0.3)
            process.send_signal(signal.SIGINT)
            # The others end at an interrupt, some of them late; the two kinds differ in that.
            assert waits(process, 0.3) or attack.blocked is TIMEOUT
        finally:
            process.kill()


def test_attack_012_exit_handler_that_hangs(arena: Arena) -> None:
    async def scenario() -> float:
        session = await arena.sandbox.open({}, limits(**SHORT), 0)
        code = "import atexit, time\natexit.register(time.sleep, 60)\nprint('set')"
        assert (await session.run(code)).output == "set\n"
        began = time.monotonic()
        await session.close()
        return time.monotonic() - began

    assert arena.runner.run(scenario()) < 2


STAMPS = """
import threading, time
stamps = [time.monotonic()]
def tick():
    while True:
        stamps.append(time.monotonic())
        time.sleep(0.005)
threading.Thread(target=tick, daemon=True).start()
time.sleep(0.05)
"""
GAP = """
time.sleep(0.05)
taken = list(stamps)
print(max(b - a for a, b in zip(taken, taken[1:])) > 0.35)
"""


def test_attack_013_busy_thread_is_frozen_between_turns(arena: Arena) -> None:
    async def scenario() -> str:
        session = await arena.sandbox.open({}, limits(), 0)
        try:
            assert (await session.run(STAMPS)).status is ExecStatus.OK
            await asyncio.sleep(0.4)
            output: str = (await session.run(GAP)).output
            return output
        finally:
            await session.close()

    assert arena.runner.run(scenario()) == "True\n"
