"""Attacks on the files of videos: a session holds them open for reading, and can do no more.

The file is given to the session's own user, as it is where a driver without root runs sessions with
its rights: what stops the code then is the walls, and not the permissions of the file.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from attack_bench import limits, make_sandbox, missing
from attack_records import LEVELS
from video_bench import clip

from pyvision_rl.types import ExecStatus, Execution, Media

FIND = """
import contextlib, ctypes, fcntl, mmap, os, stat, struct, sys
held = []
for fd in range(3, 200):
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            held.append(fd)
    except OSError:
        pass
print(len(held) > 0, os.getuid())
"""
ATTACK = """
fd, libc, worked = held[0], ctypes.CDLL(None, use_errno=True), []
path = f"/proc/self/fd/{fd}"
fcntl.fcntl(fd, fcntl.F_GETFD)

def attempt(name, work, *args):
    try:
        if work(*args) == -1:
            raise OSError(ctypes.get_errno(), "")
    except (OSError, ValueError):
        return
    worked.append(name)

def reopen(flags):
    again = os.open(path, flags)
    os.write(again, b"spoilt")

def mapped():
    with mmap.mmap(fd, 0) as view:
        view[0] = 0

def told():
    # Folders of clips are often named by what is to be seen in them.
    for number in range(64):
        with contextlib.suppress(OSError):
            if "clip" in os.readlink(f"/proc/self/fd/{number}"):
                return 0
    return -1

attempt("path", told)
attempt("fchmod", os.fchmod, fd, 0o777)
attempt("chmod", os.chmod, path, 0o777)
attempt("fchmodat2", libc.syscall, 452, fd, b"", 0o777, 0x1000)
attempt("futimens", os.utime, fd, (1, 1))
attempt("utime", os.utime, path, (1, 1))
attempt("truncate", os.truncate, path, 0)
attempt("ftruncate", os.ftruncate, fd, 0)
attempt("reopen", reopen, os.O_RDWR)
attempt("append", reopen, os.O_WRONLY | os.O_APPEND)
attempt("write", os.pwrite, fd, b"spoilt", 0)
attempt("map", mapped)
attempt("lock", fcntl.lockf, fd, fcntl.LOCK_SH)
attempt("lock of the description", fcntl.fcntl, fd, 37, struct.pack("hhqqi4x", 0, 0, 0, 0, 0))
attempt("flock", fcntl.flock, fd, fcntl.LOCK_SH)
attempt("lease", fcntl.fcntl, fd, 1024, 0)
attempt("flags", fcntl.ioctl, fd, 0x40086602, struct.pack("l", 0x40))
attempt("verity", fcntl.ioctl, fd, 0x40806685, bytes(128))
attempt("link", os.link, path, "link")
attempt("xattr", os.setxattr, path, "user.a", b"b")
print(sorted(worked))
"""


def state(path: Path) -> tuple[object, ...]:
    found = path.stat()
    return found.st_mode, found.st_mtime_ns, found.st_size, found.st_nlink, path.read_bytes()


def attacked(level: str, media: Media) -> list[Execution]:
    """Find the file, give it to the session's user, attack it, and read a frame."""

    async def run() -> list[Execution]:
        sandbox = make_sandbox(level)
        try:
            session = await sandbox.open({"video_clue_0": media}, limits(), 0)
            found = await session.run(FIND)
            if os.geteuid() == 0 and found.output:
                os.chown(str(media.source), int(found.output.split()[1]), -1)
            results = [
                found,
                await session.run(ATTACK),
                await session.run("video_clue_0[9].mean()"),
            ]
            await session.close()
            return results
        finally:
            await sandbox.close()

    return asyncio.run(run())


@pytest.mark.parametrize("level", LEVELS)
def test_attack_101_a_session_can_only_read_the_file_of_a_video(level: str, tmp_path: Path) -> None:
    if lacks := missing(level):
        pytest.skip(f"platform: level {level} needs {lacks}")
    media = clip(tmp_path)
    assert isinstance(media.source, Path)
    before = state(media.source)
    found, tried, after = attacked(level, media)
    assert found.output.startswith("True "), found
    # At ll, /proc is the host's, and no wall there governs what a link says.
    seen = ["path"] if level == "ll" else []
    assert (tried.output, tried.error) == (f"{seen}\n", "")
    assert state(media.source) == before
    assert after.status is ExecStatus.OK


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_control_101_without_walls_the_file_can_be_changed(tmp_path: Path) -> None:
    media = clip(tmp_path)
    assert isinstance(media.source, Path)
    before = state(media.source)
    _, tried, _ = attacked("unsafe", media)
    for name in ("path", "fchmod", "chmod", "futimens", "reopen", "truncate", "lock", "flock"):
        assert f"'{name}'" in tried.output
    assert state(media.source) != before
