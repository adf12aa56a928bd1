"""The frames between the driver and one episode's interpreter.

In: a JSON head and raw blobs. Out: ``magic | request id | head length | blob length`` and then the
two. Nothing is ever unpickled. The driver takes every byte of a reply for an adversary's: lengths
are held against caps before anything is allocated, and whatever does not fit is a ``Violation``.
Imports the standard library only, because the child loads this file too.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

HEADER = struct.Struct("!4sQIQ")
"""magic, request id, bytes of the head, bytes of the blobs."""
MAGIC = b"pvs1"
ERROR_CHARS = 4000
"""A traceback is cut to this, or to the output limit when that is smaller."""
MIN_CHARS = 64
"""The least output limit in force: the words that state a cut must fit."""

# Bound now: model code that replaces json.loads in its own process must not reach these frames.
_dumps, _loads = json.dumps, json.loads


class Violation(Exception):
    """The other side broke the protocol."""


class Ended(Exception):
    """The other side closed the connection."""


@dataclass(frozen=True, slots=True)
class Caps:
    """The largest reply a driver accepts."""

    output_chars: int
    error_chars: int
    images: int
    pixels: int
    """Per image."""

    @property
    def head_bytes(self) -> int:
        """Bytes of the longest honest head: JSON writes a character in at most 12 bytes."""
        return 12 * (self.output_chars + self.error_chars) + 64 * self.images + 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """What the interpreter says about one cell; hostile until the driver has judged it."""

    raised: bool
    interrupted: bool
    """The driver's interrupt was felt while the cell ran."""
    output: str
    error: str
    sizes: tuple[tuple[int, int], ...]
    """(width, height) of each shown image; the blobs are their RGB pixels, in order."""


def caps(max_output_chars: int, max_images: int, max_pixels: int) -> Caps:
    """Return the caps that follow from the limits of a session."""
    output = max(max_output_chars, MIN_CHARS)
    return Caps(output, min(output, ERROR_CHARS), max_images, max_pixels)


def pack(request: int, head: dict[str, Any], blob_bytes: int = 0) -> bytes:
    """Return header and head of a frame; the caller sends ``blob_bytes`` of blobs after them."""
    text = _dumps(head).encode("ascii")
    return HEADER.pack(MAGIC, request, len(text), blob_bytes) + text


def check_header(data: bytes | bytearray, request: int, limits: Caps) -> tuple[int, int]:
    """Return the lengths of head and blobs of a reply.

    Raises:
        Violation: Not our format, not the answer to ``request``, or over a cap.
    """
    magic, answered, head_bytes, blob_bytes = HEADER.unpack(data)
    if magic != MAGIC:
        raise Violation("bytes that are no frame were sent")
    if answered != request:
        raise Violation("an answer to another request was sent")
    if head_bytes > limits.head_bytes:
        raise Violation(f"a head of {head_bytes} bytes was announced; at most {limits.head_bytes}")
    if blob_bytes > 3 * limits.images * limits.pixels:
        raise Violation(f"{blob_bytes} bytes of images were announced")
    return head_bytes, blob_bytes


def check_reply(head: bytes | bytearray, blob_bytes: int, limits: Caps) -> Reply:
    """Return the checked head of a reply.

    Raises:
        Violation: No JSON, a wrong field, a text over its cap, or images that are not the blobs.
    """
    try:
        match _loads(head):
            case {
                "raised": bool(raised),
                "interrupted": bool(interrupted),
                "output": str(output),
                "error": str(error),
                "images": list(images),
            }:
                pass
            case _:
                raise Violation("a reply without its fields was sent")
    except (ValueError, RecursionError) as fault:
        raise Violation("a reply that is no JSON was sent") from fault
    if len(output) > limits.output_chars or len(error) > limits.error_chars:
        raise Violation("more text than allowed was sent")
    if len(images) > limits.images:
        raise Violation(f"{len(images)} images were sent; at most {limits.images}")
    sizes = tuple(_size(item, limits.pixels) for item in images)
    if sum(3 * width * height for width, height in sizes) != blob_bytes:
        raise Violation("images of other sizes than announced were sent")
    return Reply(raised, interrupted, _clean(output), _clean(error), sizes)


def read_request(sock: socket.socket) -> tuple[int, dict[str, Any], memoryview]:
    """Return (request id, head, blobs) of the driver's next frame; blocks. For the child.

    Raises:
        Ended: The driver closed the session.
    """
    _, request, head_bytes, blob_bytes = HEADER.unpack(_read(sock, HEADER.size))
    head: dict[str, Any] = _loads(_read(sock, head_bytes))
    return request, head, memoryview(_read(sock, blob_bytes))


def _read(sock: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = sock.recv_into(view)
        if not count:
            raise Ended
        view = view[count:]
    return data


def _size(item: Any, max_pixels: int) -> tuple[int, int]:
    match item:
        case [int(width), int(height)] if width > 0 and height > 0 and width * height <= max_pixels:
            return width, height
    raise Violation("an image of a size that is not allowed was sent")


def _clean(text: str) -> str:
    """The text without lone surrogates, which no UTF-8 file could hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
