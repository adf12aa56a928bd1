"""Namespaces: a process tree, a file tree and a network that hold nothing but what a session needs.

In: the paths the interpreter needs. Out: this process is inside. ``leave`` runs in the supervisor,
``enter`` and ``build_root`` once in the zygote (or in a probe), ``private`` in each session. With
real root no user namespace is made: the mounts then see files behind folders that only root may
pass, and each session can have a user of its own.
"""

from __future__ import annotations

import contextlib
import errno
import os

from . import kernel

SCRATCH = "/run/scratch"
"""A session's folder, its /tmp and its /dev/shm. Landlock allows writes by the folder above it."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_PLAIN = kernel.NOSUID | kernel.NODEV
_USER = 1000
"""The user that a session sees itself as, where it has no user of its own."""


def leave() -> None:
    """Let the next child be the first process of a new PID namespace.

    Raises:
        OSError: This process is root without its capabilities, or may not make user namespaces.
    """
    if os.geteuid() == 0:
        # No user namespace instead: sessions would own what root owns, such as /proc/sys.
        kernel.unshare(kernel.NEWPID)
    else:
        _leave_users(kernel.NEWPID)


def count_alone() -> None:
    """Enter a user namespace of its own: what this process starts is counted for it alone.

    Raises:
        OSError: The kernel refuses it.
    """
    _leave_users(0)


def hide_proc() -> None:
    """Take /proc away: by /proc/self/fd what came open for reading could be opened for writing.

    Raises:
        OSError: The mount was refused.
    """
    kernel.unshare(kernel.NEWNS)
    flags = _PLAIN | kernel.NOEXEC | kernel.RDONLY
    kernel.mount("tmpfs", "/proc", "tmpfs", flags, "size=4k,mode=555")


def _leave_users(more: int) -> None:
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.NEWUSER | more)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{_USER} {uid} 1")
    _write("/proc/self/gid_map", f"{_USER} {gid} 1")


def enter() -> None:
    """Leave the host's mounts, network, shared memory and names.

    Raises:
        OSError: The kernel refuses one of them.
    """
    kernel.unshare(kernel.NEWNS | kernel.NEWNET | kernel.NEWIPC | kernel.NEWUTS)
    # Nothing that is mounted from here on is seen outside.
    kernel.mount(None, "/", None, kernel.REC | kernel.PRIVATE)


def build_root(place: str, paths: list[str]) -> bool:
    """Make a read-only root of the given paths and enter it; True if it has a /proc.

    Args:
        place: An empty folder to build it on.
        paths: What to show, at the places where it lies now; what is missing is left out.

    Raises:
        OSError: A mount was refused.
    """
    kernel.mount("tmpfs", place, "tmpfs", _PLAIN, "size=1m,mode=755")
    for path in _outermost(paths):
        _show(place, path)
    for device in DEVICES:
        if os.path.exists(device):  # noqa: PTH110
            _file(place + device)
            kernel.mount(device, place + device, None, kernel.BIND)
    for folder in ("/proc", SCRATCH):
        os.makedirs(place + folder, exist_ok=True)  # noqa: PTH103
    os.makedirs(place + "/dev", exist_ok=True)  # noqa: PTH103
    for folder in ("/tmp", "/dev/shm"):  # the C library keeps semaphores in the second
        with contextlib.suppress(FileExistsError):  # when the interpreter itself lies there
            os.symlink(SCRATCH, place + folder)  # noqa: PTH211
    proc = True
    try:
        mount_proc(place + "/proc")
    except OSError as error:
        # In a container part of /proc may be hidden; the kernel then shows no other one either.
        if error.errno not in (errno.EPERM, errno.EACCES):
            raise
        proc = False
    kernel.enter_root(place)
    kernel.mount(None, "/", None, kernel.REMOUNT | kernel.BIND | kernel.RDONLY | _PLAIN)
    return proc


def mount_proc(folder: str = "/proc", flags: int = 0) -> None:
    """Show the processes of this PID namespace."""
    kernel.mount("proc", folder, "proc", _PLAIN | kernel.NOEXEC | flags)


def private(scratch_mb: int, *, uid: int | None, proc: bool) -> None:
    """Give this process a scratch folder and a /proc of its own, and go there.

    Raises:
        OSError: A mount was refused.
    """
    kernel.unshare(kernel.NEWNS)
    owner = "" if uid is None else f",uid={uid},gid={uid}"
    if scratch_mb:
        options = f"size={scratch_mb}m,nr_inodes=16384,mode=700{owner}"
        kernel.mount("tmpfs", SCRATCH, "tmpfs", _PLAIN | kernel.NOEXEC, options)
    if proc:
        # Without a user of its own the session still has to enter a user namespace by /proc/self.
        mount_proc(flags=0 if uid is None else kernel.RDONLY)
    os.chdir(SCRATCH)


def _show(place: str, path: str) -> None:
    """Bind one path below ``place``, read-only; a link stays a link."""
    target = place + path
    if os.path.islink(path):  # noqa: PTH114
        os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
        with contextlib.suppress(FileExistsError):
            os.symlink(os.readlink(path), target)  # noqa: PTH115, PTH211
        return
    if os.path.isdir(path):  # noqa: PTH112
        os.makedirs(target, exist_ok=True)  # noqa: PTH103
    elif os.path.exists(path):  # noqa: PTH110
        _file(target)
    else:
        return
    # With what is mounted below: in a user namespace the kernel refuses to bind one without it.
    kernel.mount(path, target, None, kernel.BIND | kernel.REC)
    try:
        kernel.set_read_only(target)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        for mount in _mounts_below(target):
            kept = os.statvfs(mount).f_flag & (_PLAIN | kernel.NOEXEC)
            flags = kernel.REMOUNT | kernel.BIND | kernel.RDONLY | _PLAIN | kept
            kernel.mount(None, mount, None, flags)


def _outermost(paths: list[str]) -> list[str]:
    """The paths in order, without those that lie below another or are the root itself."""
    kept: list[str] = []
    for path in sorted({os.path.abspath(path) for path in paths}):  # noqa: PTH100
        inside = any(path.startswith(f"{other}/") for other in kept)
        if path != "/" and not inside:
            kept.append(path)
    return kept


def _mounts_below(folder: str) -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:  # noqa: PTH123
        found = [line.split()[4].encode().decode("unicode_escape") for line in file]
    return [path for path in found if path == folder or path.startswith(f"{folder}/")]


def _file(path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123
        file.write(text)
