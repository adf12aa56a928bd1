"""The driver's handles on the zygote, on its groups and on its children.

In: the control socket of a process that forks. Out: a ``Child`` with a socket to talk through and a
pidfd to signal by, so that no signal can reach a recycled pid. Knows nothing of cells, limits or
how the zygote came to be (``launch``); one that died is reported and never restarted here.

Descriptors pass here for three things only: a child's socket, its pidfd and the pixels of a group.
A zygote on another host would need a stream for each: messages carry ids, so a child's frames, a
kill and raw pixels can travel on a connection of their own; nothing else here knows of one host.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pyvision_rl.errors import SandboxError
from pyvision_rl.types import Media

START_S = 60.0
"""For the zygote to load its libraries, and for a child to answer for the first time."""
END_S = 5.0
"""For a killed process to be reaped."""
MESSAGE_BYTES = 2**16
_FULL = (errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS)
"""Errors of a control socket whose messages have to be read first."""
_AGAIN_S = 0.01


class Child:
    """One forked process, as the driver sees it."""

    def __init__(self, number: int, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.sock = sock
        self.started: asyncio.Future[bool] = loop.create_future()
        self.exited: asyncio.Future[int | None] = loop.create_future()
        """Exit status, minus the signal for a signal, or None when the zygote died with it."""
        self.bound: frozenset[str] = frozenset()
        """Names of images that it holds from the start."""
        self.fault = ""
        """What it said of why it could not start."""
        self._pidfd = -1
        self._pid = 0
        self._ended = False

    @property
    def pid(self) -> int:
        """Process id, as this process sees it; 0 when the child is gone."""
        if not self._pid and self._pidfd >= 0:
            self._pid = _pid_of(self._pidfd)
        return self._pid if self._pidfd >= 0 and not self.exited.done() else 0

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


class Forker:
    """The other end of a control socket: forks children on request, and says when they end."""

    def __init__(self, control: socket.socket, numbers: Iterator[int]) -> None:
        control.setblocking(False)
        self.news: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        """Messages that are about the process itself."""
        self.lost = False
        """The process is gone; so are its children."""
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._children: dict[int, Child] = {}
        self._numbers = numbers
        self._loop.add_reader(control, self._listen)

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send one message.

        Raises:
            OSError: The process is gone, or does not read.
        """
        socket.send_fds(self._control, [json.dumps(message).encode()], list(fds))

    async def spawn(self, scratch_mb: int, *, videos: bool = False) -> Child:
        """Return a freshly forked child with a scratch folder of that size.

        Args:
            scratch_mb: 0 for none.
            videos: Whether it is to be trusted with files of the user.

        Raises:
            SandboxError: The process died or does not answer.
        """
        message = {"op": "spawn", "scratch_mb": scratch_mb, "videos": videos}
        return await self._fork(message, (), socket.SOCK_STREAM)

    async def group(
        self, images: Mapping[str, Media], files: Sequence[int], preload: Sequence[str] = ()
    ) -> Group:
        """Return a group whose children hold the images, and have more libraries loaded.

        Args:
            images: By name.
            files: Descriptors of files of their raw pixels, in the same order.
            preload: Names of libraries.

        Raises:
            SandboxError: The zygote died or does not answer.
        """
        heads = [[name, media.width, media.height, True] for name, media in images.items()]
        message = {"op": "group", "images": heads, "preload": list(preload)}
        child = await self._fork(message, files, socket.SOCK_SEQPACKET)
        return Group(child, self._numbers, frozenset(images))

    async def _fork(
        self, message: dict[str, Any], fds: Sequence[int], kind: socket.SocketKind
    ) -> Child:
        if self.lost:
            raise SandboxError("the sandbox zygote died")
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        except OSError as error:
            raise SandboxError(f"a session did not start: {error}") from error
        ours.setblocking(False)
        child = Child(next(self._numbers), ours)
        self._children[child.number] = child
        try:
            async with asyncio.timeout(START_S):
                with theirs:
                    await self._ask({**message, "id": child.number}, [theirs.fileno(), *fds])
                alive = await asyncio.shield(child.started)
        except (OSError, TimeoutError) as error:
            await child.end()
            self.lose()
            raise SandboxError(f"the sandbox zygote does not answer: {error!r}") from error
        except BaseException:
            await child.end()
            raise
        if not alive:
            await child.end()
            why = child.fault or "the sandbox zygote died meanwhile"
            raise SandboxError(f"a session did not start: {why}")
        return child

    async def _ask(self, message: dict[str, Any], fds: Sequence[int]) -> None:
        """Send one message as soon as there is room for it: many sessions may start at once."""
        while not self.lost:
            try:
                return self.send(message, fds)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
            await asyncio.sleep(_AGAIN_S)
        raise SandboxError("the sandbox zygote died")

    def lose(self) -> None:
        """Give the process up, and tell everyone who waits for it. Idempotent."""
        if self.lost:
            return
        self.lost = True
        self._loop.remove_reader(self._control)
        self._control.close()
        self.end_process()
        self.news.put_nowait({"op": "failed", "why": "it ended by itself"})
        for child in self._children.values():
            child.gone(None)
        self._children.clear()

    def hung_up(self) -> None:
        """Take note that the other end is closed."""
        self.lose()

    def end_process(self) -> None:
        """Kill what is left of the process; its end is taken as known from here on."""

    def _listen(self) -> None:
        """Take every message that has come."""
        try:
            while not self.lost:
                data, fds, _, _ = socket.recv_fds(
                    self._control, MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
                )
                if not data:
                    self.hung_up()
                    return
                self._take(json.loads(data), fds)
        except BlockingIOError:
            return
        except (OSError, ValueError, LookupError):
            self.lose()

    def _take(self, message: dict[str, Any], fds: list[int]) -> None:
        child = self._children.get(message.get("id", 0))
        match message["op"]:
            case "spawned" if child is not None and fds:
                child.born(fds[0])
            case "spawned" if child is not None:  # the kernel found no room for it here
                child.fault = os.strerror(errno.EMFILE)
                child.gone(None)
            case "spawned":
                for fd in fds:
                    os.close(fd)
            case "fault" if child is not None:
                child.fault = str(message["why"])
            case "exit" if child is not None:
                del self._children[child.number]
                child.gone(int(message["code"]))
            case "exit" | "fault":
                pass
            case _:
                self.news.put_nowait(message)


class Group(Forker):
    """A zygote within the zygote; its children hold some images from the start.

    Says ``ready`` in its news when it has loaded all that it was to load.
    """

    def __init__(self, child: Child, numbers: Iterator[int], bound: frozenset[str]) -> None:
        super().__init__(child.sock, numbers)
        self._bound = bound
        self._child = child
        self._retired = False
        self._ending: asyncio.Task[None] | None = None

    async def spawn(self, scratch_mb: int, *, videos: bool = False) -> Child:
        """Return a freshly forked child that holds the images; see ``Forker.spawn``."""
        child = await super().spawn(scratch_mb, videos=videos)
        child.bound = self._bound
        return child

    def retire(self) -> None:
        """End the process as soon as it has no children. Idempotent."""
        self._retired = True
        if not self._children:
            self.lose()

    def end_process(self) -> None:
        """Kill the process."""
        self._child.signal(signal.SIGKILL)
        self._ending = self._loop.create_task(self._child.end())  # waits for the zygote's word

    def _take(self, message: dict[str, Any], fds: list[int]) -> None:
        super()._take(message, fds)
        if self._retired and not self._children:
            self.lose()


class ZygoteProcess(Forker):
    """A zygote that serves; it belongs to the event loop that started it."""

    def __init__(
        self, control: socket.socket, end: Callable[[], None], ended: Callable[[], bool]
    ) -> None:
        """Take over a control socket.

        Args:
            control: The driver's end.
            end: Kills the processes behind it.
            ended: Whether they ended.
        """
        super().__init__(control, itertools.count(1))
        self.pid = 0
        """Process id of the zygote, once it is known."""
        self._end = end
        self._ended = ended
        self._stopping = False

    async def stop(self) -> None:
        """End the zygote and all its children. Idempotent."""
        if self.lost:
            return
        self._stopping = True
        self._control.shutdown(socket.SHUT_WR)  # the zygote then ends its children and itself
        deadline = self._loop.time() + END_S
        while not self._ended() and self._loop.time() < deadline:
            await asyncio.sleep(0.002)
        self.lose()

    def hung_up(self) -> None:
        """Take note that the zygote ended; one that was asked to has its folder to remove yet."""
        if self._stopping:
            self._loop.remove_reader(self._control)
        else:
            self.lose()

    def end_process(self) -> None:
        """Kill the process."""
        self._end()


def _pid_of(pidfd: int) -> int:
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:  # noqa: PTH123
        for line in file:
            if line.startswith("Pid:"):
                return max(int(line.split()[1]), 0)
    return 0
