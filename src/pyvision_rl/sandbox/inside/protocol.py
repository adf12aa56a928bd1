"""The frames between the driver and one episode's interpreter.

Every frame is ``magic | kind | request id | head length | blob length`` and then head and blob. The
driver sends REQUEST frames: a JSON head and raw blobs. The interpreter answers with any number of
TEXT, TAIL, IMAGE and FRAMES frames, as things happen, and one DONE frame; their heads are packed
numbers and UTF-8 text, so nothing of what it sends is ever parsed by more than ``struct``. Imports
the standard library only, because the interpreter loads this file too; the driver's side is in
``replies``.
"""

from __future__ import annotations

import _socket
import builtins
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

# A copy for this file's functions: model code may change or empty the original.
__builtins__ = dict(vars(builtins))  # type: ignore[assignment]

HEADER = struct.Struct("!4sBQIQ")
"""magic, kind, request id, bytes of the head, bytes of the blob."""
MAGIC = b"pvs3"
REQUEST, TEXT, TAIL, IMAGE, FRAMES, DONE = range(6)
"""TEXT: output as it was written, while the head of the output has room. TAIL: the end of what was
written since, in place of any earlier TAIL. IMAGE: one picture; its blob is RGB pixels. FRAMES:
which frames of a video the next picture shows, or which the code asked for."""
KINDS = ("REQUEST", "TEXT", "TAIL", "IMAGE", "FRAMES", "DONE")

IMAGE_HEAD = struct.Struct("!IIQ4i4i")
"""width, height, characters written before it, and where it comes from (see ``Note``); then the
name of the binding it comes from, or nothing."""
FRAMES_HEAD = struct.Struct("!BIH")
"""Whether the next picture shows them, how many they are, bytes of the name of the video; then the
name, then RUNS."""
RUN = struct.Struct("!II")
"""First and last number of frames that follow each other; runs ascend and do not touch."""
TAIL_HEAD = struct.Struct("!Q")
"""Characters written so far; then the text."""
DONE_HEAD = struct.Struct("!BQI")
"""Flags, characters written, bytes of the tail; then the tail, then the error."""
RAISED, INTERRUPTED, FAILED, SPENT = 1, 2, 4, 8
"""Flags of DONE: the cell raised; the driver's interrupt was felt while it ran; the request could
not be carried out, which is not the fault of any cell; no memory is left to go on with."""

ERROR_CHARS = 4000
"""A traceback is cut to this, or to the output limit when that is smaller."""
MIN_CHARS = 64
"""The least output limit in force: the words that state a cut must fit."""
NAME_BYTES = 256
"""A longer name of a source is left out."""
MAX_RUNS = 2**14
"""Further runs are left out."""
TAIL_S = 0.25
"""Between two TAIL frames."""
FDS = 64
"""The most file descriptors that come with one request."""

# Bound now: model code that replaces json.loads in its own process must not reach these frames.
_encode, _decode = json.JSONEncoder().encode, json.JSONDecoder().decode


class Violation(Exception):
    """The other side broke the protocol."""


class Ended(Exception):
    """The other side closed the connection."""


@dataclass(frozen=True, slots=True)
class Note:
    """What the interpreter says about where a picture comes from."""

    name: str
    """Of the binding."""
    box: tuple[int, int, int, int]
    """(left, top, right, bottom) of the part, in pixels of the binding."""
    window: tuple[int, int, int, int]
    """Where in the picture that part is shown; the rest is decoration."""


@dataclass(frozen=True, slots=True)
class Frames:
    """What the interpreter says about which frames of a video were asked for, or are shown."""

    name: str
    """Of the binding."""
    runs: tuple[tuple[int, int], ...]
    """(first, last) of frames that follow each other, ascending, without those left out."""
    total: int
    """Frames, those left out included."""


Origin: TypeAlias = Note | Frames | None
"""What a picture shows, as far as it is known."""


@dataclass(frozen=True, slots=True)
class Caps:
    """The largest answer a driver accepts."""

    output_chars: int
    error_chars: int
    images: int
    pixels: int
    """Per image."""
    aspect: int
    """Longer side of an image / shorter side."""
    tails: int
    """TAIL frames."""
    videos: int = 0
    """Videos whose frames may be named."""

    def head_bytes(self, kind: int) -> int:
        """Bytes of the longest honest head; UTF-8 writes a character in at most 4 bytes."""
        if kind == IMAGE:
            return IMAGE_HEAD.size + NAME_BYTES
        if kind == FRAMES:
            return FRAMES_HEAD.size + NAME_BYTES + MAX_RUNS * RUN.size if self.videos else 0
        texts = self.output_chars + (self.error_chars if kind == DONE else 0)
        return 64 + 4 * texts

    def blob_bytes(self, kind: int) -> int:
        """Bytes of the largest honest blob."""
        return 3 * self.pixels if kind == IMAGE else 0


def caps(
    max_output_chars: int,
    max_images: int = 0,
    max_pixels: int = 0,
    *,
    max_aspect: int = 1,
    time_s: float = 0.0,
    videos: int = 0,
) -> Caps:
    """Return the caps that follow from the limits of a session."""
    output = max(max_output_chars, MIN_CHARS)
    tails = 8 + int(2 * time_s / TAIL_S)
    error = min(output, ERROR_CHARS)
    return Caps(output, error, max_images, max_pixels, max_aspect, tails, videos)


def frame(kind: int, request: int, head: bytes, blob_bytes: int = 0) -> bytes:
    """Return header and head of a frame; the caller sends ``blob_bytes`` of blob after them."""
    return HEADER.pack(MAGIC, kind, request, len(head), blob_bytes) + head


def pack(request: int, head: dict[str, Any], blob_bytes: int = 0) -> bytes:
    """Return header and head of a request; the caller sends ``blob_bytes`` of blobs after them."""
    return frame(REQUEST, request, _encode(head).encode("ascii"), blob_bytes)


def done(request: int, flags: int, total: int, tail: str = "", error: str = "") -> bytes:
    """Return a DONE frame."""
    end, why = _bytes(tail), _bytes(error)
    return frame(DONE, request, DONE_HEAD.pack(flags, total, len(end)) + end + why)


def tail(request: int, total: int, text: str) -> bytes:
    """Return a TAIL frame."""
    return frame(TAIL, request, TAIL_HEAD.pack(total) + _bytes(text))


def text(request: int, written: str) -> bytes:
    """Return a TEXT frame."""
    return frame(TEXT, request, _bytes(written))


def image(
    request: int, size: tuple[int, int], at: int, note: Note | None, blob_bytes: int
) -> bytes:
    """Return header and head of an IMAGE frame; ``blob_bytes`` of pixels follow."""
    name = b"" if note is None else _bytes(note.name)
    if note is None or len(name) > NAME_BYTES:
        return frame(IMAGE, request, IMAGE_HEAD.pack(*size, at, *(0,) * 8), blob_bytes)
    head = IMAGE_HEAD.pack(*size, at, *note.box, *note.window) + name
    return frame(IMAGE, request, head, blob_bytes)


def claim(name: str, numbers: Sequence[int]) -> Frames:
    """Return frames by their numbers, which ascend, each once."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return Frames(name, tuple(runs[:MAX_RUNS]), len(numbers))


def frames(request: int, claimed: Frames, shown: bool) -> bytes:
    """Return a FRAMES frame, or nothing if the name is too long."""
    word = _bytes(claimed.name)
    if len(word) > NAME_BYTES:
        return b""
    runs = b"".join(RUN.pack(*run) for run in claimed.runs)
    head = FRAMES_HEAD.pack(shown, claimed.total, len(word)) + word
    return frame(FRAMES, request, head + runs)


def read_request(sock: _socket.socket) -> tuple[int, dict[str, Any], memoryview, list[int]]:
    """Return (request id, head, blobs, file descriptors) of the driver's next request; blocks.

    Raises:
        Ended: The driver closed the session.
    """
    header = bytearray(HEADER.size)
    fds: list[int] = []
    view = memoryview(header)
    while view:
        count, found = _receive(sock, view)
        fds += found
        view = view[count:]
    _, _, request, head_bytes, blob_bytes = HEADER.unpack(header)
    head: dict[str, Any] = _decode(_read(sock, head_bytes).decode("ascii"))
    return request, head, memoryview(_read(sock, blob_bytes)), fds


def _receive(sock: _socket.socket, view: memoryview) -> tuple[int, list[int]]:
    """Fill some of ``view``: (bytes, file descriptors that came with them)."""
    count, ancillary, _, _ = sock.recvmsg_into([view], _FD_SPACE, _socket.MSG_CMSG_CLOEXEC)
    if not count:
        raise Ended
    fds = [number for _, _, data in ancillary for (number,) in _FD.iter_unpack(data)]
    return count, fds


def _read(sock: _socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = sock.recv_into(view)
        if not count:
            raise Ended
        view = view[count:]
    return data


def _bytes(written: str) -> bytes:
    """The text in UTF-8; lone surrogates, which have none, become question marks."""
    return written.encode("utf-8", "replace")


_FD = struct.Struct("=i")
_FD_SPACE = _socket.CMSG_SPACE(FDS * _FD.size)
