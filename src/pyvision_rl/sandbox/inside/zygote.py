"""The zygote: preloads numpy, PIL and matplotlib once, then forks one child per session.

In: messages of the driver on a SEQPACKET socket (one JSON object each, file descriptors attached).
Out: what walls can be put up here, then ``ready``, ``spawned`` with a pidfd per child, and ``exit``
when a child was reaped. Two processes: a bare supervisor in the driver's namespaces, and the
zygote, which may be the first process of its own PID namespace and dies with the supervisor.

A ``group`` message forks a zygote within the zygote: it takes images whose pixels lie in a file,
binds them once, and serves a control socket of its own. Model code runs in neither.
Single-threaded, or a fork would copy locks that nobody holds. Imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
from typing import Any, NoReturn

from . import confine, kernel, namespaces, rlimits

PRELOAD = (
    "base64 collections datetime functools io itertools json math operator random re statistics "
    "string textwrap time typing numpy numpy.random numpy.linalg numpy.fft matplotlib.pyplot "
    "matplotlib.patches PIL.Image PIL.ImageChops PIL.ImageColor PIL.ImageDraw PIL.ImageEnhance "
    "PIL.ImageFilter PIL.ImageFont PIL.ImageOps PIL.ImageStat PIL.PngImagePlugin "
    "PIL.JpegImagePlugin"
)
EXTRAS = {
    "scipy": "scipy.ndimage scipy.signal",
    "skimage": "skimage.filters skimage.measure skimage.color skimage.transform",
}
"""What is loaded of a library that is named to be preloaded, where that is not its name."""
LIBRARIES = ("os", "numpy", "PIL.Image", "matplotlib")
"""Whether a session's user can read these decides whether it gets a user of its own."""
END_S = 3
"""For a zygote that was asked to end its children and itself."""
FAILED = 70
"""Exit status of a child that our own code let down."""


class Zygote:
    """Forks children, reaps them, and ends what they leave behind."""

    def __init__(self, control: socket.socket, jail: confine.Jail) -> None:
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
            _send(self._control, {"op": "ready", "users": self._jail.users})
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
        if message["op"] == "group":
            pid = os.fork()
            if pid == 0:
                self._become_group(fds, message["images"])
        else:
            pid = self._jail.fork()
            if pid == 0:
                self._become_child(fds[0], number, message["scratch_mb"])
        for fd in fds:
            os.close(fd)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid, number
        self._poll.register(pidfd, select.POLLIN)
        _send(self._control, {"op": "spawned", "id": number}, [pidfd])
        return True

    def _become_child(self, fd: int, number: int, scratch_mb: int) -> NoReturn:
        status = FAILED
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            fd = self._jail.confine(number, fd, self._pid, scratch_mb)
            gc.enable()
            INTERPRETER.serve(socket.socket(fileno=fd))
            status = 0
        except Exception as error:  # noqa: BLE001 - the driver is told; then the child is gone
            with contextlib.suppress(OSError):
                why = f"{type(error).__name__}: {error}"[:2000]
                _send(self._control, {"op": "fault", "id": number, "why": why})
        finally:
            os._exit(status)

    def _become_group(self, fds: list[int], images: list[list[Any]]) -> NoReturn:
        """Bind the images, and fork children that hold them."""
        status = FAILED
        try:
            kernel.prctl(kernel.PDEATHSIG, signal.SIGKILL)
            self._control.close()
            for fd in self._children:
                os.close(fd)
            INTERPRETER.bind(images, memoryview(b""), fds[1:])
            gc.freeze()
            Zygote(socket.socket(fileno=fds[0]), self._jail).serve()
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
            _send(self._control, {"op": "exit", "id": number, "code": code})

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


def main(fd: int) -> None:
    """Serve the driver at the other end of ``fd``: say what can be done, then do what it picks."""
    control = socket.socket(fileno=fd)
    hello = json.loads(control.recv(2**18))
    kernel.prctl(kernel.PDEATHSIG, signal.SIGTERM)
    if os.getppid() != hello["driver"]:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Set before anything is tried: seccomp and Landlock need it, and nothing here may gain rights.
    kernel.prctl(kernel.NO_NEW_PRIVS, 1)
    place = os.getcwd()  # noqa: PTH109
    _send(control, {"op": "walls", "walls": confine.probe(place, hello["paths"])})
    answer = control.recv(4096)
    if not answer:
        return
    plan = confine.Plan(json.loads(answer)["level"], place, hello["paths"])
    try:
        if plan.namespaced:
            namespaces.leave()
        pid = os.fork()
    except OSError as error:
        _send(control, {"op": "failed", "why": str(error)})
        return
    if pid == 0:
        _zygote(control, hello, plan)
    _send(control, {"op": "zygote", "pid": pid})
    control.close()
    _supervise(pid, place)


def _supervise(pid: int, place: str) -> None:
    """Wait for the zygote, and take it down with this process."""

    def end(number: int, _: object) -> None:
        os.kill(pid, signal.SIGTERM if number == signal.SIGTERM else signal.SIGKILL)
        signal.alarm(END_S)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGALRM, end)
    os.waitpid(pid, 0)
    shutil.rmtree(place, ignore_errors=True)


def _zygote(control: socket.socket, hello: dict[str, Any], plan: confine.Plan) -> NoReturn:
    """Load, warm and confine what the children share, then serve."""
    status = FAILED
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        kernel.prctl(kernel.PDEATHSIG, signal.SIGKILL)
        kernel.prctl(kernel.SUBREAPER, 1)
        if plan.namespaced:
            namespaces.enter()
        sys.path[:0] = hello["path"]
        # An installed copy of this package may lie there; model code has no business with it.
        sys.modules["pyvision_rl"] = None  # type: ignore[assignment]
        null = os.open(os.devnull, os.O_RDWR)
        _prepare(hello["figure"], hello["preload"])
        files = [sys.modules[name].__file__ or "" for name in LIBRARIES]
        zygote = Zygote(control, confine.Jail(plan, files))
        os.dup2(null, 2)
        os.close(null)
        gc.collect()
        gc.disable()
        gc.freeze()
        zygote.serve()
        status = 0
    except Exception as error:  # noqa: BLE001 - whatever an import raises, the driver names it
        with contextlib.suppress(OSError):
            why = f"{type(error).__name__}: {error}"[:2000]
            _send(control, {"op": "failed", "why": why})
    finally:
        os._exit(status)


def _prepare(figure: dict[str, Any], preload: list[str]) -> None:
    """Load and warm what the children share, and set the limits they inherit."""
    global INTERPRETER
    extras = [EXTRAS.get(name, name) for name in preload]
    for name in " ".join([PRELOAD, *extras]).split():
        importlib.import_module(name)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)
    from . import interpreter

    interpreter.install(figure)
    INTERPRETER = interpreter.Interpreter()
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - a count
    if threads != 1:
        raise RuntimeError(f"the zygote has {threads} threads; forking it would not be safe")
    rlimits.inherit()
    # When memory runs out, the kernel ends sessions before the run.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _remove(folder: str) -> None:
    try:
        os.rmdir(folder)  # noqa: PTH106 - once per episode: no Path
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)


def _send(control: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    socket.send_fds(control, [json.dumps(message).encode()], fds or [])


INTERPRETER: Any = None
"""Made before the fork, so that children do not each make one."""
