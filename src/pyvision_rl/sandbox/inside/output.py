"""What a cell says, sent to the driver as it happens.

In: text and pictures. Out: frames on the session's socket. Only the main thread writes to it: what
other threads say waits for the main thread's next words or for the end of the cell, so that frames
are never torn and no lock can be left behind by an interrupt. Loaded by the child only; imports
nothing of ours.
"""

from __future__ import annotations

import _socket
import builtins
import io
import re
import signal
import time
from _thread import get_ident
from collections import deque

from . import protocol

# A copy for this file's functions: model code may change or empty the original.
__builtins__ = dict(vars(builtins))  # type: ignore[assignment]

LARGE = 2**15
"""Bytes of a frame that may not fit into the socket's buffer: signals wait until it is sent."""
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{6,}")
"""Where an object lies, as its repr says: left out of every text that a cell gives, because it
differs from run to run and says nothing. A shorter number is a byte or a place in a file."""
_monotonic, _sigmask, _ident = time.monotonic, signal.pthread_sigmask, get_ident
_BLOCK, _SETMASK, _ALL = signal.SIG_BLOCK, signal.SIG_SETMASK, signal.valid_signals()


class Wire:
    """The socket to the driver; carries frames of one request at a time, whole and in order."""

    def __init__(self) -> None:
        self.request = 0
        """Id of the request that is being answered."""
        self.busy = False
        """Frames are being sent: an interrupt must set ``interrupted`` instead of raising."""
        self.interrupted = False
        self._open = False
        self._sock: _socket.socket | None = None
        self._waiting: deque[tuple[bytes, bytes]] = deque()
        self._main = 0

    def attach(self, sock: _socket.socket) -> None:
        """Use ``sock`` from now on; the calling thread is the one that writes."""
        self._sock = sock
        self._main = _ident()

    def begin(self, request: int) -> None:
        """Answer ``request`` from now on; what no request waits for is dropped."""
        self._waiting.clear()
        self.busy = self.interrupted = False
        self.request, self._open = request, True

    def send(self, frame: bytes, blob: bytes = b"") -> None:
        """Send a frame, after those that wait.

        Raises:
            KeyboardInterrupt: An interrupt came while frames were sent.
        """
        if not self._open:
            return
        self._waiting.append((frame, blob))
        if not self.busy and _ident() == self._main:
            self._drain()
            if self.interrupted:
                self.interrupted = False
                raise KeyboardInterrupt

    def end(self, frame: bytes) -> None:
        """Send what waits and then ``frame``, the last one of this request."""
        self._drain()
        self._open = False
        self._waiting.clear()
        self._waiting.append((frame, b""))
        self._drain()

    def _drain(self) -> None:
        self.busy = True
        try:
            while self._waiting:
                frame, blob = self._waiting.popleft()
                if len(frame) + len(blob) < LARGE:
                    self._put(frame, blob)
                    continue
                # A handler of the model's that raises would tear the frame.
                mask = _sigmask(_BLOCK, _ALL)
                try:
                    self._put(frame, blob)
                finally:
                    _sigmask(_SETMASK, mask)
        finally:
            self.busy = False

    def _put(self, frame: bytes, blob: bytes) -> None:
        sock = self._sock
        # A thread of the code may have made its frame before the cell ended that it is of.
        if sock is None or protocol.HEADER.unpack_from(frame)[2] != self.request:
            return
        sent = sock.sendmsg((frame, blob)) if blob else sock.send(frame)
        if sent < len(frame):
            sock.sendall(memoryview(frame)[sent:])
            sent = len(frame)
        if sent < len(frame) + len(blob):
            sock.sendall(memoryview(blob)[sent - len(frame) :])


class Output(io.TextIOBase):
    """stdout and stderr of a cell in one text: its head is sent as it comes, then its tail."""

    encoding = "utf-8"

    def __init__(self, wire: Wire) -> None:
        self.limit = protocol.MIN_CHARS
        self._wire = wire
        self.begin()

    def begin(self) -> None:
        """Forget what was written."""
        self.total = 0
        """Characters written."""
        self._left = self.limit
        self._tail: list[str] = []
        self._tail_chars = 0
        self._sent_s = 0.0

    def write(self, text: str) -> int:
        """Send or keep what fits, and return the number of characters taken."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        count = len(text)
        if " at 0x" in text:  # here, and not at the end: a cut may fall into an address
            text = without_addresses(text)
        self.total += len(text)
        if self._left:
            head, text = text[: self._left], text[self._left :]
            if head:
                self._left -= len(head)
                self._wire.send(protocol.text(self._wire.request, head))
        if text:
            self._keep(text)
        return count

    def writable(self) -> bool:
        """Return True."""
        return True

    def tail(self) -> str:
        """Return the end of what was written after the head."""
        return "".join(self._tail)[-(self.limit // 2) :]

    def _keep(self, text: str) -> None:
        self._tail.append(text[-self.limit :])
        self._tail_chars += len(self._tail[-1])
        # Joined at twice the limit or many small pieces: memory and work stay bounded.
        if self._tail_chars > 2 * self.limit or len(self._tail) > 4096:
            self._tail = ["".join(self._tail)[-self.limit :]]
            self._tail_chars = len(self._tail[0])
        now = _monotonic()
        if now - self._sent_s >= protocol.TAIL_S:
            self._sent_s = now
            self._wire.send(protocol.tail(self._wire.request, self.total, self.tail()))


def without_addresses(text: str) -> str:
    """Return the text without the places where objects lie."""
    return _ADDRESS.sub("", text)
