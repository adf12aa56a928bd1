"""math-verify works for us only in children that cannot cost more than their limits."""

from __future__ import annotations

import ast
import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pyvision_rl.errors import RewardError
from pyvision_rl.rewards import maths_child
from pyvision_rl.rewards.expressions import pairs_of
from pyvision_rl.rewards.maths import Maths, Outcome

BOMB = r"9^{9^{9^{9}}}"
CPU_S = 1.0
PIECES = (
    *"12x+-*/^(){}!|",
    "\\frac{1}{2}",
    "\\sqrt{3}",
    "\\pi",
    "\\sin x",
    "\\log_2 ",
    "\\infty",
    "0.5",
)


@pytest.fixture(scope="module")
def maths() -> Iterator[Maths]:
    """One child for all: to import math-verify costs more than all comparisons."""
    made = Maths(cpu_s=CPU_S)
    yield made
    made.close()


def outcome(maths: Maths, gold: str, answer: str) -> Outcome:
    ((theirs, mine),) = pairs_of(answer, gold)
    return maths.compare_now(theirs, mine)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"2\sqrt{3}", r"\sqrt{12}"),
        ("x^2+2x+1", "(x+1)^2"),
        (r"\frac{\pi}{2}", "pi/2"),
        ("3\\pi/4", r"0.75\pi"),
        ("2^10", "1024"),
        ("1024", "2^(5+5)"),
        (r"\sin^2 x+\cos^2 x", "1"),
        ("3", "sqrt((1+2)*3)"),
        (r"90^\circ", "90"),
        ("x = 3", "2+1"),
        (r"\log_2 8", "3"),
        ("3628800", "10!"),
        ("A+B", "B+A"),
    ],
)
def test_equal_expressions_are_equal(maths: Maths, gold: str, answer: str) -> None:
    assert outcome(maths, gold, answer) is Outcome.EQUAL


@pytest.mark.parametrize(
    ("gold", "answer", "found"),
    [
        (r"5\pi", "5", Outcome.UNEQUAL),
        (r"5\pi", "5*1", Outcome.UNEQUAL),
        (r"\pi", "3.14*1", Outcome.UNPROVED),  # rounded, perhaps: a judge may know
        (r"\pi", "3.2*1", Outcome.UNEQUAL),
        ("10^{-8}", "0*2", Outcome.UNEQUAL),  # math-verify rounds both to 0
        ("10^{-8}", "0.00000002*1", Outcome.UNEQUAL),
        ("x^2", "y^2", Outcome.UNPROVED),
        ("1/0", "2/0*1", Outcome.UNPROVED),
        ("3m", "3", Outcome.UNPROVED),  # math-verify strips m as a unit
        ("1+", "1*1", Outcome.UNREADABLE_GOLD),
        ("1*1", "1+", Outcome.UNREADABLE),
    ],
)
def test_what_differs_is_told_from_what_is_not_known(
    maths: Maths, gold: str, answer: str, found: Outcome
) -> None:
    assert outcome(maths, gold, answer) is found


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@example("x^{x^{x}}")
@example("((((((((1))))))))")
@example("0^0")
@example("(2!)!")
def test_whatever_gets_through_comes_to_an_outcome(maths: Maths, text: str) -> None:
    for theirs, mine in pairs_of(text, "7*1") + pairs_of("7*1", text):
        began = time.process_time()
        assert maths.compare_now(theirs, mine) in Outcome
        assert time.process_time() - began < 1, "the driver works while a child computes"


def test_a_bomb_costs_its_limit_once_and_the_next_pair_is_compared() -> None:
    maths = Maths(cpu_s=0.5)
    try:
        assert maths.compare_now("7", BOMB) is Outcome.OVER_LIMIT
        assert maths.compare_now("7", BOMB) is Outcome.OVER_LIMIT
        assert maths.compare_now(BOMB, "7") is Outcome.OVER_LIMIT_GOLD
        assert maths.compare_now("7", "3+4") is Outcome.EQUAL
        assert maths.stats() == {"asked": 3.0, "repeated": 1.0, "equal": 1.0, "over_limit": 2.0}
    finally:
        before = os.times()
        maths.close()
    after = os.times()
    # Three children imported math-verify and two of them spent their limit; all are reaped here.
    assert after.children_user - before.children_user < 30


def test_threads_and_asyncio_share_the_children(maths: Maths) -> None:
    pairs = [(str(n), f"{n - 1}+1") for n in range(100, 112)]
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda pair: maths.compare_now(*pair), pairs)) == {Outcome.EQUAL}

    async def together() -> list[Outcome]:
        return await asyncio.gather(*(maths.compare(str(n), f"{n}*1") for n in range(100, 112)))

    found: list[list[Outcome]] = []
    # Not in the main thread: there is no signal.alarm to raise.
    other = threading.Thread(target=lambda: found.append(asyncio.run(together())))
    other.start()
    other.join()
    assert found == [[Outcome.EQUAL] * 12]


def test_the_loop_goes_on_while_a_bomb_goes_off() -> None:
    maths = Maths(cpu_s=0.5)

    async def both() -> tuple[Outcome, int]:
        ticks = 0
        bomb = asyncio.ensure_future(maths.compare("7", BOMB))
        while not bomb.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return await bomb, ticks

    try:
        found, ticks = asyncio.run(both())
    finally:
        maths.close()
    assert found is Outcome.OVER_LIMIT
    assert ticks > 3


@pytest.mark.parametrize("program", ["/nowhere/python", "/bin/false"])
def test_a_child_that_cannot_start_is_our_failure_and_no_grade(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    maths = Maths()
    with pytest.raises(RewardError, match="math-verify cannot be started"):
        maths.compare_now("7", "3+4")
    maths.close()


DYING = """#!{python}
import os, signal, sys
with open({count!r}, "a") as file:
    file.write("x")
if os.path.getsize({count!r}) > {times}:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
print('{{"ready": true}}', flush=True)
sys.stdin.readline()
print('{{"read": "gold"}}', flush=True)
{end}
"""


@pytest.fixture
def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Have so many children end in some way once they have read a reference; those after live."""

    def make(end: str, times: int) -> Path:
        program, count = tmp_path / "python", tmp_path / "started"
        given = {"python": sys.executable, "count": str(count), "times": times, "end": end}
        program.write_text(DYING.format(**given))
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        return count

    return make


KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


def test_a_child_that_somebody_killed_is_not_the_answers_fault(
    dying: Callable[..., Path],
) -> None:
    count, maths = dying(KILLED, 1), Maths()
    assert maths.compare_now("7", "3+4") is Outcome.EQUAL
    assert count.read_text() == "xx"
    assert maths.stats()["over_limit"] == 0
    maths.close()


@pytest.mark.parametrize("end", [KILLED, "print('no JSON', flush=True)", "sys.exit(1)"])
def test_a_pair_whose_children_are_lost_twice_has_no_outcome_and_none_is_kept(
    dying: Callable[..., Path], end: str
) -> None:
    count, maths = dying(end, 2), Maths()
    with pytest.raises(RewardError, match="math-verify was lost twice"):
        maths.compare_now("7", "3+4")
    assert count.read_text() == "xx"
    # The machine is well again, and so is the pair.
    assert maths.compare_now("7", "3+4") is Outcome.EQUAL
    maths.close()


@pytest.mark.parametrize(
    "end",
    [
        "os.kill(os.getpid(), signal.SIGPROF)",
        "os.abort()",
        f"os._exit({maths_child.OUT_OF_MEMORY})",
    ],
)
def test_a_child_that_its_own_limits_ended_is_the_answers_fault(
    dying: Callable[..., Path], end: str
) -> None:
    count, maths = dying(end, 1), Maths()
    assert maths.compare_now("7", "3+4") is Outcome.OVER_LIMIT
    assert maths.compare_now("7", "3+4") is Outcome.OVER_LIMIT
    assert count.read_text() == "x"
    maths.close()


def test_a_closed_one_can_be_used_again_and_closing_twice_is_fine() -> None:
    maths = Maths()
    assert maths.compare_now("7", "3+4") is Outcome.EQUAL
    maths.close()
    maths.close()
    assert maths.compare_now("8", "4+4") is Outcome.EQUAL
    maths.close()


def test_the_child_imports_nothing_of_ours_and_evaluates_no_text() -> None:
    tree = ast.parse(Path(maths_child.__file__).read_text(encoding="utf-8"))
    names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    names += [str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert not [name for name in names if name.startswith("pyvision_rl")]
    called = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    assert not called & {"eval", "exec", "compile", "sympify", "parse_expr", "__import__"}


@pytest.mark.skipif(sys.platform != "linux", reason="platform: limits are read in /proc")
def test_the_child_is_limited_by_the_kernel_and_ends_with_its_driver() -> None:
    maths = Maths(memory_mb=512)
    assert maths.compare_now("7", "3+4") is Outcome.EQUAL
    child = maths._children[0]._process
    assert child is not None
    limits = Path(f"/proc/{child.pid}/limits").read_text()
    for name, most in (("Max file size", "0"), ("Max address space", str(512 * 2**20))):
        (line,) = [line for line in limits.splitlines() if line.startswith(name)]
        assert line.removeprefix(name).split()[:2] == [most, most]
    assert child.stdin is not None
    child.stdin.close()
    until = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    assert child.returncode == 0
    maths._children[0]._process = None
    assert child.stdout is not None
    child.stdout.close()
