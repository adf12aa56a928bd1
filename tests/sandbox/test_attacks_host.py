"""Attacks 45, 94, 95 and 97-100: what sessions leave to each other, to the host and to the next."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from attack_bench import AFTER, SLACK_S, Arena, arena_at, limits, loud, make_sandbox, picture
from attack_traces import all_gone, descendants, traces

from pyvision_rl.errors import SandboxError
from pyvision_rl.types import ExecStatus, Execution

CYCLES = {"full": 600, "ns": 200, "ll": 200}
"""Sessions at each level; ten thousand are in tests/slow."""
DRIVER = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[2])
from attack_bench import make_sandbox, limits, picture
from attack_traces import descendants

async def main():
    sandbox = make_sandbox(sys.argv[1])
    sessions = [await sandbox.open({"image_clue_0": picture()}, limits(), 0) for _ in range(4)]
    for session in sessions:
        await session.run("x = 1")
    running = asyncio.create_task(sessions[0].run("while True: pass"))
    await asyncio.sleep(0.1)
    print(*descendants(os.getpid()), flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


def test_attack_094_nothing_outlives_a_driver_that_is_killed(arena: Arena, tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    source = Path(sys.modules["pyvision_rl"].__file__ or "").parent.parent
    ran = subprocess.run(
        [sys.executable, str(script), arena.level, str(Path(__file__).parent)],
        env={**os.environ, "PYTHONPATH": str(source), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    pids = [int(word) for word in ran.stdout.split()]
    assert len(pids) >= 5, "a zygote and four sessions"
    assert all_gone(pids)
    end = time.monotonic() + SLACK_S  # who removes the folder is not among them
    while len(list(tmp_path.iterdir())) > 1 and time.monotonic() < end:
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == [script]


def test_attack_095_a_killed_zygote_takes_its_sessions_and_is_replaced(arena: Arena) -> None:
    async def scenario() -> Execution:
        old = arena.sandbox.pid
        idle, busy, unborn = [await arena.sandbox.open({}, limits(), 0) for _ in range(3)]
        await idle.run("x = 1")
        running = asyncio.create_task(busy.run("while True: pass"))
        await asyncio.sleep(0.2)
        below = descendants(old)
        assert len(below) >= 2
        os.kill(old, signal.SIGKILL)
        with pytest.raises(SandboxError, match="zygote"):
            await running
        assert all_gone([old, *below])
        with pytest.raises(SandboxError):
            await idle.run("x")
        result: Execution = await unborn.run("1")
        assert arena.sandbox.pid not in (None, old)
        for session in (idle, busy, unborn):
            await session.close()
        return result

    assert arena.runner.run(scenario()).output == "1\n"


async def cycle(arena: Arena, number: int, kind: int) -> None:
    """One session of one of several fates; each answers with its own number only."""
    given = limits(cpu_s=0.3, wall_s=0.6, grace_s=0.2)
    session = await arena.sandbox.open({"image_clue_0": picture(seed=number % 7)}, given, number)
    try:
        first = await session.run(f"import os, signal\nprint({number})")
        assert first.output == f"{number}\n"
        if kind == 0:
            died = await session.run(f"print({number}, flush=True)\nos._exit(1)")
            assert (died.status, died.output) == (ExecStatus.DIED, f"{number}\n")
        elif kind == 1:
            await session.run("try: open('f', 'w').write('x' * 10**6)\nexcept OSError: pass")
        elif kind == 2:
            shown = await session.run("image_clue_0.show()")
            assert shown.images == (picture(seed=number % 7),)
        elif kind == 3 and number % 8 == 3:
            deaf = "signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
            killed = await session.run(f"print({number}, flush=True)\n{deaf}")
            assert (killed.status, killed.output) == (ExecStatus.KILLED, f"{number}\n")
        elif kind == 4:
            running = asyncio.create_task(session.run("while True: pass"))
            await asyncio.sleep(0.01)
            await session.close()
            with pytest.raises(SandboxError):
                await running
            return
        assert (await session.run(f"print({number})")).output == f"{number}\n"
    finally:
        await session.close()


async def soak(arena: Arena, num_sessions: int, at_once: int = 8, seed: int = 97) -> None:
    """Many sessions of all fates."""
    chosen = random.Random(seed)
    for start in range(0, num_sessions, at_once):
        numbers = range(start, min(start + at_once, num_sessions))
        async with asyncio.TaskGroup() as group:
            for number in numbers:
                group.create_task(cycle(arena, number, chosen.randrange(5)))


async def settle(arena: Arena, before: dict[str, object]) -> None:
    """Wait for what is ending to end; a leak stays."""
    end = asyncio.get_running_loop().time() + SLACK_S
    while traces(arena.sandbox.pid, arena.folder) != before:
        if asyncio.get_running_loop().time() > end:
            assert traces(arena.sandbox.pid, arena.folder) == before
        await asyncio.sleep(0.05)


def test_attack_097_many_sessions_leave_nothing_behind(arena: Arena) -> None:
    arena.runner.run(soak(arena, 40))  # the groups of the seven pictures are made now
    before = traces(arena.sandbox.pid, arena.folder)
    arena.runner.run(soak(arena, CYCLES[arena.level]))
    arena.runner.run(settle(arena, before))


@pytest.mark.parametrize("size", [(40, 30), (700, 500)], ids=["small", "large"])
def test_attack_098_patches_of_one_session_are_unknown_to_the_next(
    arena: Arena, size: tuple[int, int]
) -> None:
    media = picture(*size)
    code = """
    import json, math, os, random, sys
    np.pi = 3; np.zeros = plt.show = plt.imshow = Image.open = math.sqrt = None
    json.dumps = random.random = os.getcwd = None
    plt.rcParams["figure.figsize"] = (1, 1)
    sys.path.insert(0, "/nowhere"); os.environ["PATCHED"] = "1"
    image_clue_0.paste(0, (0, 0, *image_clue_0.size))
    patched = True
    print("PATCHED")
    import builtins
    builtins.len = None
    """
    look = """
    import json, math, os, random, sys
    print(np.pi == 3, None in (np.zeros, plt.show, plt.imshow, Image.open, math.sqrt, json.dumps,
          random.random, os.getcwd, len), "/nowhere" in sys.path, "PATCHED" in os.environ,
          "patched" in globals(), list(plt.rcParams["figure.figsize"]) == [1, 1])
    image_clue_0
    """
    for _ in range(3):  # from the zygote, then from the group that holds the image
        [patched] = arena.cells(code, media=media)
        assert (patched.output, patched.error) == ("PATCHED\n", "")
        [after] = arena.cells(look, media=media)
        assert after.output == "False False False False False False\n"
        assert after.images == (media,)


def test_attack_100_equal_seeds_and_code_give_equal_pixels(arena: Arena) -> None:
    code = """
    import random
    plt.imshow(np.random.rand(9, 9)); plt.title(str(random.random())); plt.show()
    Image.fromarray(np.random.randint(0, 255, (20, 20, 3), dtype=np.uint8)).show()
    print({"a", "b", "c"}, hash("clue"), object())
    """
    first, again, other = (arena.cells(code, seed=seed)[0] for seed in (5, 5, 6))
    assert len(first.images) == 2
    assert (first.images, first.output) == (again.images, again.output)
    assert first.images != other.images


def test_attacks_045_and_099_branches(arena: Arena) -> None:
    bomb = """
    import os, time
    made = 0
    try:
        for _ in range(100):
            if os.fork() == 0:
                time.sleep(60)
                os._exit(0)
            made += 1
    except OSError as error:
        print(made, error.errno)
    """

    async def scenario() -> None:
        sandbox = make_sandbox(arena.level, options={"branchable": True})
        try:
            trunk = await sandbox.open({"image_clue_0": picture()}, limits(), 0)
            await trunk.run("x = [1]\nimage_clue_0.show()")
            branch = await trunk.fork()
            mark = "try: open('note', 'w').write('a')\nexcept OSError: pass\n"
            await trunk.run(f"x.append('trunk'); np.pi = 3; image_clue_1.paste(0)\n{mark}")
            code = "import os\nprint(x, np.pi == 3, os.path.exists('note'))\nimage_clue_1"
            seen = await branch.run(code)
            assert (seen.output, seen.images) == ("[1] False False\n", (picture(),))
            await branch.run("x.append('branch')")
            assert (await trunk.run("x")).output == "[1, 'trunk']\n"
            before = len(descendants(os.getpid()))
            bombed = await trunk.run(textwrap.dedent(bomb))
            assert bombed.output == "0 1\n", "code can fork, which no session needs to"
            assert (await branch.run("x")).output == "[1, 'branch']\n"
            await trunk.close()
            gone = asyncio.get_running_loop().time() + SLACK_S
            while len(descendants(os.getpid())) >= before:
                assert asyncio.get_running_loop().time() < gone, "the bomb's processes live on"
                await asyncio.sleep(0.02)
            await branch.close()
        finally:
            await sandbox.close()

    arena.runner.run(scenario())


def test_control_098_inside_one_session_patches_do_show(unsafe: Arena) -> None:
    assert unsafe.cells("np.pi = 3", "np.pi")[1].output == "3\n"


def test_control_094_a_process_of_its_own_does_outlive_a_killed_driver(tmp_path: Path) -> None:
    # Without a death signal or a closed socket to notice, it goes on.
    code = """
    import os, subprocess, sys
    sleeper = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(30)"],
                               stdout=subprocess.DEVNULL)
    print(sleeper.pid, flush=True)
    os.kill(os.getpid(), 9)
    """
    ran = subprocess.run(
        [sys.executable, "-S", "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, check=False
    )
    pid = int(ran.stdout)
    try:
        assert not all_gone([pid], within_s=0.3)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_two_sandboxes_do_not_disturb_each_other(arena: Arena) -> None:
    with arena_at(arena.level) as other:
        assert other.sandbox.pid != arena.sandbox.pid
        assert other.cells(AFTER)[0].output == "fresh\n"
    assert arena.cells(AFTER)[0].output == "fresh\n"


def test_without_isolation_is_said_loudly() -> None:
    with loud("unsafe"), asyncio.Runner() as runner:
        sandbox = make_sandbox("unsafe")
        runner.run(sandbox.start())
        runner.run(sandbox.close())


def test_every_numbered_attack_is_there() -> None:
    found = set()
    for path in Path(__file__).parent.glob("test_attacks_*.py"):
        found |= set(re.findall(r'"(\d{3})[a-z]?"|attacks?_(\d{3})|and_(\d{3})', path.read_text()))
    numbers = {int(word) for words in found for word in words if word}
    assert numbers == set(range(1, 102))
