"""The driver's handles on the zygote process and on its children.

In: rcParams and a scratch folder. Out: a ``ZygoteProcess`` whose ``spawn`` gives a ``Child`` with
a socket to talk through and a pidfd to signal by, so that no signal can reach a recycled pid. Knows
nothing of cells, limits or images; a zygote that died is reported and never restarted here.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from pyvision_rl.errors import ConfigError, SandboxError

START_S = 60.0
"""For the zygote to load its libraries, and for a child to answer for the first time."""
END_S = 5.0
"""For a killed process to be reaped."""

_BOOT = (
    "import sys,types;p=types.ModuleType('sandbox_child');p.__path__=[sys.argv[2]];"
    "sys.modules['sandbox_child']=p;from sandbox_child.zygote import main;main(int(sys.argv[1]))"
)
"""Loads the child's files under a name of their own: this package is not importable there."""

PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
"""The only variables of the driver's environment that model code can see."""


class Child:
    """One forked interpreter, as the driver sees it."""

    def __init__(self, number: int, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.sock = sock
        self.started: asyncio.Future[bool] = loop.create_future()
        self.exited: asyncio.Future[int | None] = loop.create_future()
        """Exit status, minus the signal for a signal, or None when the zygote died with it."""
        self.bound: frozenset[str] = frozenset()
        """Names of images that it holds from the start."""
        self._pidfd = -1
        self._ended = False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the child is gone."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def pause(self) -> None:
        """Stop the child, threads and all, until ``resume``."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a stopped child go on."""
        self.signal(signal.SIGCONT)

    async def end(self) -> None:
        """Kill the child and free its descriptors. Idempotent."""
        if self._ended:
            return
        self._ended = True
        try:
            self.signal(signal.SIGKILL)
            if self._pidfd >= 0:
                await asyncio.wait({self.exited}, timeout=END_S)
        finally:
            self.sock.close()
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1

    def born(self, pidfd: int) -> None:
        """Take the pidfd; a child that nobody wants any more is killed at once."""
        self._pidfd = pidfd
        if self._ended:
            self.signal(signal.SIGKILL)
            os.close(pidfd)
            self._pidfd = -1
        elif not self.started.done():
            self.started.set_result(True)

    def gone(self, code: int | None) -> None:
        """Note the end of the process."""
        if not self.started.done():
            self.started.set_result(False)
        if not self.exited.done():
            self.exited.set_result(code)


class ZygoteProcess:
    """A running zygote. ``start`` it; it belongs to the event loop that started it."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._children: dict[int, Child] = {}
        self._numbers = itertools.count(1)
        self._first: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self.lost = False
        """The process is gone; so are its children."""
        self._loop.add_reader(control, self._listen)

    @property
    def pid(self) -> int:
        """Process id of the zygote."""
        return self._process.pid

    @classmethod
    async def start(cls, figure: dict[str, Any], scratch: Path) -> ZygoteProcess:
        """Return a zygote that is ready to fork.

        Args:
            figure: rcParams that every child starts with.
            scratch: Its working directory; each child makes a folder of its own there.

        Raises:
            SandboxError: The process did not get ready; the message ends with what it said.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, tempfile.TemporaryFile() as said:
            try:
                process = _launch(theirs.fileno(), scratch, said)
                hello = {"figure": figure, "path": _library_path(), "driver": os.getpid()}
                ours.send(json.dumps(hello).encode())
            except OSError as error:
                ours.close()
                raise SandboxError(f"the sandbox zygote did not start: {error}") from error
            except ConfigError:
                ours.close()
                raise
            theirs.close()
            ours.setblocking(False)
            zygote = cls(process, ours)
            try:
                first = await asyncio.wait_for(asyncio.shield(zygote._first), START_S)
                why = first.get("why", "")
            except TimeoutError:
                why = f"not ready after {START_S:g} s"
            except BaseException:
                zygote._lose()
                raise
            if not why:
                return zygote
            zygote._lose()
            said.seek(0)
            end = said.read()[-2000:].decode("utf-8", "replace")
            raise SandboxError(f"the sandbox zygote did not start: {why}\n{end}".rstrip())

    async def spawn(self) -> Child:
        """Return a freshly forked child.

        Raises:
            SandboxError: The zygote died or does not answer.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        child = Child(next(self._numbers), ours)
        self._children[child.number] = child
        try:
            with theirs:
                message = json.dumps({"op": "spawn", "id": child.number}).encode()
                socket.send_fds(self._control, [message], [theirs.fileno()])
            alive = await asyncio.wait_for(asyncio.shield(child.started), START_S)
        except (OSError, TimeoutError) as error:
            await child.end()
            self._lose()
            raise SandboxError(f"the sandbox zygote does not answer: {error!r}") from error
        except BaseException:
            await child.end()
            raise
        if not alive:
            await child.end()
            raise SandboxError("the sandbox zygote died while it started a session")
        return child

    async def stop(self) -> None:
        """End the zygote and all its children. Idempotent."""
        if self.lost:
            return
        self._control.shutdown(socket.SHUT_WR)  # the zygote then ends its children and itself
        deadline = self._loop.time() + END_S
        while self._process.poll() is None and self._loop.time() < deadline:
            await asyncio.sleep(0.002)
        self._lose()

    def _listen(self) -> None:
        """Take every message that has come."""
        try:
            while not self.lost:
                data, fds, _, _ = socket.recv_fds(
                    self._control, 4096, 1, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
                )
                if not data:
                    self._lose()
                    return
                self._take(json.loads(data), fds)
        except BlockingIOError:
            return
        except (OSError, ValueError, LookupError):
            self._lose()

    def _take(self, message: dict[str, Any], fds: list[int]) -> None:
        if message["op"] == "spawned":
            child = self._children.get(message["id"])
            if child is None:
                os.close(fds[0])
            else:
                child.born(fds[0])
        elif message["op"] == "exit":
            child = self._children.pop(message["id"], None)
            if child is not None:
                child.gone(int(message["code"]))
        elif not self._first.done():
            self._first.set_result(message)

    def _lose(self) -> None:
        """Kill what is left of the process, and tell everyone who waits for it."""
        if self.lost:
            return
        self.lost = True
        self._loop.remove_reader(self._control)
        self._control.close()
        self._process.kill()
        self._process.wait()
        if not self._first.done():
            self._first.set_result({"why": "it ended by itself"})
        for child in self._children.values():
            child.gone(None)
        self._children.clear()


def _launch(fd: int, scratch: Path, said: IO[bytes]) -> subprocess.Popen[bytes]:
    """The zygote's process: a fresh interpreter with nothing of ours but ``fd``."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    fonts = cache / "pyvision-rl" / "matplotlib"
    try:
        fonts.mkdir(parents=True, exist_ok=True)
    except OSError:
        fonts = scratch  # then the font list is made anew by each zygote
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment |= {
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "MPLCONFIGDIR": str(fonts),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    here = str(Path(__file__).parent / "inside")
    return subprocess.Popen(
        # -s -S -P: neither the user's site, nor site, nor the working directory. -I would also
        # ignore PYTHONHASHSEED; the environment is our own, so it has nothing else to ignore.
        [sys.executable, "-s", "-S", "-P", "-B", "-c", _BOOT, str(fd), here],
        cwd=scratch,
        env=environment,
        pass_fds=(fd,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=said,
        start_new_session=True,
    )


def _library_path() -> list[str]:
    """The folders of ``sys.path`` that hold installed packages, in order.

    Raises:
        ConfigError: A package that the zygote preloads is not installed.
    """
    needed = set()
    for name in ("numpy", "PIL", "matplotlib"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ConfigError(f'sandbox.name = "zygote" needs {name}, which is not installed')
        needed.add(str(Path(spec.origin).parent.parent))
    installed = ("site-packages", "dist-packages")
    on_path = [path for path in sys.path if path in needed or Path(path).name in installed]
    return [*on_path, *sorted(needed.difference(on_path))]
