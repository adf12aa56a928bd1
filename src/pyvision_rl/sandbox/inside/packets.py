"""A video's file: how it is opened, and what its packets tell before any frame is decoded.

In: a descriptor or a path. Out: FFmpeg's container and stream, and an ``Index`` that numbers the
frames. A file may be an adversary's: only containers that name no other files are read, and what
the header claims about the number of frames is not believed. Imports nothing of ours.
"""

from __future__ import annotations

import array
import builtins
import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

# A copy for this file's functions: model code may change or empty the original.
__builtins__ = dict(vars(builtins))  # type: ignore[assignment]

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,gif,asf,ivf,h264,hevc"
)
"""Containers that are read: none that names other files or addresses, and no pictures."""
_COVER = av.stream.Disposition.attached_pic
_NONE = -(2**63)
_KEY, _DISCARD, _CORRUPT = 1, 2, 4

Numbers = npt.NDArray[np.int64]


class VideoError(RuntimeError):
    """What is wrong with a video, in a few words."""


@dataclass(frozen=True, slots=True)
class Index:
    """The frames of a video, numbered in the order they are shown. Times are in stream units."""

    times: Numbers
    """When each frame begins, ascending; its number where the file has no times."""
    end: int
    """When the last frame ends."""
    order: Numbers
    """Each frame's place among the packets as stored, which is the order of decoding."""
    keys: Numbers
    """Numbers of frames that decoding can begin at, ascending. What belongs to it has the same
    place in ``key_times``, ``key_sizes`` (bytes of the packet) and ``seeks`` (times to seek to)."""
    key_times: Numbers
    key_sizes: Numbers
    seeks: Numbers
    timed: bool = True
    """Whether packets say when their frame is shown."""

    def number(self, time: int | None) -> int | None:
        """Return the frame that begins at a time, None if there is none."""
        if time is None:
            return None
        place = int(self.times.searchsorted(time))
        return place if place < len(self.times) and self.times[place] == time else None

    def begins(self, packet: av.Packet[av.VideoStream]) -> int | None:
        """Return the first frame that can be decoded from a packet on, None for no key packet.

        Seeking may land inside a packet, and FFmpeg then makes up one of what is left of it.
        """
        if packet.pts is None or not packet.is_keyframe:
            return None
        place = int(np.searchsorted(self.key_times, packet.pts))
        if place == len(self.keys) or self.key_times[place] != packet.pts:
            return None
        return int(self.keys[place]) if self.key_sizes[place] == packet.size else None


def descriptor(path: str | Path) -> int:
    """Open a file for reading.

    Raises:
        VideoError: It cannot be opened.
    """
    try:
        # Not to wait for somebody who writes into a pipe of that name.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise VideoError(f"it cannot be opened: {error.strerror}") from error


def open_video(fd: int, threads: int) -> av.VideoStream:
    """Open a container from its start, and return its stream to decode.

    Raises:
        VideoError: It is no video, or not one that can be read.
    """
    os.lseek(fd, 0, os.SEEK_SET)
    options = {"fd": str(fd), "protocol_whitelist": "fd", "format_whitelist": FORMATS}
    try:
        container = av.open("fd:", options=options)
    except av.FFmpegError as error:
        damage(error)
        raise VideoError(f"it is not a video that can be read: {error.strerror}") from error
    streams = [s for s in container.streams.video if not s.disposition & _COVER]
    if not streams:
        raise VideoError("it has no video stream")
    best = container.streams.best("video")
    stream = next((s for s in streams if s is best), streams[0])
    if stream.codec_context is None or stream.time_base is None:
        raise VideoError("its codec is not known")
    for other in container.streams:
        if other is not stream:
            other.discard = av.stream.Discard.all
    stream.codec_context.thread_type = "NONE" if threads == 1 else "FRAME"
    stream.codec_context.thread_count = threads
    return stream


def damage(error: av.FFmpegError) -> None:
    """Raise what is a lack of memory: a sound file must not look shorter than it is."""
    if isinstance(error, MemoryError):
        raise error


@contextlib.contextmanager
def tolerant() -> Iterator[None]:
    """Pass over what is damaged."""
    try:
        yield
    except av.FFmpegError as error:
        damage(error)


def index_by_time(
    packets: Iterable[av.Packet[av.VideoStream]], stream: av.VideoStream
) -> Index | None:
    """Number the frames by the times of their packets; None where these cannot be relied on.

    Left out: packets that are cut off at the end of the file, those before the first key frame,
    which cannot be decoded, and those that an edit list says are not shown.
    """
    table = _table(packets)
    whole = np.flatnonzero(~table[:, 4] & _CORRUPT)
    key = np.flatnonzero(table[:, 4] & _KEY)
    first, last = (key[0] if len(key) else 0), (whole[-1] + 1 if len(whole) else 0)
    places = np.arange(first, last)
    table = table[first:last]
    shown = (table[:, 4] & _DISCARD) == 0
    times = table[shown, 0]
    # AVI stores no times: the demuxer's are of the order of decoding.
    reordered = stream.container.format.name == "avi" and stream.codec_context.has_b_frames
    if reordered or _NONE in times or len(np.unique(times)) < len(times):
        return None
    by_time = np.argsort(times)
    keys = table[((table[:, 4] & _KEY) != 0) & (table[:, 0] != _NONE)]
    keys = keys[np.argsort(keys[:, 0])]
    # A program stream has one time for several frames: after a seek FFmpeg counts from another.
    keys = keys[: 1 if stream.container.format.name == "mpeg" else None]
    times = times[by_time]
    return Index(
        times=times,
        end=int(times[-1]) + _length(table[shown, 3][by_time], stream) if len(times) else 0,
        order=places[shown][by_time],
        keys=np.searchsorted(times, keys[:, 0]),
        key_times=keys[:, 0],
        key_sizes=keys[:, 2],
        seeks=np.where(keys[:, 1] == _NONE, keys[:, 0], keys[:, 1]),
    )


def index_by_count(packets: Iterable[av.Packet[av.VideoStream]], stream: av.VideoStream) -> Index:
    """Number the frames by decoding them all, where packets do not say when they are shown."""
    count = 0
    with tolerant():  # damaged from here on
        for packet in packets:
            with tolerant():
                count += len(packet.decode())
    with tolerant():
        count += len(stream.codec_context.decode(None))
    numbers, none = np.arange(count), np.arange(0)
    return Index(numbers, count, numbers, numbers[:1], none, none, none, timed=False)


def _hidden(packet: av.Packet[av.VideoStream]) -> bool:
    """Whether a packet is of VP8 and shows nothing: others refer to it (RFC 6386, section 9.1)."""
    return packet.stream.codec_context.name == "vp8" and not memoryview(packet)[0] & 0x10


def _table(packets: Iterable[av.Packet[av.VideoStream]]) -> Numbers:
    """One row per packet: when it is shown and decoded, bytes, length, flags."""
    rows = array.array("q")
    with tolerant():  # damaged from here on
        for packet in packets:
            if packet.size:
                pts, dts = packet.pts, packet.dts
                flags = _KEY * packet.is_keyframe | _DISCARD * (
                    packet.is_discard or _hidden(packet)
                )
                flags |= _CORRUPT * packet.is_corrupt
                times = (_NONE if time is None else time for time in (pts, dts))
                rows.extend((*times, packet.size, packet.duration or 0, flags))
    return np.frombuffer(rows, np.int64).reshape(-1, 5)


def _length(lengths: Numbers, stream: av.VideoStream) -> int:
    """How long the last frame is shown: a length that is there, or what the rate says."""
    known = lengths[lengths > 0]
    if len(known):
        return int(known[-1])
    assert stream.time_base is not None
    return max(round(1 / (rate_of(stream) * float(stream.time_base))), 1)


def rate_of(stream: av.VideoStream) -> float:
    """Return frames per second as FFmpeg guesses them."""
    return float(stream.guessed_rate or stream.base_rate or 25)
