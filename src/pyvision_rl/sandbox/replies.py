"""What a session answers to one request, read byte by byte as an adversary's.

In: bytes, in pieces of any length. Out: the text, the pictures and the end of a cell, as far as
they came. Lengths are held against caps before anything is allocated, and whatever does not fit is
a ``Violation``; no other error is ever raised. Knows no sockets and no clock.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pyvision_rl.sandbox.inside import protocol
from pyvision_rl.sandbox.inside.protocol import HEADER, Caps, Frames, Note, Origin, Violation


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture as it came."""

    width: int
    height: int
    at: int
    """Characters written before it."""
    note: Origin
    pixels: bytearray
    """RGB, row-major."""


class Replies:
    """The answer to one request. Feed it; then read the fields."""

    def __init__(self, request: int, caps: Caps) -> None:
        self.caps = caps
        self.done = False
        self.flags = 0
        self.error = ""
        self.images: list[Shown] = []
        self.fetched: list[Frames] = []
        """Of each video, the frames that the code asked for."""
        self.frames = 0
        """Heads of frames taken."""
        self._request = request
        self._data = bytearray()
        self._head: list[str] = []
        self._num_texts = 0
        self._head_left = caps.output_chars
        self._tail = ""
        self._num_tails = 0
        self._total = 0
        self._claim: Frames | None = None
        """What the next picture shows."""
        self._image: Shown | None = None
        """The picture whose pixels are coming; ``_filled`` bytes of them are there."""
        self._filled = 0

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._data) or self._image is not None

    def hole(self) -> memoryview | None:
        """Where the next bytes belong, if they are known to be pixels; then call ``filled``."""
        if self._image is None:
            return None
        return memoryview(self._image.pixels)[self._filled :]

    def filled(self, count: int) -> None:
        """Note that ``count`` bytes were written into the hole."""
        assert self._image is not None
        self._filled += count
        if self._filled == len(self._image.pixels):
            self.images.append(self._image)
            self._image = None

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes.

        Raises:
            Violation: They are not the continuation of an allowed answer.
        """
        buffer = self._data
        buffer += data
        at = 0
        while True:
            hole = self.hole()
            if hole is not None:
                piece = buffer[at : at + len(hole)]
                hole[: len(piece)] = piece
                at += len(piece)
                self.filled(len(piece))
            if self.done and len(buffer) > at:
                raise Violation("more than one answer was sent")
            if self._image is not None or len(buffer) - at < HEADER.size:
                break
            kind, head_bytes, blob_bytes = self._check(buffer, at)
            start = at + HEADER.size
            if len(buffer) < start + head_bytes:
                break
            at = start + head_bytes
            self._take(kind, bytes(buffer[start:at]), blob_bytes)
        del buffer[:at]

    def text(self) -> tuple[str, tuple[str | int, ...]]:
        """Return the output, cut in the middle to the limit, and its parts."""
        marks = [image.at for image in self.images]
        return compose("".join(self._head), self._tail, self._total, marks, self.caps.output_chars)

    def _check(self, buffer: bytearray, at: int) -> tuple[int, int, int]:
        magic, kind, request, head_bytes, blob_bytes = HEADER.unpack_from(buffer, at)
        if magic != protocol.MAGIC:
            raise Violation("bytes that are no frame were sent")
        if not protocol.TEXT <= kind <= protocol.DONE:
            raise Violation(f"a frame of the unknown kind {kind} was sent")
        if request != self._request:
            raise Violation("an answer to another request was sent")
        if head_bytes > self.caps.head_bytes(kind):
            raise Violation(
                f"{head_bytes} bytes of {protocol.KINDS[kind]} were announced; "
                f"at most {self.caps.head_bytes(kind)}"
            )
        if blob_bytes > self.caps.blob_bytes(kind):
            raise Violation(f"{blob_bytes} bytes of image were announced")
        return kind, head_bytes, blob_bytes

    def _take(self, kind: int, head: bytes, blob_bytes: int) -> None:
        self.frames += 1
        if kind == protocol.TEXT:
            self._take_text(head)
        elif kind == protocol.IMAGE:
            self._take_image(head, blob_bytes)
        elif kind == protocol.FRAMES:
            self._take_frames(head)
        elif kind == protocol.TAIL:
            self._num_tails += 1
            if self._num_tails > self.caps.tails:
                raise Violation("the end of the output was sent too often")
            self._total, text = _split(protocol.TAIL_HEAD, head)
            self._tail = _decode(text, self.caps.output_chars)
        else:
            flags, total, size = _fields(protocol.DONE_HEAD, head)
            text = head[protocol.DONE_HEAD.size :]
            self.flags, self._total = flags, total
            self._tail = _decode(text[:size], self.caps.output_chars)
            self.error = _decode(text[size:], self.caps.error_chars)
            self.done = True

    def _take_text(self, head: bytes) -> None:
        text = _decode(head, self.caps.output_chars)
        self._num_texts += 1
        if not text or self._num_texts > 2 * self.caps.output_chars:
            raise Violation("more text than allowed was sent")
        # Threads that print at the same time may overrun the limit by a little: that is no fault.
        self._head.append(text[: self._head_left])
        self._head_left -= len(self._head[-1])

    def _take_image(self, head: bytes, blob_bytes: int) -> None:
        width, height, at, *corners = _fields(protocol.IMAGE_HEAD, head)
        caps = self.caps
        if len(self.images) >= caps.images:
            raise Violation(f"more than {caps.images} images were sent")
        if not (0 < width * height <= caps.pixels and 3 * width * height == blob_bytes):
            raise Violation(f"an image of {width}x{height} in {blob_bytes} bytes was sent")
        if max(width, height) > caps.aspect * min(width, height):
            raise Violation(f"an image of {width}x{height} pixels was sent")
        name = _decode(head[protocol.IMAGE_HEAD.size :], protocol.NAME_BYTES)
        note = Note(name, _box(corners[:4]), _box(corners[4:])) if name else None
        self._image = Shown(width, height, at, self._claim or note, bytearray(blob_bytes))
        self._claim, self._filled = None, 0

    def _take_frames(self, head: bytes) -> None:
        shown, total, size = _fields(protocol.FRAMES_HEAD, head)
        rest = head[protocol.FRAMES_HEAD.size :]
        if len(rest) < size or (len(rest) - size) % protocol.RUN.size:
            raise Violation("numbers of frames that do not add up were sent")
        runs = tuple(protocol.RUN.iter_unpack(rest[size:]))
        befores = (-2, *(last for _, last in runs))
        if any(not b + 1 < f <= x for b, (f, x) in zip(befores, runs, strict=False)):
            raise Violation("numbers of frames that do not ascend were sent")
        frames = Frames(_decode(rest[:size], protocol.NAME_BYTES), runs, total)
        if shown:
            self._claim = frames
        elif len(self.fetched) < self.caps.videos:
            self.fetched.append(frames)
        else:
            raise Violation(f"frames of more than {self.caps.videos} videos were sent")


def compose(
    head: str, tail: str, total: int, marks: list[int], limit: int
) -> tuple[str, tuple[str | int, ...]]:
    """Return an output of at most ``limit`` characters, and its parts in order.

    Args:
        head: The first characters written, ``limit`` at most.
        tail: The last of those written after ``head``.
        total: How many were written.
        marks: For each picture how many were written before it.
        limit: At least ``protocol.MIN_CHARS``.
    """
    if len(head) + len(tail) <= limit and total <= len(head) + len(tail):
        return head + tail, _parts([(0, head + tail)], marks)
    kept = limit - 40  # the words that state the cut are shorter than this
    first, last = kept // 2, kept - kept // 2
    total = min(max(total, len(head) + len(tail)), 10**15)
    end = (head + tail)[-last:]
    pieces = [
        (0, head[:first]),
        (first, f"\n[{total - kept} characters cut]\n"),
        (total - len(end), end),
    ]
    return "".join(text for _, text in pieces), _parts(pieces, marks)


def _parts(pieces: list[tuple[int, str]], marks: list[int]) -> tuple[str | int, ...]:
    """The pieces, each with its place in the stream, split where the pictures belong.

    The pictures keep their order whatever their marks say.
    """
    parts: list[str | int] = []
    waiting = list(enumerate(marks))
    for number, (start, text) in enumerate(pieces):
        following = pieces[number + 1][0] if number + 1 < len(pieces) else None
        done = 0
        while waiting and (following is None or waiting[0][1] <= following):
            index, mark = waiting.pop(0)
            # In the words about the cut nothing is split: a picture from there follows them.
            cut = len(text) if number == 1 else min(max(mark - start, done), len(text))
            parts += [text[done:cut], index]
            done = cut
        parts.append(text[done:])
    return tuple(part for part in parts if part != "")


def _fields(form: struct.Struct, head: bytes) -> tuple[int, ...]:
    if len(head) < form.size:
        raise Violation("a frame without its fields was sent")
    fields: tuple[int, ...] = form.unpack_from(head)
    return fields


def _split(form: struct.Struct, head: bytes) -> tuple[int, bytes]:
    """The one field of a head, and what follows it."""
    return _fields(form, head)[0], head[form.size :]


def _decode(data: bytes, max_chars: int) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Violation("text that is not UTF-8 was sent") from error
    if len(text) > max_chars:
        raise Violation("more text than allowed was sent")
    return text


def _box(corners: list[int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = corners
    return left, top, right, bottom
