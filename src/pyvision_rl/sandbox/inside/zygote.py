"""The zygote process: preloads numpy, PIL and matplotlib once, then forks one child per episode.

In: messages of the driver on a SEQPACKET socket (one JSON object each, file descriptors attached).
Out: ``ready``, then ``spawned`` with a pidfd per child, and ``exit`` when a child was reaped.
Single-threaded, or a fork would copy locks that nobody holds. Loaded by the child side only;
imports nothing of ours. What is not isolated is said in ``pool``.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
from typing import Any, NoReturn

PRELOAD = (
    "base64 collections datetime functools io itertools json math operator random re statistics "
    "string textwrap time typing numpy numpy.random numpy.linalg numpy.fft matplotlib.pyplot "
    "matplotlib.patches PIL.Image PIL.ImageChops PIL.ImageColor PIL.ImageDraw PIL.ImageEnhance "
    "PIL.ImageFilter PIL.ImageFont PIL.ImageOps PIL.ImageStat PIL.PngImagePlugin "
    "PIL.JpegImagePlugin"
)
FILE_BYTES = 64 * 2**20
OPEN_FILES = 256
EXTRA_TASKS = 1024
"""Processes and threads the user may have beyond those at the zygote's start."""
FAILED = 70
"""Exit status of a child that our own code let down."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38


class Zygote:
    """Forks children, reaps them, and ends what they leave behind."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, int] = {}
        """pid -> id of the driver's."""
        self._pid = os.getpid()
        self._tasks = f"/proc/self/task/{self._pid}/children"
        self._wake, self._waker = socket.socketpair()
        for end in (self._wake, self._waker):
            end.setblocking(False)

    def serve(self) -> None:
        """Answer the driver until it closes the control socket, then end every child."""
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        try:
            self._send({"op": "ready"})
            while True:
                for fd, _ in poll.poll():
                    if fd == self._wake.fileno():
                        self._drain()
                        self._reap()
                    elif not self._obey():
                        return
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            for pid in self._children:
                os.kill(pid, signal.SIGKILL)  # it may not lead its group yet
                _kill_group(pid)
            self._reap(block=True)
            shutil.rmtree(os.getcwd(), ignore_errors=True)  # noqa: PTH109 - as a name

    def _obey(self) -> bool:
        """Carry out one message; False when the driver is gone."""
        data, fds, _, _ = socket.recv_fds(self._control, 4096, 1, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return False
        child = json.loads(data)["id"]
        pid = os.fork()
        if pid == 0:
            self._become_child(fds[0], str(child))
        self._children[pid] = child
        os.close(fds[0])
        pidfd = os.pidfd_open(pid)
        self._send({"op": "spawned", "id": child}, [pidfd])
        os.close(pidfd)
        return True

    def _become_child(self, fd: int, folder: str) -> NoReturn:
        status = FAILED
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._control.close()
            self._wake.close()
            self._waker.close()
            os.setsid()
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == self._pid:
                os.mkdir(folder, 0o700)  # noqa: PTH102 - once per episode: no Path
                os.chdir(folder)
                os.environ["HOME"] = os.environ["TMPDIR"] = os.getcwd()  # noqa: PTH109
                gc.enable()
                INTERPRETER.serve(socket.socket(fileno=fd))
                status = 0
        finally:
            os._exit(status)

    def _reap(self, *, block: bool = False) -> None:
        """Collect the dead, end their process groups and whatever left those, tell the driver."""
        flags = os.WEXITED | (0 if block else os.WNOHANG)
        with contextlib.suppress(ChildProcessError):
            # WNOWAIT keeps the pid taken while its group is killed.
            while found := os.waitid(os.P_ALL, 0, flags | os.WNOWAIT):
                pid = found.si_pid
                child = self._children.pop(pid, None)
                if child is not None:
                    _kill_group(pid)
                _, status = os.waitpid(pid, 0)
                self._end_orphans()
                if child is not None:
                    _remove(str(child))
                    code = os.waitstatus_to_exitcode(status)
                    with contextlib.suppress(OSError):
                        self._send({"op": "exit", "id": child, "code": code})

    def _end_orphans(self) -> None:
        """Kill processes that came to us (a subreaper) because the child that made them died."""
        with contextlib.suppress(OSError), open(self._tasks, "rb") as file:  # noqa: PTH123
            for word in file.read().split():
                if int(word) not in self._children:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(word), signal.SIGKILL)

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake.recv(4096):
                pass

    def _send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        _send(self._control, message, fds)


def main(fd: int) -> None:
    """Become a zygote that serves the driver at the other end of ``fd``."""
    control = socket.socket(fileno=fd)
    hello = json.loads(control.recv(2**18))
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != hello["driver"]:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    sys.path[:0] = hello["path"]
    # An installed copy of this package may lie on that path; model code has no business with it.
    sys.modules["pyvision_rl"] = None  # type: ignore[assignment]
    try:
        _prepare(hello["figure"])
    except Exception as error:  # noqa: BLE001 - whatever an import raises, the driver names it
        _send(control, {"op": "failed", "why": f"{type(error).__name__}: {error}"[:2000]})
        return
    zygote = Zygote(control)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 2)
    os.close(null)
    gc.collect()
    gc.disable()
    gc.freeze()
    zygote.serve()


def _prepare(figure: dict[str, Any]) -> None:
    """Load and warm what the children share, and set the limits they inherit."""
    global INTERPRETER
    for name in PRELOAD.split():
        importlib.import_module(name)
    from . import interpreter

    interpreter.install(figure)
    INTERPRETER = interpreter.Interpreter()
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - a count
    if threads != 1:
        raise RuntimeError(f"the zygote has {threads} threads; forking it would not be safe")
    tasks = _user_tasks() + EXTRA_TASKS
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, tasks),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def _user_tasks() -> int:
    """How many processes and threads this user has now."""
    count = 0
    for name in os.listdir("/proc"):  # noqa: PTH208 - names only
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == os.getuid():  # noqa: PTH116
                    count += len(os.listdir(f"/proc/{name}/task"))  # noqa: PTH208
    return count


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _remove(folder: str) -> None:
    try:
        os.rmdir(folder)  # noqa: PTH106 - once per episode: no Path
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)


def _prctl(option: int, value: int) -> None:
    _LIBC.prctl(option, value, 0, 0, 0)


def _send(control: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    socket.send_fds(control, [json.dumps(message).encode()], fds or [])


_LIBC = ctypes.CDLL(None)
INTERPRETER: Any = None
"""Made before the fork, so that children do not each make one."""
