"""The one exact decoder of videos: any frame by its number, and what is known without decoding.

In: a descriptor or a path of a video file. Out: upright RGB frames, the same whichever were asked
for before. Seeks to the key frame before what is wanted and decodes from there; holds no more than
what is asked for, and a small cache. Imports nothing of ours.
"""

from __future__ import annotations

import builtins
import collections
import contextlib
import functools
import operator
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from . import packets
from .packets import Index, VideoError

__all__ = ["FrameReader", "VideoError"]

# A copy for this file's functions: model code may change or empty the original.
__builtins__ = dict(vars(builtins))  # type: ignore[assignment]

CACHE_BYTES = 32 * 2**20
REACH = 64
"""Packets to decode past a frame's own before it counts as lost: decoders reorder by up to 16."""
AHEAD = 4
"""Frames it may take to reach a key frame by going on instead of by seeking."""
SKIPPING = ("h264", "hevc", "mpeg4")
"""Codecs whose decoders can leave out, packet by packet, what no other frame refers to."""

Pixels = npt.NDArray[np.uint8]


class FrameReader:
    """The frames of one video, numbered from 0 in the order they are shown."""

    def __init__(self, source: int | str | Path, *, threads: int = 1) -> None:
        """Open a video.

        Args:
            source: A path, or a descriptor that the reader owns from now on, whose description
                nobody else reads from.
            threads: That decode; one thread decodes only what it must.

        Raises:
            VideoError: It cannot be read, or is no video.
        """
        self._fd = source if isinstance(source, int) else packets.descriptor(source)
        self._threads = threads
        self._lock = threading.RLock()
        self._painter = VideoReformatter()
        self._cache: collections.OrderedDict[tuple[int, int, int], Pixels] = (
            collections.OrderedDict()
        )
        self._room = CACHE_BYTES
        self._stream: Any = None  # PyAV's types leave out that its container is one to read
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise VideoError("it is not a regular file")
            self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        if self._stream is not None:
            self._stream.container.close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    @property
    def num_frames(self) -> int:
        """Frames whose packets are in the file, whatever its header claims."""
        return len(self._index.times)

    @property
    def width(self) -> int:
        """Of an upright frame."""
        return self._shape[0]

    @property
    def height(self) -> int:
        """Of an upright frame."""
        return self._shape[1]

    @property
    def rotation(self) -> int:
        """Degrees clockwise that stored frames are turned by to be upright: 0, 90, 180 or 270."""
        return self._shape[2]

    @property
    def codec(self) -> str:
        """FFmpeg's name of it."""
        return str(self._stream.codec_context.name)

    @property
    def fps(self) -> float:
        """Mean frames per second: the container's, where number and times of frames agree to it."""
        mean = self._stream.average_rate if self._index.timed else None
        told = float(mean or packets.rate_of(self._stream))
        if not self._index.timed:
            return told
        # What a container says is often the rate of its clock.
        wrong = abs(self.num_frames / told - self.duration_s) > 0.02 * self.duration_s + 1 / told
        return self.num_frames / self.duration_s if wrong else told

    @property
    def duration_s(self) -> float:
        """From the start of the first frame to the end of the last."""
        return float(self.timestamps[-1, 1])

    @property
    def key_frames(self) -> list[int]:
        """Numbers of the frames that decoding can begin at."""
        keys = np.unique(self._index.keys)
        return [int(number) for number in keys[keys < self.num_frames]]

    @functools.cached_property
    def timestamps(self) -> npt.NDArray[np.float64]:
        """When each frame begins and ends: [N, 2], seconds from the start of the first."""
        index = self._index
        unit = float(self._stream.time_base or 0) if index.timed else 1 / self.fps
        edges = (np.append(index.times, index.end) - index.times[0]) * unit
        return np.stack([edges[:-1], edges[1:]], axis=1)

    def get(self, indices: Sequence[int], size: tuple[int, int] | None = None) -> Pixels:
        """Decode frames.

        Args:
            indices: Numbers from 0 to ``num_frames`` - 1, in any order, any number of times.
            size: Width and height to scale to (bicubic); None leaves frames as they are.

        Returns:
            [K, H, W, 3], RGB, in the order of ``indices``.

        Raises:
            IndexError: There is no such frame.
            VideoError: A frame cannot be decoded; it is named.
        """
        places: dict[int, list[int]] = {}
        for place, number in enumerate(map(operator.index, indices)):
            if not 0 <= number < self.num_frames:
                raise IndexError(f"frame {number} of {self.num_frames}")
            places.setdefault(number, []).append(place)
        width, height = size or (self.width, self.height)
        out = np.empty((sum(map(len, places.values())), height, width, 3), np.uint8)
        with self._lock:
            for number in sorted(places):
                first, *rest = places[number]
                if not self._recall((number, width, height), out[first]):
                    [(_, frame)] = self.frames([number])
                    self._paint(frame, out[first])
                    self._keep((number, width, height), out[first])
                out[rest] = out[first]
        return out

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield frames as they are stored, not turned and not converted, with their numbers.

        Raises:
            VideoError: A frame cannot be decoded; it is named.
        """
        for number in numbers:
            with self._lock:
                found = self._find(number)
            if found is None:
                raise VideoError(f"frame {number} cannot be decoded")
            yield number, found

    def _open(self) -> None:
        """Open the container, or open it again: at its start."""
        self._lost = True
        # An interrupt must not leave a closed container to read from: FFmpeg would crash.
        before, self._stream = self._stream, packets.open_video(self._fd, self._threads)
        self._begin()
        if before is not None:
            before.container.close()

    def _begin(self) -> None:
        """Read on from where the container is now."""
        self._packets = self._stream.container.demux(self._stream)
        self._ready: collections.deque[tuple[int, av.VideoFrame]] = collections.deque()
        self._last = self._fed = self._count = -1
        self._sound: int | None = None
        """Frames from this one on refer to nothing that was not decoded."""
        self._begun = False
        """Whether that one came out: FFmpeg may take others for sound before it did."""
        self._lost = False
        """Whether somebody else read on, or decoding was interrupted anywhere."""

    @functools.cached_property
    def _index(self) -> Index:
        with self._lock:
            if self._lost:
                self._open()
            self._lost = True
            index = packets.index_by_time(self._packets, self._stream)
            if index is None:
                self._open()
                self._lost = True
                index = packets.index_by_count(self._packets, self._stream)
        if not len(index.times):
            raise VideoError("it has no frames")
        return index

    @functools.cached_property
    def _shape(self) -> tuple[int, int, int]:
        """Width, height and rotation, read off the first key frame.

        What stands before it may refer to frames that were cut off, and is lost then.
        """
        keys = self._index.keys
        [(_, frame)] = self.frames([int(keys[0]) if len(keys) else 0])
        turned = -frame.rotation % 360
        turned = turned if turned % 90 == 0 else 0
        size = (frame.width, frame.height)
        return (*(size[::-1] if turned % 180 else size), turned)

    def _find(self, number: int) -> av.VideoFrame | None:
        """Return a frame: by going on, from the key frame before it, or from the very start."""
        index = self._index
        key = int(np.searchsorted(index.keys, number, side="right")) - 1
        near = not index.timed or key < 0 or index.keys[key] <= self._last + AHEAD
        if not self._lost and self._last < number and near:
            frame = self._scan(number)
            if frame is not None:
                return frame
        if index.timed and key >= 0:
            # The one before too: frames may refer to what precedes their key frame.
            before = max(key - 1, 0)
            for time in (index.key_times[key], index.seeks[key], index.key_times[before]):
                self._seek(int(time))
                frame = self._scan(number)
                if frame is not None:
                    return frame
        self._open()
        return self._scan(number, whole=True)

    def _seek(self, time: int) -> None:
        self._lost = True
        with contextlib.suppress(av.FFmpegError):
            self._stream.container.seek(time, stream=self._stream, backward=True)
        self._begin()

    def _scan(self, number: int, *, whole: bool = False) -> av.VideoFrame | None:
        """Decode on to a frame; ``whole``: from the very start, which is as good as it gets."""
        self._lost = True  # should it be interrupted
        whole = whole or not self._index.timed  # without times nothing is ever sought
        limit = int(self._index.order[number]) + REACH
        found = None
        while found is None:
            while self._ready and found is None:
                self._last, frame = self._ready.popleft()
                self._begun = self._begun or self._last == self._sound
                sound = self._begun and self._sound is not None and number >= self._sound
                if self._last == number and (whole or (sound and not frame.is_corrupt)):
                    found = frame
            if found is None:
                late = self._sound is not None and number < self._sound and not whole
                if late or self._fed > limit or not self._read(number):
                    return None
        self._lost = False
        return found

    def _read(self, number: int) -> bool:
        """Decode one packet more, on the way to a frame; False at the end."""
        try:
            packet = next(self._packets, None)
        except av.FFmpegError as error:  # damaged from here on: what the decoder holds is the end
            packets.damage(error)
            self._packets = iter(())
            self._take(self._stream.codec_context.decode)
            return True
        if packet is not None:
            self._decode(packet, number)
        return packet is not None

    def _decode(self, packet: av.Packet[av.VideoStream], number: int) -> None:
        """Decode a packet; on the way to frame ``number`` only what others may refer to."""
        index, context = self._index, self._stream.codec_context
        if index.timed:
            shown = index.number(packet.pts)
            if shown is not None:
                self._fed = int(index.order[shown])
            if self._sound is None:
                self._sound = index.begins(packet)
            if self._threads == 1 and context.name in SKIPPING:
                passed = shown is not None and shown < number
                context.skip_frame = "NONREF" if passed else "DEFAULT"
        self._take(packet.decode)

    def _take(self, decode: Callable[[], list[av.VideoFrame]]) -> None:
        # What a broken packet should have shown is not found, and that is said.
        with packets.tolerant():
            for frame in decode():
                self._count += 1
                shown = self._index.number(frame.pts) if self._index.timed else self._count
                if shown is not None:
                    self._ready.append((shown, frame))

    def _paint(self, frame: av.VideoFrame, out: Pixels) -> None:
        """Write a frame as upright RGB pixels."""
        high, wide = out.shape[1::-1] if self.rotation % 180 else out.shape[:2]
        same = (frame.width, frame.height) == (wide, high)
        rgb = self._painter.reformat(
            frame, wide, high, "rgb24", interpolation=None if same else "BICUBIC", threads=1
        )
        [plane] = rgb.planes
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        pixels = rows[:high, : wide * 3].reshape(high, wide, 3)
        out[...] = np.rot90(pixels, -self.rotation // 90) if self.rotation else pixels

    def _recall(self, key: tuple[int, int, int], out: Pixels) -> bool:
        """Write a frame that is kept; whether it is."""
        known = self._cache.get(key)
        if known is None:
            return False
        self._cache.move_to_end(key)
        out[...] = known
        return True

    def _keep(self, key: tuple[int, int, int], pixels: Pixels) -> None:
        """Keep a copy of a frame, in place of what was not asked for the longest."""
        if pixels.nbytes > CACHE_BYTES // 4:
            return
        self._cache[key] = pixels.copy()
        self._room -= pixels.nbytes
        while self._room < 0:
            self._room += self._cache.popitem(last=False)[1].nbytes
