"""The system calls that isolation needs and the standard library does not have, through ctypes.

In: numbers, names and flags. Out: nothing or a number; a failure is an ``OSError`` that names the
call. Linux only. Called before any model code runs, never after.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
"""Flags of ``unshare`` and ``setns``."""
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
"""Flags of ``mount``."""
PDEATHSIG, DUMPABLE, KEEPCAPS, SECCOMP, CAPBSET_DROP, SUBREAPER, NO_NEW_PRIVS, AMBIENT = (
    1,
    4,
    8,
    22,
    24,
    36,
    38,
    47,
)
"""Options of ``prctl``."""
MACHINE = platform.machine()
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR = 442  # the same on every machine, as all calls added since 2018
_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000

_LIBC = ctypes.CDLL(None, use_errno=True)


def syscall(what: str, number: int, *arguments: int | bytes | None) -> int:
    """Make a system call and return its result."""
    return _checked(_LIBC.syscall(ctypes.c_long(number), *map(_argument, arguments)), what)


def unshare(flags: int) -> None:
    """Leave the namespaces that the flags name for new ones."""
    _checked(_LIBC.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace behind a descriptor."""
    _checked(_LIBC.setns(fd, kind), "setns")


def prctl(option: int, value: int, third: int = 0) -> int:
    """Set or ask for a property of this process."""
    arguments = (option, value, third, 0, 0)
    return _checked(_LIBC.prctl(*map(ctypes.c_ulong, arguments)), f"prctl({option})")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """Mount, bind or change a mount."""
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, data)]
    done = _LIBC.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3])
    _checked(done, f"mount on {target}")


def unmount(target: str) -> None:
    """Take a mount and all below it out of sight, now."""
    _checked(_LIBC.umount2(os.fsencode(target), _DETACH), f"umount of {target}")


def set_read_only(target: str) -> None:
    """Make a mount and all below it read-only, without devices and set-user-id programs.

    Raises:
        OSError: ENOSYS before Linux 5.12.
    """
    attributes = struct.pack("QQQQ", RDONLY | NOSUID | NODEV, 0, 0, 0)
    syscall(
        f"mount_setattr of {target}",
        _MOUNT_SETATTR,
        _AT_FDCWD,
        os.fsencode(target),
        _AT_RECURSIVE,
        attributes,
        len(attributes),
    )


def enter_root(folder: str) -> None:
    """Make ``folder``, a mount point, the root, and drop the old one."""
    os.chdir(folder)
    # Both in one place: the old root lies on top of the new one until it is taken away.
    syscall("pivot_root", _PIVOT_ROOT[MACHINE], b".", b".")
    unmount(".")
    os.chdir("/")


def drop_bounding_set() -> None:
    """Let no program that this process might start gain a capability."""
    for capability in range(64):
        try:
            prctl(CAPBSET_DROP, capability)
        except OSError:
            return  # beyond the last one, or not ours to drop: then there is nothing to gain


def drop_capabilities(*, keep_reading: bool = False) -> None:
    """Give up every capability for good, but for CAP_DAC_READ_SEARCH if that is to be kept."""
    _LIBC.prctl(*map(ctypes.c_ulong, (AMBIENT, 4, 0, 0, 0)))  # clears all; older kernels have none
    kept = 1 << 2 if keep_reading else 0
    header, sets = struct.pack("Ii", 0x20080522, 0), struct.pack("IIIIII", kept, kept, 0, 0, 0, 0)
    _checked(_LIBC.capset(header, sets), "capset")


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _argument(value: int | bytes | None) -> object:
    return ctypes.c_long(value) if isinstance(value, int) else ctypes.c_char_p(value)
