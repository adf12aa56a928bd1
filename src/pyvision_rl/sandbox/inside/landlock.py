"""Landlock: which files a process may still open, whatever its user may open.

In: folders and files that may be read, folders that may be written. Out: a rule set behind a
descriptor, made once; each session enforces it on itself with one call. Connections, signals to and
abstract sockets of other processes are refused where the kernel knows how. Reads of metadata
(``stat``), ``chmod`` and the like are not covered by Landlock.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable

from . import kernel

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_FIRST_BITS = 13
"""Rights over files in the first version; each later bit came with a version of its own."""
_BITS_SINCE = {2: 14, 3: 15, 5: 16}
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_EXECUTE, _MAKE_CHAR, _MAKE_BLOCK, _IOCTL_DEV = 1 << 0, 1 << 6, 1 << 11, 1 << 15
_READ = _READ_FILE | _READ_DIR
_WRITE = ((1 << 16) - 1) & ~(_EXECUTE | _MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV)
_TCP, _SCOPES = 3, 3


def version() -> int:
    """Return the version of the kernel's Landlock.

    Raises:
        OSError: ENOSYS: too old a kernel; EOPNOTSUPP: not enabled when it was booted.
    """
    return kernel.syscall("landlock_create_ruleset", _CREATE, None, 0, 1)


def ruleset(
    *, read: Iterable[str], write: Iterable[str] = (), files: Iterable[str] = (), network: bool
) -> int:
    """Return a descriptor of a rule set that allows the given paths and nothing else.

    Args:
        read: Files and folders (with all in them) that may be read. What is missing is left out.
        write: Folders in which everything may be done but running programs and making devices.
        files: Files that may be read and written, such as /dev/null.
        network: Whether TCP is refused too, and signals and sockets are kept inside the domain.

    Raises:
        OSError: The kernel has no Landlock.
    """
    found = version()
    bits = max([_FIRST_BITS, *(b for v, b in _BITS_SINCE.items() if found >= v)])
    handled = (1 << bits) - 1
    attributes = struct.pack("Q", handled)
    if found >= 4:
        attributes += struct.pack("Q", _TCP if network else 0)
    if found >= 6:
        attributes += struct.pack("Q", _SCOPES if network else 0)
    fd = kernel.syscall("landlock_create_ruleset", _CREATE, attributes, len(attributes), 0)
    for right, paths in ((_READ, read), (_WRITE, write), (_WRITE_FILE | _READ_FILE, files)):
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                _allow(fd, path, right & handled)
    return fd


def restrict(fd: int) -> None:
    """Enforce a rule set on this process and its children. Needs no_new_privs."""
    kernel.syscall("landlock_restrict_self", _RESTRICT, fd, 0)


def _allow(fd: int, path: str, right: int) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):  # noqa: PTH112 - on the way to model code: no Path
            right &= _READ_FILE | _WRITE_FILE | _TRUNCATE
        rule = struct.pack("=Qi", right, opened)
        kernel.syscall(f"landlock_add_rule for {path}", _ADD, fd, 1, rule, 0)
    finally:
        os.close(opened)
