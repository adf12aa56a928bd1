"""One episode of the zygote sandbox, driver side: run cells, watch the clock, judge replies.

In: code. Out: ``Execution`` records, whatever the child does. The child is forked at the first run
and again after its variables were lost; then it gets the initial bindings and every image shown so
far. All that the child sends is taken for hostile (see ``protocol``).
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

from PIL import Image

from pyvision_rl.errors import SandboxError, TaskError
from pyvision_rl.media import image_media, open_image
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.sandbox.inside import protocol
from pyvision_rl.sandbox.process import START_S, Child
from pyvision_rl.types import ExecStatus, Execution, Media

_NAME = "image_clue_"
_LAST_WORDS_S = 1.0
"""For a reply that was sent just before its sender ended, and for an end after a closed socket."""


class Home(Protocol):
    """What a session needs of its sandbox."""

    running: asyncio.Semaphore

    async def spawn(self) -> Child:
        """Return a fresh child."""
        ...

    def forget(self, session: ZygoteSession) -> None:
        """Drop a session that has closed."""
        ...


class ZygoteSession:
    """One episode's interpreter."""

    def __init__(
        self,
        home: Home,
        bindings: Mapping[str, Media],
        limits: SandboxLimits,
        seed: int,
        figure: Mapping[str, Any],
    ) -> None:
        self._home = home
        self._bindings = dict(bindings)
        """Grows with the images shown."""
        self._next = sum(name.startswith(_NAME) for name in bindings)
        self._limits = limits
        self._seed = seed
        self._figure = dict(figure)
        self._caps = protocol.caps(limits.max_output_chars, limits.max_images, limits.max_pixels)
        self._child: Child | None = None
        self._cells = 0
        self._busy = asyncio.Lock()
        self._closed = False

    async def run(self, code: str) -> Execution:
        """Run one cell; see ``base.Session.run``.

        Raises:
            SandboxError: The session is closed, or the zygote failed.
        """
        async with self._busy, self._home.running:
            if self._closed:
                raise SandboxError("the session is closed")
            clean = False
            try:
                execution = await self._run(code)
                clean = not execution.state_lost
            finally:
                # Lost, failed or cancelled: what the child would say next belongs to nobody.
                if not clean and self._child is not None:
                    child, self._child = self._child, None
                    await child.end()
            if self._closed:
                raise SandboxError("the session was closed while its code ran")
            return execution

    async def close(self) -> None:
        """End the session's process and all it started. Idempotent."""
        self._closed = True
        self._home.forget(self)
        child, self._child = self._child, None
        if child is not None:
            await child.end()

    async def _run(self, code: str) -> Execution:
        if self._child is None:
            self._child = await self._home.spawn()
            await self._start(self._child)
        self._cells += 1
        head = {"op": "run", "code": code, "number": self._cells}
        began = time.perf_counter()
        status, error, answer = await self._cell(self._child, head)
        duration = time.perf_counter() - began
        if answer is None:
            return Execution(status, "", error, duration_s=duration, state_lost=True)
        reply, blobs = answer
        shown = tuple(_media(size, blob) for size, blob in zip(reply.sizes, blobs, strict=True))
        for media in shown:
            self._bindings[f"{_NAME}{self._next}"] = media
            self._next += 1
        return Execution(status, reply.output, error, shown, duration)

    async def _start(self, child: Child) -> None:
        """Give a fresh child its bindings, seed and limits; it answers when it has them."""
        try:
            pixels = [_pixels(media) for media in self._bindings.values()]
        except TaskError as error:
            raise SandboxError(f"a bound image cannot be read: {error}") from error
        limits = self._limits
        head = {
            "op": "start",
            "images": [[name, m.width, m.height] for name, m in self._bindings.items()],
            "next_image": self._next,
            "seed": self._seed,
            "figure": self._figure,
            "memory_mb": limits.memory_mb,
            "max_output_chars": limits.max_output_chars,
            "max_images": limits.max_images,
            "max_pixels": limits.max_pixels,
        }
        try:
            reply, _ = await asyncio.wait_for(self._exchange(child, head, pixels), START_S)
        except (protocol.Violation, protocol.Ended, OSError, TimeoutError) as error:
            raise SandboxError(f"a session did not start: {error!r}") from error
        if reply.raised:
            raise SandboxError(f"a session did not start: {reply.error}")

    async def _cell(
        self, child: Child, head: dict[str, Any]
    ) -> tuple[ExecStatus, str, tuple[protocol.Reply, list[bytes]] | None]:
        """Run one cell under the clock: (status, error, reply); no reply means a lost state."""
        limits = self._limits
        exchange = asyncio.ensure_future(self._exchange(child, head, ()))
        interrupted = False
        try:
            if not await _first(exchange, child.exited, limits.wall_s):
                child.signal(signal.SIGINT)
                interrupted = True
                if not await _first(exchange, child.exited, limits.grace_s):
                    why = (
                        f"stopped after {limits.wall_s:g} s (the time limit) and killed, because "
                        f"it did not end when interrupted; all variables are lost"
                    )
                    return ExecStatus.KILLED, why, None
            # A reply that was complete before its sender ended still counts.
            await _first(exchange, None, _LAST_WORDS_S)
            if not exchange.done():
                return await self._death(child)
            reply, blobs = exchange.result()
        except protocol.Violation as violation:
            return ExecStatus.VIOLATION, f"the code broke the interpreter: {violation}", None
        except (protocol.Ended, OSError):
            return await self._death(child)
        finally:
            exchange.cancel()
            await asyncio.gather(exchange, return_exceptions=True)
        if interrupted and reply.interrupted:
            why = f"stopped after {limits.wall_s:g} s (the time limit); variables are kept"
            return ExecStatus.TIMEOUT, f"{reply.error}\n{why}".lstrip(), (reply, blobs)
        status = ExecStatus.RAISED if reply.raised else ExecStatus.OK
        return status, reply.error, (reply, blobs)

    async def _death(self, child: Child) -> tuple[ExecStatus, str, None]:
        """What to say of a child that ended or hung up without a reply.

        Raises:
            SandboxError: It died with the zygote.
        """
        if not await _first(child.exited, None, _LAST_WORDS_S):
            why = "the code broke the interpreter: it closed its connection"
            return ExecStatus.VIOLATION, why, None
        code = child.exited.result()
        if code is None:
            raise SandboxError("the sandbox zygote died, and the session with it")
        if code == -signal.SIGKILL:
            why = "the interpreter was killed, most likely for want of memory"
            return ExecStatus.OOM, f"{why}; all variables are lost", None
        how = f"exited with status {code}" if code >= 0 else f"crashed with {_name(-code)}"
        return ExecStatus.DIED, f"the interpreter {how}; all variables are lost", None

    async def _exchange(
        self, child: Child, head: dict[str, Any], blobs: list[bytes] | tuple[()]
    ) -> tuple[protocol.Reply, list[bytes]]:
        """Send a request and return its reply.

        Raises:
            Violation: The child sent anything but one well-formed reply.
            Ended: The child hung up.
        """
        loop = asyncio.get_running_loop()
        sock = child.sock
        _check_silent(sock)
        request = secrets.randbits(63)
        await loop.sock_sendall(sock, protocol.pack(request, head, sum(map(len, blobs))))
        for blob in blobs:
            await loop.sock_sendall(sock, blob)
        header = await _read(loop, sock, protocol.HEADER.size)
        head_bytes, blob_bytes = protocol.check_header(header, request, self._caps)
        reply = protocol.check_reply(await _read(loop, sock, head_bytes), blob_bytes, self._caps)
        images = [bytes(await _read(loop, sock, 3 * w * h)) for w, h in reply.sizes]
        _check_silent(sock)
        return reply, images


async def _first(one: Awaitable[Any], other: Awaitable[Any] | None, timeout_s: float) -> bool:
    """Whether either is done in time; neither is cancelled."""
    waiting = {asyncio.ensure_future(f) for f in (one, other) if f is not None}
    done, _ = await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)


async def _read(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = await loop.sock_recv_into(sock, view)
        if not count:
            raise protocol.Ended
        view = view[count:]
    return data


def _check_silent(sock: socket.socket) -> None:
    """Raise Violation if bytes wait that nobody asked for."""
    try:
        waiting = sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return
    if waiting:
        raise protocol.Violation("more than one reply was sent")


def _pixels(media: Media) -> bytes:
    source = media.source
    return source if isinstance(source, bytes) else open_image(media).tobytes()


def _media(size: tuple[int, int], pixels: bytes) -> Media:
    return image_media(Image.frombytes("RGB", size, pixels))


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
