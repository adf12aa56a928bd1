"""Attacks 60-62, 65 and 66: code that looks for what it should not know.

What is searched for never stands in one piece in the code that searches, so that code which finds
it has found another copy.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from attack_bench import CANARY, Arena, limits, picture

from pyvision_rl.errors import SandboxError
from pyvision_rl.sandbox.launch import EXTRAS, installed
from pyvision_rl.types import ExecStatus, Gold, Media, Task, TaskInput

CONFIG = {"options": {"preload": installed(EXTRAS)}}
"""All libraries preloaded: their threads and files would show here."""
GOLD = "gold-answer-93b1e7d4"
LARGE = picture(700, 500)
"""Larger than what is sent as bytes."""
SEARCH = """
import gc, re
BUFFER = bytearray(2**20 + 64)
SPAN = memoryview(BUFFER)
START = ctypes.addressof(ctypes.c_char.from_buffer(BUFFER))

def holds(data, first, second):
    at = data.find(first)
    while at >= 0:
        if data[at + len(first):at + len(first) + len(second)] == second:
            return True
        at = data.find(first, at + 1)
    return False

def in_memory(first, second):
    'Search all that this process can read of itself, but for the buffer that it reads into.'
    try:
        maps = open("/proc/self/maps").read().splitlines()
        memory = open("/proc/self/mem", "rb", buffering=0)
    except OSError:
        return []
    found = []
    for line in maps:
        span, rights, *_, name = line.split(None, 5) + [""]
        start, end = (int(word, 16) for word in span.split("-"))
        if rights[0] != "r" or rights[1] != "w" or end - start > 2**29:
            continue
        for at in range(start, end, 2**20):
            if at <= START + len(BUFFER) and START <= at + len(BUFFER):
                continue
            try:
                memory.seek(at)
                count = memory.readinto(SPAN[: min(len(BUFFER), end - at)])
            except OSError:
                continue
            if holds(BUFFER, first, second):
                found.append("memory")
            BUFFER[:] = bytes(len(BUFFER))
    return found

def in_objects(first, second):
    found, queue, seen = [], gc.get_objects(), set()
    frame = sys._getframe()
    while frame is not None:
        queue += frame.f_locals.values()
        frame = frame.f_back
    for holder in list(queue):
        queue += gc.get_referents(holder)
    for value in queue:
        if isinstance(value, str) and len(value) < 10**6:
            value = value.encode("utf-8", "replace")
        if isinstance(value, bytes) and holds(value, first, second):
            found.append("objects")
    return found

def in_files(first, second):
    found = []
    # Its own folders first: a machine's /tmp may hold more files than are looked at.
    roots = [os.getcwd(), HOST, "/etc", "/run", "/tmp", "/var", "/home", "/dev/shm"]
    names = [os.path.join(folder, file) for root in roots for folder, _, files in os.walk(root)
             for file in files]
    pids = (os.getpid(), os.getppid(), 1, ZYGOTE, DRIVER, OTHER)
    names += [f"/proc/{pid}/{kind}" for pid in pids for kind in ("environ", "cmdline")]
    for name in names[:20_000]:
        try:
            with open(name, "rb") as file:
                if holds(file.read(10**6), first, second):
                    found.append("files")
        except OSError:
            continue
    return found

def search(first, second):
    first, second = first.encode(), second.encode()
    environment = [*os.environ.values(), *sys.argv, *os.environ]
    found = ["environment" for text in environment if holds(text.encode(), first, second)]
    found += in_memory(first, second) + in_objects(first, second) + in_files(first, second)
    print(*(sorted(set(found)) or ["NOTHING"]))
"""


def halves(secret: str) -> str:
    middle = len(secret) // 2
    return f"search({secret[:middle]!r}, {secret[middle:]!r})"


@pytest.fixture(scope="module")
def other() -> Any:
    """A process with a canary in its environment, which whoever reads it finds."""
    command = [sys.executable, "-S", "-c", "import time; print(flush=True); time.sleep(600)"]
    environment = {**os.environ, "PVRL_CANARY_KEY": CANARY}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


async def search(arena: Arena, other: int, secret: str, plant: str = "") -> str:
    """Search for a secret in a session that a task with that secret was opened for."""
    task = Task(TaskInput("1", "What is it?", (picture(),)), Gold(secret))
    bindings = {f"image_clue_{k}": media for k, media in enumerate(task.input.media)}
    session = await arena.sandbox.open(bindings, limits(), 0)
    try:
        await session.run(arena.preamble(OTHER=other) + SEARCH)
        if plant:
            assert (await session.run(plant)).error == ""
        result = await session.run(halves(secret))
        assert (result.status, result.error) == (ExecStatus.OK, "")
        return str(result.output)
    finally:
        await session.close()


def test_attack_060_environment_canary(arena: Arena, other: int) -> None:
    arena.host.renew()
    (arena.host.path / "canary.txt").write_text("nothing")  # it holds the same canary
    assert arena.runner.run(search(arena, other, CANARY)) == "NOTHING\n"


def test_attack_066_gold_canary(arena: Arena, other: int) -> None:
    assert arena.runner.run(search(arena, other, GOLD)) == "NOTHING\n"


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        ("secret = ''.join(['gold-ans', 'wer-93b1e7d4'])", "objects"),
        ("os.environ['A'] = ''.join(['gold-ans', 'wer-93b1e7d4'])", "environment"),
        ("open('a', 'w').write(''.join(['gold-ans', 'wer-93b1e7d4']))", "files"),
    ],
)
def test_control_066_what_is_planted_is_found(
    unsafe: Arena, other: int, plant: str, found: str
) -> None:
    words = unsafe.runner.run(search(unsafe, other, GOLD, plant)).split()
    assert found in words
    assert "memory" in words or found == "files"


def test_control_060_other_environments_can_be_read(unsafe: Arena, other: int) -> None:
    assert "files" in unsafe.runner.run(search(unsafe, other, CANARY)).split()


@pytest.mark.parametrize(
    "secret",
    [Gold("42"), Task(TaskInput("1", "?"), Gold("42")), TaskInput("1", "?"), "42", b"42", None],
    ids=lambda value: type(value).__name__,
)
def test_attack_066_gold_is_refused_by_type(arena: Arena, secret: Any) -> None:
    with pytest.raises(SandboxError, match=type(secret).__name__):
        arena.runner.run(arena.sandbox.open({"image_clue_0": secret}, limits(), 0))


def test_attack_066_a_subclass_of_media_that_carries_gold_is_refused(arena: Arena) -> None:
    class Marked(Media):
        gold = Gold("42")

    plain = picture()
    marked = Marked(plain.kind, plain.sha256, plain.width, plain.height, plain.source)
    with pytest.raises(SandboxError, match="Marked"):
        arena.runner.run(arena.sandbox.open({"image_clue_0": marked}, limits(), 0))


@pytest.mark.parametrize("media", [picture(), LARGE], ids=["small", "large"])
def test_attack_061_given_files_opened_again_for_writing(arena: Arena, media: Media) -> None:
    # Large images come in sealed files, which are closed before code runs.
    code = """
    for fd in range(3, 1024):
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            continue
        if os.path.stat.S_ISSOCK(mode):
            continue
        attempt(open, f"/proc/self/fd/{fd}", "r+b")
        attempt(lambda: os.close(os.open(f"/dev/fd/{fd}", os.O_RDWR)))
        attempt(os.pwrite, fd, b"x", 0)
        attempt(os.ftruncate, fd, 1)
    print("END")
    """
    for _ in range(3):  # from the zygote, and from the group that holds the image
        [result] = arena.cells(arena.preamble() + textwrap.dedent(code), media=media)
        assert result.error == ""
        assert "DONE" not in result.output.split()


def test_attack_062_other_session(arena: Arena) -> None:
    found = arena.runner.run(spy(arena))
    assert set(found.split()) <= {"ENOENT", "EACCES", "ESRCH", "EPERM"}, found


def test_control_062_other_session(unsafe: Arena) -> None:
    found = unsafe.runner.run(spy(unsafe)).split()
    # The zygote and its groups have no note in their folders; the other session has.
    assert (found[0], set(found)) == ("DONE", {"DONE", "ENOENT"}) or set(found) == {"DONE"}


async def spy(arena: Arena) -> str:
    """What a session gets to see of another: its files, its memory, its process."""
    victim = await arena.sandbox.open({}, limits(), 0)
    attacker = await arena.sandbox.open({}, limits(), 0)
    try:
        note = "try: open('note.txt', 'w').write('secret')\nexcept OSError: pass\n"
        where = await victim.run(f"import os\n{note}print(os.path.abspath('note.txt'))")
        pids = children_of(arena.sandbox.pid)
        code = f"""
        attempt(open, {where.output.strip()!r})
        for pid in {pids}:
            if pid not in (os.getpid(), 1):
                attempt(open, f"/proc/{{pid}}/mem")
                attempt(open, f"/proc/{{pid}}/cwd/note.txt")
                attempt(os.kill, pid, 0)
        """
        result = await attacker.run(arena.preamble() + textwrap.dedent(code))
        assert result.error == ""
        return str(result.output)
    finally:
        await attacker.close()
        await victim.close()


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("media", [picture(), LARGE], ids=["small", "large"])
def test_attack_065_descriptors(arena: Arena, media: Media) -> None:
    code = """
    import stat
    for fd in range(1024):
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            continue
        print(fd if fd < 3 else "", stat.filemode(mode)[0])
    """
    for _ in range(3):
        [result] = arena.cells(arena.preamble() + textwrap.dedent(code), media=media)
        lines = [line.strip() for line in result.output.splitlines()]
        assert lines[:3] == ["0 c", "1 c", "2 c"]
        assert lines[3:] == ["s"], "more than the one socket is open"
