"""The walls one by one: the filter of system calls as a program, and what the watchdog measures."""

from __future__ import annotations

import asyncio
import os
import struct
import time
from pathlib import Path
from typing import Any

import pytest

import pyvision_rl.sandbox
from pyvision_rl.config import SandboxConfig
from pyvision_rl.errors import ConfigError
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.sandbox.inside import seccomp
from pyvision_rl.sandbox.launch import library_path, readable_paths
from pyvision_rl.sandbox.pool import ZygoteSandbox
from pyvision_rl.sandbox.watchdog import measure
from pyvision_rl.types import ExecStatus

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL, EPERM, EACCES, ENOSYS = 0x7FFF0000, 0x80000000, 0x50001, 0x5000D, 0x50026
OWN = 4321


def verdict(code: bytes, number: int, *arguments: int, machine: int) -> int:
    """Run a filter as the kernel does, on one call."""
    given = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, machine, 0, *given)
    program = list(struct.iter_unpack("HBBI", code))
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, constant = program[at]
        at += 1
        if operation == 0x06:
            return int(constant)
        if operation == 0x20:
            accumulator = int.from_bytes(data[constant : constant + 4], "little")
        elif operation == 0x05:
            at += constant
        else:
            holds = {
                0x15: accumulator == constant,
                0x35: accumulator >= constant,
                0x45: bool(accumulator & constant),
            }[operation]
            at += if_true if holds else if_false


def numbers(machine: str) -> dict[str, int]:
    column = list(MACHINES).index(machine)
    tables = (
        seccomp._ALLOWED,
        seccomp._CHANGES,
        seccomp._SOCKETS,
        seccomp._REFUSED,
        seccomp._BY_ARGUMENT,
    )
    rows = [item.split(":") for table in tables for item in table.split()]
    assert len({row[0] for row in rows}) == len(rows), "a call is named twice"
    return {row[0]: int(row[1 + column]) for row in rows if row[1 + column] != "-"}


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    ("name", "arguments", "want"),
    [
        ("read", (), ALLOW),
        ("openat", (), ALLOW),
        ("mmap", (), ALLOW),
        ("getrandom", (), ALLOW),
        ("socket", (), EACCES),
        ("connect", (), EACCES),
        ("socketpair", (1, 1), ALLOW),
        ("socketpair", (1, 5 | 0x80000), ALLOW),
        ("socketpair", (1, 2), EPERM),
        ("socketpair", (2, 1), EPERM),
        ("execve", (), EPERM),
        ("ptrace", (), EPERM),
        ("unshare", (), EPERM),
        ("mount", (), EPERM),
        ("bpf", (), EPERM),
        ("io_uring_setup", (), EPERM),
        ("memfd_create", (), EPERM),
        ("setresuid", (), EPERM),
        ("clone3", (), ENOSYS),
        ("clone", (0x50F00,), ALLOW),  # as glibc makes a thread
        ("clone", (17,), EPERM),  # as fork does
        ("clone", (0x50F00 | 0x10000000,), EPERM),
        ("clone", (0x50F00 | 0x8000,), EPERM),
        ("prctl", (15,), ALLOW),
        ("prctl", (22,), EPERM),
        ("prctl", (4,), EPERM),
        ("ioctl", (0, 0x5401), ALLOW),
        ("ioctl", (0, 0x5412), EPERM),
        ("fcntl", (0, 3), ALLOW),
        ("fcntl", (0, 8), EPERM),
        ("prlimit64", (0,), ALLOW),
        ("prlimit64", (1,), EPERM),
        ("kill", (1,), ALLOW),
        ("fchmod", (), ALLOW),
    ],
)
def test_a_call_is_judged(machine: str, name: str, arguments: tuple[int, ...], want: int) -> None:
    code, number = seccomp.program(machine), numbers(machine)[name]
    assert verdict(code, number, *arguments, machine=MACHINES[machine]) == want


def test_without_a_pid_namespace_signals_go_to_oneself_only(machine: str) -> None:
    code, known = seccomp.program(machine, writes=False, own_pid=OWN), numbers(machine)
    for name in ("kill", "tgkill"):
        for pid, want in ((OWN, ALLOW), (1, EPERM), (2**32 - 1, EPERM)):
            assert verdict(code, known[name], pid, machine=MACHINES[machine]) == want
    for name in ("fchmod", "utimensat", "truncate"):
        assert verdict(code, known[name], machine=MACHINES[machine]) == EPERM


def test_every_named_call_and_no_other_is_known(machine: str) -> None:
    code, known = seccomp.program(machine), numbers(machine)
    for number in range(700):
        found = verdict(code, number, machine=MACHINES[machine])
        if number not in known.values():
            assert found == ENOSYS, number
    for name in seccomp._ALLOWED.split():
        number = known.get(name.split(":")[0])
        if number is not None:
            assert verdict(code, number, machine=MACHINES[machine]) == ALLOW, name
    for number in (0x40000000, 0x40000000 + 39, 2**32 - 1):  # x32, and what is no call
        assert verdict(code, number, machine=MACHINES[machine]) == ENOSYS


def test_a_foreign_abi_ends_the_process(machine: str) -> None:
    code = seccomp.program(machine)
    for foreign in (0x40000003, 0x40000028, *MACHINES.values()):
        want = KILL if foreign != MACHINES[machine] else ALLOW
        assert verdict(code, numbers(machine)["read"], machine=foreign) == want


def test_the_filter_is_short(machine: str) -> None:
    assert len(seccomp.program(machine)) // 8 < 400


# Paths


def test_the_readable_paths_hold_no_home_and_no_data() -> None:
    paths = readable_paths(["/venv/lib/python3/site-packages"])
    for private in ("/", "/etc", "/home", "/root", "/tmp", "/usr", "/var", str(Path.home())):
        assert private not in paths
    here = str(Path(pyvision_rl.sandbox.__file__).parent)
    assert not [
        path for path in paths if here.startswith(f"{path}/") and "site-packages" not in path
    ]


def test_a_library_beside_the_users_own_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mytools").mkdir()
    (tmp_path / "mytools" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("mytools", "time"):
        with pytest.raises(ConfigError, match=f"{name} lies where your own files do"):
            library_path((name,))
    assert library_path(("numpy",))


# The watchdog


def test_the_time_of_a_process_is_that_of_its_threads() -> None:
    before = measure(os.getpid())
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    after = measure(os.getpid())
    assert before is not None
    assert after is not None
    assert 0.1 <= after.cpu_s - before.cpu_s < 5
    assert after.resident_bytes > 2**20
    assert after.num_threads >= 1


def test_a_process_that_is_gone_has_no_usage() -> None:
    assert measure(0) is None
    assert measure(2**22 + 1) is None


def run(code: str, limits: SandboxLimits) -> Any:
    async def scenario() -> Any:
        sandbox = ZygoteSandbox(SandboxConfig(options={"preload": []}))
        session = await sandbox.open({}, limits, 0)
        try:
            return await session.run(code)
        finally:
            await session.close()
            await sandbox.close()

    return asyncio.run(scenario())


def test_computing_time_is_counted_and_waiting_is_not() -> None:
    limits = SandboxLimits(cpu_s=0.4, wall_s=30)
    slept = run("import time; time.sleep(1.0); 'slept'", limits)
    assert (slept.status, slept.output) == (ExecStatus.OK, "'slept'\n")
    busy = run("while True: pass", limits)
    assert busy.status is ExecStatus.TIMEOUT
    assert "computing time" in busy.error


def test_threads_count_too() -> None:
    code = """
import threading, zlib
data = bytes(10**7)
def work():
    while True: zlib.crc32(data)
for _ in range(2): threading.Thread(target=work, daemon=True).start()
threading.Event().wait()
"""
    found = run(code, SandboxLimits(cpu_s=0.5, wall_s=30))
    assert found.status in (ExecStatus.TIMEOUT, ExecStatus.KILLED)
    assert found.duration_s < 25
