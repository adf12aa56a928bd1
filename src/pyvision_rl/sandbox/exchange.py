"""One request to a session and the bytes that come back, on a socket of the event loop.

In: a JSON head, pixels, file descriptors. Out: ``Replies`` that fill while the session works, and a
future that is done when the answer is whole or can no longer become so. Decides nothing: how long
to wait is the session's business, what may be sent is that of ``Replies``.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Sequence
from typing import Any

from pyvision_rl.sandbox.inside import protocol
from pyvision_rl.sandbox.replies import Replies

FRAME_S = 20.0
"""A frame that has begun must be whole by then."""
_FREE = 8
"""Wake-ups of one exchange without a rest: a cell that prints much is read in batches."""
_REST_S = 0.02
_CHUNK = 2**16
_LAST_READS = 4096
"""A bound for what is read of a process that has ended."""


class Exchange:
    """One request and its answer."""

    def __init__(self, sock: socket.socket, caps: protocol.Caps, frame_s: float = FRAME_S) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._frame_s = frame_s
        self.request = secrets.randbits(63)
        self.replies = Replies(self.request, caps)
        self.over: asyncio.Future[None] = self._loop.create_future()
        """Done when the answer is whole; otherwise holds Violation, Ended or OSError."""
        self._began = self._loop.time()
        self._wakes = 0
        self._reading = False
        self._rest: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None

    async def ask(
        self, head: dict[str, Any], blobs: Sequence[bytes] = (), fds: Sequence[int] = ()
    ) -> None:
        """Send the request and begin to listen.

        Raises:
            Violation: The session said something that nobody asked for.
            OSError: It is gone.
        """
        check_silent(self._sock)
        self._listen()
        data = protocol.pack(self.request, head, sum(map(len, blobs)))
        try:
            sent = socket.send_fds(self._sock, [data], fds) if fds else self._sock.send(data)
        except BlockingIOError:  # unread requests of a session that will not end well
            sent = 0
        if sent < len(data):
            await self._loop.sock_sendall(self._sock, data[sent:])
        for blob in blobs:
            await self._loop.sock_sendall(self._sock, blob)

    def drain(self) -> None:
        """Read what a session that has ended left behind."""
        for _ in range(_LAST_READS):
            if self.over.done() or not self._read():
                return

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self._pause()
        for timer in (self._rest, self._deadline):
            if timer is not None:
                timer.cancel()
        if self.over.done():
            if not self.over.cancelled():
                self.over.exception()  # seen: nobody else may be waiting for it
        else:
            self.over.cancel()

    def _listen(self) -> None:
        if not self.over.done():
            self._loop.add_reader(self._sock, self._readable)
            self._reading = True

    def _pause(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._sock)
            self._reading = False

    def _readable(self) -> None:
        self._read()
        if self.over.done():
            self._pause()
            return
        self._wakes += 1
        if self._wakes > _FREE and self.replies.hole() is None:
            # In proportion to the time the cell has had, so that its end is not seen much later.
            rest = min(_REST_S, (self._loop.time() - self._began) / 16)
            self._pause()
            self._rest = self._loop.call_later(rest, self._listen)

    def _read(self) -> bool:
        """Take what has come; False when nothing has."""
        replies = self.replies
        try:
            hole = replies.hole()
            if hole is None:
                data = self._sock.recv(_CHUNK)
                count = len(data)
                replies.feed(data)
            else:
                count = self._sock.recv_into(hole)
                replies.filled(count)
            if not count:
                raise protocol.Ended
            self._time(replies.partial)
        except BlockingIOError:
            return False
        except (protocol.Violation, protocol.Ended, OSError) as error:
            self.over.set_exception(error)
            return True
        if replies.done:
            self.over.set_result(None)
        return True

    def _time(self, partial: bool) -> None:
        """Start the clock of a frame that is not whole yet, or stop it."""
        if not partial:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
        elif self._deadline is None:
            due = self._loop.time() + self._frame_s
            self._deadline = self._loop.call_at(due, self._late, due, self.replies.frames)

    def _late(self, due: float, frames: int) -> None:
        """End the exchange, unless this very loop was what held the frame up."""
        self._deadline = None
        if self.over.done():
            return
        if self.replies.frames != frames or self._loop.time() - due > 1:
            self._time(self.replies.partial)
        else:
            self.over.set_exception(protocol.Violation("a frame did not come to its end"))


def check_silent(sock: socket.socket) -> None:
    """Check that no bytes wait that nobody asked for.

    Raises:
        Violation: Some do.
    """
    try:
        waiting = sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return
    if waiting:
        raise protocol.Violation("more than one answer was sent")
