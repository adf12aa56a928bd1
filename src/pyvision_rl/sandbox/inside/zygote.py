"""The zygote: forks one child per session from a process that has everything loaded.

In: messages of the driver on a SEQPACKET socket (one JSON object each, file descriptors attached).
Out: ``spawned`` with a pidfd per child, and ``exit`` when a child was reaped. A ``group`` message
forks a zygote within the zygote: it loads more libraries, or takes images whose pixels lie in files
and binds them once, and serves a control socket of its own. Model code runs in neither.

Single-threaded, or a fork would copy locks that nobody holds. Imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
from typing import Any, NoReturn

from . import confine, kernel
from .preload import load

FAILED = 70
"""Exit status of a child that our own code let down."""


class Zygote:
    """Forks children, reaps them, and ends what they leave behind."""

    def __init__(self, control: socket.socket, jail: confine.Jail, interpreter: Any) -> None:
        self._interpreter = interpreter
        """Made before the fork, so that children do not each make one."""
        self._control = control
        self._jail = jail
        self._children: dict[int, tuple[int, int]] = {}
        """pidfd -> process id, id of the driver's."""
        self._pid = os.getpid()
        self._poll = select.poll()

    def serve(self) -> None:
        """Answer the driver until it closes the control socket, then end every child."""
        self._poll.register(self._control, select.POLLIN)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            send(self._control, {"op": "ready", "users": self._jail.users})
            while True:
                # Pidfds, and no SIGCHLD: that one comes for each stop of a child too.
                for fd, _ in self._poll.poll():
                    if fd in self._children:
                        self._reap(fd)
                    elif not self._obey():
                        return
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            for pid, _ in self._children.values():
                os.kill(pid, signal.SIGKILL)  # it may not lead its group yet
            for fd in tuple(self._children):
                self._reap(fd)

    def _obey(self) -> bool:
        """Carry out one message; False when the driver is gone."""
        data, fds, _, _ = socket.recv_fds(self._control, 2**16, 64, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return False
        message = json.loads(data)
        number = message["id"]
        try:
            pid = os.fork() if message["op"] == "group" else self._jail.fork()
        except (OSError, RuntimeError) as error:  # of this child only: the others live on
            for fd in fds:
                os.close(fd)
            send(self._control, {"op": "fault", "id": number, "why": str(error)})
            send(self._control, {"op": "exit", "id": number, "code": FAILED})
            return True
        if pid == 0:
            if message["op"] == "group":
                self._become_group(fds, message["preload"], message["images"])
            self._become_child(fds[0], number, message["scratch_mb"], message["videos"])
        for fd in fds:
            os.close(fd)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid, number
        self._poll.register(pidfd, select.POLLIN)
        send(self._control, {"op": "spawned", "id": number}, [pidfd])
        return True

    def _become_child(self, fd: int, number: int, scratch_mb: int, videos: bool) -> NoReturn:
        status = FAILED
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            fd = self._jail.confine(number, fd, self._pid, scratch_mb, videos)
            self._control.detach()  # closed, and its number may be the session's socket now
            gc.enable()
            self._interpreter.serve(socket.socket(fileno=fd))
            status = 0
        except Exception as error:  # noqa: BLE001 - the driver is told; then the child is gone
            with contextlib.suppress(OSError):
                why = f"{type(error).__name__}: {error}"[:2000]
                send(self._control, {"op": "fault", "id": number, "why": why})
        finally:
            os._exit(status)

    def _become_group(
        self, fds: list[int], preload: list[str], images: list[list[Any]]
    ) -> NoReturn:
        """Load libraries, bind images, and fork children that have them."""
        status = FAILED
        try:
            kernel.prctl(kernel.PDEATHSIG, signal.SIGKILL)
            self._control.close()
            for fd in self._children:
                os.close(fd)
            load(preload)
            self._interpreter.measure()
            self._interpreter.bind(images, memoryview(b""), fds[1:])
            gc.freeze()
            control = socket.socket(fileno=fds[0])
            Zygote(control, self._jail, self._interpreter).serve()
            status = 0
        finally:
            os._exit(status)

    def _reap(self, pidfd: int) -> None:
        """Collect a dead child, end what it leaves behind, tell the driver."""
        pid, number = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        contained = self._jail.plan.namespaced  # then what it started is dead already
        if not contained:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            _kill_group(pid)  # its id is still taken
        _, status = os.waitpid(pid, 0)
        if not contained:
            self._end_orphans()
            if self._jail.plan.level == confine.UNSAFE:
                _remove(str(number))
        code = os.waitstatus_to_exitcode(status)
        with contextlib.suppress(OSError):
            send(self._control, {"op": "exit", "id": number, "code": code})

    def _end_orphans(self) -> None:
        """Kill processes that came to us (a subreaper) because the child that made them died."""
        ours = {pid for pid, _ in self._children.values()}
        found = f"/proc/self/task/{self._pid}/children"
        with contextlib.suppress(OSError), open(found, "rb") as file:  # noqa: PTH123
            for pid in map(int, file.read().split()):
                if pid not in ours:
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _remove(folder: str) -> None:
    try:
        os.rmdir(folder)  # noqa: PTH106 - once per episode: no Path
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)


def send(control: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    """Send one message."""
    socket.send_fds(control, [json.dumps(message).encode()], fds or [])
