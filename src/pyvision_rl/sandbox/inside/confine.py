"""The walls around a session: what each level is made of, tried in a probe and put up in order.

    FULL     namespaces + Landlock + seccomp + resource limits
    NS       namespaces            + seccomp + resource limits
    LL                    Landlock + seccomp + resource limits; no scratch folder, nothing to write
    UNSAFE                                     resource limits

In: a level and the paths the interpreter needs. Out: a ``Jail``, made once by the zygote, whose
``confine`` is the last thing a forked session does before it takes its first request. A wall that
cannot be put up is an ``OSError``: the session then does not start.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass

from . import kernel, landlock, namespaces, rlimits, seccomp

FULL, NS, LL, UNSAFE = "full", "ns", "ll", "unsafe"
USERS = 60_000
"""Sessions have the users from the first one on, in turn."""
_FIRST_USER = 100_000
_PLACEHOLDER = 0x7EADBEEF
"""Stands for the session's process id in the filter, which is compiled before the fork."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the driver asks for."""

    level: str
    place: str
    """An empty folder to build the root on; at level UNSAFE, where sessions have their folders."""
    paths: list[str]
    """What the interpreter needs to read."""

    @property
    def namespaced(self) -> bool:
        """Whether sessions live in namespaces."""
        return self.level in (FULL, NS)

    @property
    def landlocked(self) -> bool:
        """Whether Landlock binds sessions."""
        return self.level in (FULL, LL)


class Jail:
    """The walls of one zygote, ready to be put around its sessions."""

    def __init__(self, plan: Plan, readable: list[str]) -> None:
        """Enter the root, and prepare what sessions share.

        Args:
            plan: The level and its paths.
            readable: Files that a session must be able to open; where only root can, sessions
                keep the right to read any file that the other walls let them see.

        Raises:
            OSError: A wall cannot be put up.
        """
        self.plan = plan
        self._proc = not plan.namespaced
        self._pid_namespace = -1
        if plan.namespaced:
            self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            self._proc = namespaces.build_root(plan.place, plan.paths)
        if plan.level != UNSAFE:
            kernel.drop_bounding_set()
        self.users = _users() if plan.level != UNSAFE else 0
        """The first user id of sessions; 0 where they cannot have users of their own."""
        self._reads = bool(self.users) and not _readable(readable, self.users)
        self._count_alone = plan.namespaced and not self.users and self._proc and os.geteuid() != 0
        self._tasks = rlimits.SESSION_TASKS
        if not self.users and not self._count_alone:
            self._tasks = rlimits.EXTRA_TASKS + (0 if plan.namespaced else rlimits.user_tasks())
        self._ruleset = _ruleset(plan) if plan.landlocked else -1
        self._filters = {False: b"", True: b""}
        """For sessions without videos, and with."""
        if plan.level != UNSAFE:
            own = None if plan.namespaced else _PLACEHOLDER
            for videos in self._filters:
                self._filters[videos] = seccomp.program(
                    kernel.MACHINE, writes=plan.namespaced, lent=videos, own_pid=own
                )

    def fork(self) -> int:
        """Fork a process that will be a session: the first one of a PID namespace, if it has one.

        Raises:
            RuntimeError: This process has threads, whose locks the child would inherit.
        """
        if self._proc and os.stat("/proc/self/task").st_nlink != 3:  # noqa: PTH116
            raise RuntimeError("the zygote has more than one thread; forking is not safe")
        if self._pid_namespace < 0:
            return os.fork()
        kernel.unshare(kernel.NEWPID)
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid:
                kernel.setns(self._pid_namespace, kernel.NEWPID)
        return pid

    def confine(
        self, number: int, sock: int, parent: int, scratch_mb: int, videos: bool = False
    ) -> int:
        """Put up every wall around this process; returns where the socket lies then.

        Args:
            number: Tells sessions apart: names its folder, or picks its user.
            sock: The socket to keep; every other descriptor beyond stderr is closed.
            parent: The zygote's process id.
            scratch_mb: Bytes of the scratch folder in MB; 0 for none.
            videos: Whether it will be handed files of the user, open for reading; it may do no
                more with them, even where it has the user's rights.

        Raises:
            OSError: A wall cannot be put up; the process must end.
        """
        plan = self.plan
        os.setsid()
        user = self.users + number % USERS if self.users else None
        home = self._settle(number, user, scratch_mb)
        if videos and plan.namespaced:  # it tells where the user's files lie, and opens them again
            namespaces.hide_proc()
        os.environ["HOME"] = os.environ["TMPDIR"] = home
        rlimits.confine(self._tasks, scratch_mb)
        if user is not None:
            kernel.prctl(kernel.KEEPCAPS, self._reads)
            _become(user)
        if plan.level != UNSAFE:
            kernel.drop_capabilities(keep_reading=self._reads)
        # Both are undone by a change of user.
        kernel.prctl(kernel.DUMPABLE, 1)
        kernel.prctl(kernel.PDEATHSIG, 9)
        if not plan.namespaced and os.getppid() != parent:
            raise ProcessLookupError("the zygote died")
        # Flags belong to the open file: one shared with other sessions would be a way to talk.
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        if plan.landlocked:
            landlock.restrict(self._ruleset)
        os.dup2(sock, 3)
        os.closerange(4, 1 << 16)
        if code := self._filters[videos]:
            own = struct.pack("I", os.getpid())
            seccomp.install(code.replace(struct.pack("I", _PLACEHOLDER), own))
        return 3

    def _settle(self, number: int, user: int | None, scratch_mb: int) -> str:
        """Go to the session's folder and return its path; put up the namespaces, if any."""
        if self.plan.namespaced:
            namespaces.private(scratch_mb, uid=user, proc=self._proc)
            if self._count_alone:
                namespaces.count_alone()
            return namespaces.SCRATCH
        if self.plan.level == LL:
            os.chdir("/")
            return "/"
        return _own_folder(number)


def probe(place: str, paths: list[str]) -> dict[str, str]:
    """Return for each wall why it cannot be put up here; an empty text if it can."""
    return {
        "namespaces": _tried(lambda: _try_namespaces(place, paths)),
        "landlock": _tried(_try_landlock),
        "seccomp": seccomp.supported() or _tried(_try_seccomp),
    }


def _ruleset(plan: Plan) -> int:
    if plan.namespaced:
        above = os.path.dirname(namespaces.SCRATCH)  # noqa: PTH120
        write, read, files = [above], ["/"], namespaces.DEVICES
    else:
        write, read, files = [], plan.paths, namespaces.DEVICES
    return landlock.ruleset(read=read, write=write, files=files, network=True)


def _users() -> int:
    """Return the first user id for sessions, or 0 where this process cannot change its user."""
    if os.geteuid() != 0:
        return 0
    with open("/proc/self/uid_map", encoding="ascii") as file:  # noqa: PTH123
        ranges = [list(map(int, line.split())) for line in file]
    last = max(start + length for start, _, length in ranges)
    if last >= _FIRST_USER + USERS:
        return _FIRST_USER
    return 0  # in a container with few users: not worth the sharing


def _readable(files: list[str], user: int) -> bool:
    """Whether a session of that user can open the files."""

    def look() -> None:
        _become(user)
        for path in files:
            os.close(os.open(path, os.O_RDONLY))

    return not _tried(look)


def _become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _own_folder(number: int) -> str:
    os.mkdir(str(number), 0o700)  # noqa: PTH102 - once per episode: no Path
    os.chdir(str(number))
    return os.getcwd()  # noqa: PTH109


def _try_namespaces(place: str, paths: list[str]) -> None:
    namespaces.leave()

    def zygote() -> None:
        namespaces.enter()
        own = os.open("/proc/self/ns/pid", os.O_RDONLY)
        proc = namespaces.build_root(place, paths)
        kernel.unshare(kernel.NEWPID)
        why = _tried(lambda: namespaces.private(1, uid=None, proc=proc))
        if why:
            raise OSError(why)
        kernel.setns(own, kernel.NEWPID)

    why = _tried(zygote)
    if why:
        raise OSError(why)


def _try_landlock() -> None:
    kernel.prctl(kernel.NO_NEW_PRIVS, 1)
    landlock.restrict(landlock.ruleset(read=["/usr"], network=True))
    with contextlib.suppress(PermissionError):
        os.listdir("/proc")  # noqa: PTH208
        raise OSError("Landlock says that it is enforced, and is not")


def _try_seccomp() -> None:
    kernel.prctl(kernel.NO_NEW_PRIVS, 1)
    seccomp.install(seccomp.program(kernel.MACHINE))
    with contextlib.suppress(PermissionError):
        os.close(os.memfd_create("probe"))
        raise OSError("seccomp says that it is enforced, and is not")


def _tried(work: Callable[[], None]) -> str:
    """Do the work in a forked process; return what it raised, or an empty text."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        why = "it ended by itself"
        try:
            work()
            why = ""
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent is told
            why = str(error) or type(error).__name__
        finally:
            os.write(writing, why.encode()[:2000] or b"\0")
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:  # noqa: PTH123
        said = file.read()
    os.waitpid(pid, 0)
    return said.strip(b"\0").decode("utf-8", "replace") if said else "a process ended by itself"
