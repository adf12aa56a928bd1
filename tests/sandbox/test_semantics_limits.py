"""What a cell may use, and what is left when it uses more."""

from __future__ import annotations

import asyncio
import textwrap
import time

import pytest
from semantics_bench import SHORT, Bench, picture

from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.types import ExecStatus, Execution


def test_a_timeout_keeps_variables_output_and_pictures(bench: Bench) -> None:
    code = "x = 1\nprint('before')\nimage_clue_0.show()\nwhile True: pass"
    result, after = bench.cells(code, "x, image_clue_1.size", limits=SHORT)
    assert result.status is ExecStatus.TIMEOUT
    assert (result.output, len(result.images), result.state_lost) == ("before\n", 1, False)
    assert "line 4" in result.error
    assert "0.5 s" in result.error
    assert after.output == "(1, (40, 30))\n"


@pytest.mark.parametrize(
    "code",
    [
        "import time; time.sleep(60)",
        "class E(Exception):\n    def __str__(s):\n        while True: pass\nraise E",
        "class R:\n    def __repr__(s):\n        while True: pass\nR()",
    ],
)
def test_slow_words_of_the_model_count_as_its_time(bench: Bench, code: str) -> None:
    result = bench.cell(code, limits=SHORT)
    assert (result.status, result.state_lost) == (ExecStatus.TIMEOUT, False)


def test_computing_is_limited_apart_from_waiting(bench: Bench) -> None:
    limits = SandboxLimits(cpu_s=0.3, wall_s=30, grace_s=0.5)
    busy = "import threading\nx = 1\ndef f():\n    while True: pass\n"
    cells = bench.cells(
        "import time; time.sleep(1); 'waited'",
        busy + "f()",
        busy + "threading.Thread(target=f, daemon=True).start(); time.sleep(20)",
        "x",
        "sum(range(10**12))",
        limits=limits,
    )
    assert [cell.status for cell in cells] == [
        ExecStatus.OK,
        ExecStatus.TIMEOUT,
        ExecStatus.TIMEOUT,
        ExecStatus.OK,
        ExecStatus.KILLED,
    ]
    assert "stopped after 0.3 s (the computing time limit); variables are kept" in cells[1].error
    assert cells[3].output == "1\n"


def test_an_interrupt_sent_by_the_code_itself_is_an_error(bench: Bench) -> None:
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhile True: pass"
    result = bench.cell(code)
    assert (result.status, "KeyboardInterrupt" in result.error) == (ExecStatus.RAISED, True)


def test_code_that_ignores_the_interrupt_is_killed_and_the_next_run_starts_afresh(
    bench: Bench,
) -> None:
    deaf = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    began = time.monotonic()
    _, killed, after = bench.cells(
        "x = 1\nImage.new('RGB', (5, 6)).show()",
        deaf,
        "print('x' in globals(), image_clue_0.size, image_clue_1.size)\nimage_clue_0.show()",
        limits=SHORT,
    )
    assert time.monotonic() - began < 3
    assert (killed.status, killed.state_lost) == (ExecStatus.KILLED, True)
    assert after.output == "False (40, 30) (5, 6)\n"
    assert len(after.images) == 1


def test_numbering_goes_on_after_a_lost_state(bench: Bench) -> None:
    show = "image_clue_0.show()"
    cells = bench.cells(show, "import os; os._exit(1)", show, "image_clue_2.size")
    assert cells[3].output == "(40, 30)\n"


def test_too_much_memory_is_an_error_and_variables_are_kept(bench: Bench) -> None:
    limits = SandboxLimits(memory_mb=100)
    first, second = bench.cells("x = 1\nb = bytearray(300 * 2**20)", "x", limits=limits)
    assert (first.status, "MemoryError" in first.error) == (ExecStatus.RAISED, True)
    assert second.output == "1\n"


def test_shared_memory_counts_as_memory(bench: Bench) -> None:
    code = "import mmap\nmmap.mmap(-1, 300 * 2**20)"
    assert bench.cell(code, limits=SandboxLimits(memory_mb=100)).status is ExecStatus.RAISED


def test_a_file_cannot_grow_without_end(bench: Bench) -> None:
    result = bench.cell("f = open('big', 'wb')\nfor i in range(100): f.write(bytes(2**20))")
    assert (result.status, "File too large" in result.error) == (ExecStatus.RAISED, True)


def test_a_file_may_fill_the_scratch_folder(bench: Bench) -> None:
    limits = SandboxLimits(scratch_mb=200)
    code = "with open('big', 'wb') as f: f.write(bytes(100 * 2**20))"
    result = bench.cell(code, limits=limits)
    assert (result.status, result.error) == (ExecStatus.OK, "")


def test_a_timer_of_the_code_that_goes_off_between_cells_ends_nothing(bench: Bench) -> None:
    code = """
    import signal
    def late(*_): raise TimeoutError
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    x = 1
    """

    async def scenario() -> Execution:
        session = await bench.sandbox.open({}, SandboxLimits(), 0)
        try:
            await session.run(textwrap.dedent(code))
            await asyncio.sleep(0.6)
            return await session.run("x")
        finally:
            await session.close()

    result = bench.runner.run(scenario())
    assert (result.status, result.output) == (ExecStatus.OK, "1\n")


def test_threads_take_little_of_the_memory_that_a_session_may_have(bench: Bench) -> None:
    code = """
    import threading
    from concurrent.futures import ThreadPoolExecutor
    meet = threading.Barrier(40)
    def work(n):
        meet.wait()
        return len(bytearray(100_000))
    pool = ThreadPoolExecutor(40)
    print(sum(pool.map(work, range(40))))
    np.ones(2**27).nbytes
    """
    result = bench.cell(code, limits=SandboxLimits(memory_mb=2048))
    assert (result.error, result.output) == ("", "4000000\n1073741824\n")


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("import os; os._exit(3)", ExecStatus.DIED, "status 3"),
        ("import ctypes; ctypes.string_at(0)", ExecStatus.DIED, "SIGSEGV"),
        ("import os; os.abort()", ExecStatus.DIED, "SIG"),
    ],
)
def test_a_crash_is_a_status_and_loses_the_state(
    bench: Bench, code: str, status: ExecStatus, words: str
) -> None:
    crashed, after = bench.cells(code, "1")
    assert (crashed.status, crashed.state_lost) == (status, True)
    assert words in crashed.error
    assert after.output == "1\n"


def test_at_most_max_running_cells_run_together(bench: Bench) -> None:
    code = "import time\na = time.monotonic(); time.sleep(0.15); print(a, time.monotonic())"

    async def race() -> list[list[Execution]]:
        return await asyncio.gather(*(bench.session(code) for _ in range(4)))

    spans = [tuple(map(float, cells[0].output.split())) for cells in bench.runner.run(race())]
    together = [sum(a <= start < b for a, b in spans) for start, _ in spans]
    assert max(together) == 2


# What was said before the end

DEAF = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("while True: pass", ExecStatus.TIMEOUT),
        (DEAF + "while True: pass", ExecStatus.KILLED),
        ("sum(range(10**12))", ExecStatus.KILLED),
        ("import os; os._exit(3)", ExecStatus.DIED),
        ("import ctypes; ctypes.string_at(0)", ExecStatus.DIED),
    ],
)
def test_what_was_said_and_shown_before_the_end_is_kept(
    bench: Bench, end: str, status: ExecStatus
) -> None:
    code = "print('before'); image_clue_0.show(); print('after', end='')\n" + end
    result, after = bench.cells(code, "image_clue_1.size", limits=SHORT)
    assert (result.status, result.parts) == (status, ("before\n", 0, "after"))
    assert result.images == (picture(),)
    assert after.output == "(40, 30)\n"


def test_the_end_of_a_long_output_survives_a_kill(bench: Bench) -> None:
    code = DEAF + "for i in range(10**9): print(i)"
    limits = SandboxLimits(wall_s=1.5, grace_s=0.2, max_output_chars=200)
    result = bench.cell(code, limits=limits)
    assert result.status is ExecStatus.KILLED
    assert result.output.startswith("0\n1\n2\n")
    head, tail = result.output.split(" characters cut]\n")
    assert int(head.rsplit("[", 1)[1]) > 1000
    numbers = [int(word) for word in tail.split()]
    assert numbers[1:] == list(range(numbers[1], numbers[-1] + 1))


def test_an_output_of_the_length_of_the_limit_is_whole_at_a_kill(bench: Bench) -> None:
    limits = SandboxLimits(wall_s=0.5, grace_s=0.2, max_output_chars=200)
    result = bench.cell(DEAF + "print('a' * 199)\nwhile True: pass", limits=limits)
    assert (result.status, result.output) == (ExecStatus.KILLED, "a" * 199 + "\n")


@pytest.mark.parametrize("grow", ["bytes(2**20)", "[0] * 1000", "object()"])
def test_a_cell_that_ran_out_of_memory_says_so_and_the_next_can_free_it(
    bench: Bench, grow: str
) -> None:
    full, looked, freed, after = bench.cells(
        f"x = []; y = 5\nwhile True: x.append({grow})",
        "len(x) > 50",
        "x.clear()\ndel x\n'freed'",
        "print(len(bytearray(2**25)), y)\nbytearray(2**27)",
        limits=SandboxLimits(memory_mb=100),
    )
    assert (full.status, "MemoryError" in full.error) == (ExecStatus.RAISED, True)
    assert "free some" in full.error
    assert looked.output == "True\n"
    assert freed.output == "'freed'\n"
    assert after.output == "33554432 5\n"
    assert (after.status, after.error.endswith("MemoryError")) == (ExecStatus.RAISED, True)


def test_a_session_without_any_memory_is_ended_and_says_so(bench: Bench) -> None:
    grow = "while True: x.append([0] * 1000)"
    full, spent, after = bench.cells(
        "x = []\n" + grow, "print('on')\n" + grow, "1", limits=SandboxLimits(memory_mb=100)
    )
    assert full.status is ExecStatus.RAISED
    assert (spent.status, spent.state_lost, spent.output) == (ExecStatus.OOM, True, "on\n")
    assert "no memory was left to go on with" in spent.error
    assert after.output == "1\n"


def test_memory_that_the_code_keeps_and_hides_ends_no_session(bench: Bench) -> None:
    hide = "x = []\ntry:\n    while True: x.append([0] * 1000)\nexcept MemoryError: print('m')"
    cells = bench.cells(hide, "y = 1", "x.clear()", "len(x)", limits=SandboxLimits(memory_mb=100))
    assert cells[0].output.startswith("m\n[nearly all memory is taken")
    assert {cell.status for cell in cells[2:]} == {ExecStatus.OK}


def test_threads_of_a_cell_stand_still_between_cells(bench: Bench) -> None:
    code = """
    import threading, time
    def tick():
        while True: ticks.append(time.monotonic()); time.sleep(0.01)
    ticks = []
    threading.Thread(target=tick, daemon=True).start()
    """

    async def scenario() -> Execution:
        session = await bench.sandbox.open({}, SandboxLimits(), 0)
        try:
            await session.run(textwrap.dedent(code))
            await asyncio.sleep(1.5)
            return await session.run(
                "time.sleep(0.1); bool(max(np.diff(ticks)) > 1), len(ticks) < 100"
            )
        finally:
            await session.close()

    assert bench.runner.run(scenario()).output == "(True, True)\n"


def test_an_interrupt_while_a_big_picture_is_sent_tears_no_frame(bench: Bench) -> None:
    code = "big = Image.new('RGB', (1900, 1900))\nwhile True: big.show()"
    limits = SandboxLimits(wall_s=0.3, grace_s=2, max_images=10**6)
    result, after = bench.cells(code, "1", limits=limits)
    assert (result.status, result.state_lost) == (ExecStatus.TIMEOUT, False)
    assert after.output == "1\n"
