"""The one exact decoder of videos: any frame by its number, and what is known without decoding.

In: a descriptor or a path of a video file. Out: upright RGB frames, the same whichever were asked
for before. Frames are numbered in the order they are shown, counted from the file's packets and not
from what its header claims. Seeks to the key frame before what is wanted and decodes from there;
holds no more than what is asked for, and a small cache. Imports nothing of ours.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

# A copy for this file's functions: model code may change or empty the original.
__builtins__ = dict(vars(builtins))  # type: ignore[assignment]

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,gif,asf,h264,hevc,ivf"
)
"""Containers that are read: none that names other files or addresses, and no pictures."""
CACHE_BYTES = 32 * 2**20
REACH = 64
"""Packets to decode past a frame's own before it counts as lost: decoders reorder by up to 16."""
AHEAD = 4
"""Frames it may take to reach a key frame by going on instead of by seeking."""
SKIPPING = ("h264", "hevc", "mpeg4")
"""Codecs whose decoders can leave out, packet by packet, what no other frame refers to."""

Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]


class VideoError(RuntimeError):
    """What is wrong with a video, in a few words."""


@dataclass(frozen=True, slots=True)
class _Index:
    """What the packets of a video tell; arrays are by frame number."""

    times: Numbers
    """Ascending, in units of the stream; frame numbers where the container has no times."""
    end: int
    """When the last frame ends."""
    order: Numbers
    """Each frame's place among the packets as stored, which is the order of decoding."""
    keys: Numbers
    """Numbers of the frames that decoding can begin at."""
    seeks: Numbers
    """For each of ``keys`` the time to seek to."""
    timed: bool
    """Whether packets say when their frame is shown; otherwise all frames were decoded once."""


class FrameReader:
    """Frames of one video. Safe to call from several threads, one after another."""

    def __init__(self, source: int | str | Path, *, threads: int = 1) -> None:
        """Open a video.

        Args:
            source: A path, or a descriptor that the reader owns from now on, whose description
                nobody else reads from.
            threads: That decode; one thread decodes only what it must.

        Raises:
            VideoError: It cannot be read, or is no video.
        """
        self._fd = source if isinstance(source, int) else _descriptor(source)
        self._threads = threads
        self._lock = threading.RLock()
        self._container: av.container.InputContainer | None = None
        self._painter = VideoReformatter()
        self._cache: collections.OrderedDict[tuple[int, int, int], Pixels] = (
            collections.OrderedDict()
        )
        self._cached = 0
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise VideoError("it is not a regular file")
            self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        if self._container is not None:
            self._container.close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    @property
    def num_frames(self) -> int:
        """Frames whose packets are in the file."""
        return len(self._index.times)

    @property
    def width(self) -> int:
        """Of an upright frame; ``height`` too."""
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
    def fps(self) -> float:
        """Mean frames per second, as the container says; measured where it does not."""
        rate = self._stream.average_rate
        if rate:
            return float(rate)
        index = self._index
        span = (index.end - int(index.times[0])) * self._unit
        return len(index.times) / span if index.timed and span > 0 else self._rate

    @property
    def duration_s(self) -> float:
        """From the start of the first frame to the end of the last."""
        return float(self.timestamps[-1, 1])

    @property
    def key_frames(self) -> list[int]:
        """Numbers of the frames that decoding can begin at."""
        return [int(number) for number in self._index.keys]

    @functools.cached_property
    def timestamps(self) -> npt.NDArray[np.float64]:
        """When each frame begins and ends: [N, 2], seconds from the start of the first."""
        index = self._index
        edges = np.append(index.times, index.end) - index.times[0]
        seconds = edges * (self._unit if index.timed else 1 / self._rate)
        return np.stack([seconds[:-1], seconds[1:]], axis=1)

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
        wanted = [operator.index(i) for i in indices]
        for number in wanted:
            if not 0 <= number < self.num_frames:
                raise IndexError(f"frame {number} of {self.num_frames}")
        width, height = size or (self.width, self.height)
        out = np.empty((len(wanted), height, width, 3), np.uint8)
        places: dict[int, list[int]] = {}
        for place, number in enumerate(wanted):
            places.setdefault(number, []).append(place)
        missing = []
        for number in sorted(places):
            known = self._cache.get((number, width, height))
            if known is None:
                missing.append(number)
            else:
                self._cache.move_to_end((number, width, height))
                out[places[number]] = known
        for number, frame in self.frames(missing):
            first, *rest = places[number]
            self._paint(frame, out[first])
            out[rest] = out[first]
            self._keep((number, width, height), out[first])
        return out

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield frames as they are stored, with their numbers; ``numbers`` ascend, each once.

        Raises:
            VideoError: A frame cannot be decoded; it is named.
        """
        for number in numbers:
            with self._lock:
                try:
                    frame = self._find(number)
                except BaseException:
                    self._restless = True  # interrupted: the decoder may be anywhere
                    raise
            if frame is None:
                raise VideoError(f"frame {number} cannot be decoded")
            yield number, frame

    def _open(self) -> None:
        """(Re)open the container, at its start."""
        if self._container is not None:
            self._container.close()
        os.lseek(self._fd, 0, os.SEEK_SET)
        options = {"fd": str(self._fd), "protocol_whitelist": "fd", "format_whitelist": FORMATS}
        with _explained("it is not a video that can be read"):
            self._container = container = av.open("fd:", options=options)
        streams = [s for s in container.streams.video if not s.disposition & _COVER]
        if not streams:
            raise VideoError("it has no video stream")
        best = container.streams.best("video")
        self._stream = next((s for s in streams if s is best), streams[0])
        if self._stream.codec_context is None or self._stream.time_base is None:
            raise VideoError("its codec is not known")
        self._unit = float(self._stream.time_base)
        self._rate = float(self._stream.guessed_rate or self._stream.base_rate or 25)
        for other in container.streams:
            if other is not self._stream:
                other.discard = av.stream.Discard.all
        context = self._stream.codec_context
        context.thread_type = "NONE" if self._threads == 1 else "FRAME"
        context.thread_count = self._threads
        self._begin()

    def _begin(self) -> None:
        """Read on from where the container is now."""
        self._packets = self._demux()
        self._ready: collections.deque[tuple[int, av.VideoFrame]] = collections.deque()
        self._last = self._fed = self._count = -1
        self._sound: int | None = None
        self._restless = False

    def _demux(self) -> Iterator[av.Packet[av.VideoStream]]:
        # Whatever a damaged file ends with: what came before it is all there is.
        with contextlib.suppress(av.FFmpegError):
            assert self._container is not None
            yield from self._container.demux(self._stream)

    @functools.cached_property
    def _index(self) -> _Index:
        """Read all packets once."""
        with self._lock:
            context = self._stream.codec_context
            found = [
                (p.pts, p.dts, p.duration or 0, p.is_keyframe, p.is_discard, p.is_corrupt)
                for p in self._demux()
                if p.size
            ]
            while found and found[-1][5]:
                found.pop()  # cut off
            start = next((i for i, packet in enumerate(found) if packet[3]), 0)
            # AVI stores no times, and the demuxer's are of the order of decoding.
            assert self._container is not None
            timed = not (self._container.format.name == "avi" and context.has_b_frames)
            times = [p[0] for p in found[start:] if not p[4]]
            timed = timed and None not in times and len(set(times)) == len(times)
            index = _by_time(found, start) if timed else self._by_decoding()
            self._open()
        if not len(index.times):
            raise VideoError("it has no frames")
        return index

    def _by_decoding(self) -> _Index:
        """Count frames by decoding them all, where packets do not say when they are shown."""
        self._open()
        count = 0
        for packet in self._packets:
            with contextlib.suppress(av.FFmpegError):
                count += len(packet.decode())
        numbers = np.arange(count, dtype=np.int64)
        start = np.zeros(min(count, 1), np.int64)
        return _Index(numbers, count, numbers, start, start, timed=False)

    @functools.cached_property
    def _shape(self) -> tuple[int, int, int]:
        """Width, height and rotation: of the first frame that can be decoded."""
        [(_, frame)] = self.frames([0])
        turned = -frame.rotation % 360
        if turned % 90:
            turned = 0
        size = (frame.width, frame.height)
        return (*(size if turned % 180 == 0 else size[::-1]), turned)

    def _find(self, number: int) -> av.VideoFrame | None:
        """Return a frame: by going on, from the key frame before it, or from the very start."""
        index = self._index
        key = int(np.searchsorted(index.keys, number, side="right")) - 1
        near = key < 0 or index.keys[key] <= self._last + AHEAD or not index.timed
        if self._last < number and near and not self._restless:
            frame = self._scan(number)
            if frame is not None:
                return frame
        if index.timed:
            # The one before too: where frames refer to what precedes their key frame.
            for start in range(key, max(key - 2, -1), -1):
                self._seek(int(index.seeks[start]))
                frame = self._scan(number)
                if frame is not None:
                    return frame
        self._open()
        return self._scan(number, begun=True)

    def _seek(self, time: int) -> None:
        assert self._container is not None
        with contextlib.suppress(av.FFmpegError):
            self._container.seek(time, stream=self._stream, backward=True)
        self._begin()

    def _scan(self, number: int, *, begun: bool = False) -> av.VideoFrame | None:
        """Decode on until a frame is found; ``begun`` at the start, it is as good as it gets."""
        limit = int(self._index.order[number]) + REACH
        while True:
            while self._ready:
                self._last, frame = self._ready.popleft()
                sound = self._sound is not None and number >= self._sound
                if self._last == number and (begun or (sound and not frame.is_corrupt)):
                    return frame
            packet = next(self._packets, None) if self._fed <= limit else None
            if packet is None:
                return None
            self._decode(packet, number)

    def _decode(self, packet: av.Packet[av.VideoStream], number: int) -> None:
        """Decode a packet; on the way to frame ``number`` only what it may refer to."""
        index = self._index
        if index.timed and packet.pts is not None:
            shown = self._number(packet.pts)
            if shown is not None:
                self._fed = int(index.order[shown])
            if self._sound is None and packet.is_keyframe:
                # What is shown before it may refer to what was not decoded.
                self._sound = int(np.searchsorted(index.times, packet.pts))
            if self._threads == 1 and self._stream.codec_context.name in SKIPPING:
                needless = shown is not None and shown < number
                self._stream.codec_context.skip_frame = "NONREF" if needless else "DEFAULT"
        # What a broken packet would have shown is not found, and said so.
        with contextlib.suppress(av.FFmpegError):
            for frame in packet.decode():
                self._count += 1
                shown = self._number(frame.pts) if index.timed else self._count
                if shown is not None:
                    self._ready.append((shown, frame))

    def _number(self, time: int | None) -> int | None:
        """The frame that is shown from ``time`` on, in units of the stream."""
        if time is None:
            return None
        times = self._index.times
        place = int(np.searchsorted(times, time))
        return place if place < len(times) and times[place] == time else None

    def _paint(self, frame: av.VideoFrame, out: Pixels) -> None:
        """Write a frame as upright RGB pixels."""
        high, wide = out.shape[:2]
        if self.rotation % 180:
            high, wide = wide, high
        same = (frame.width, frame.height) == (wide, high)
        rgb = self._painter.reformat(
            frame, wide, high, "rgb24", interpolation=None if same else "BICUBIC", threads=1
        )
        [plane] = rgb.planes
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        pixels = rows[:high, : wide * 3].reshape(high, wide, 3)
        out[...] = np.rot90(pixels, -self.rotation // 90) if self.rotation else pixels

    def _keep(self, key: tuple[int, int, int], pixels: Pixels) -> None:
        """Keep a copy of a frame while there is room."""
        if pixels.nbytes > CACHE_BYTES // 4:
            return
        self._cache[key] = pixels.copy()
        self._cached += pixels.nbytes
        while self._cached > CACHE_BYTES:
            _, oldest = self._cache.popitem(last=False)
            self._cached -= oldest.nbytes


_COVER = av.stream.Disposition.attached_pic
_Packets = list[tuple[int | None, int | None, int, bool, bool, bool]]


def _by_time(found: _Packets, start: int) -> _Index:
    """Number the packets from ``start`` on by the time at which they are shown.

    Those before the first key frame cannot be decoded; those that are to be discarded are not
    shown: an edit list cuts them off.
    """
    shown = [(p, i) for i, p in enumerate(found) if i >= start and not p[4]]
    times = np.array([p[0] for p, _ in shown], np.int64)
    by_time = np.argsort(times)
    places = np.array([i for _, i in shown], np.int64)[by_time]
    times = times[by_time]
    end = int(times[-1]) + max(found[places[-1]][2], 0) if len(times) else 0
    if len(times) > 1 and end == times[-1]:
        end += int(times[-1] - times[-2])
    # Decoding may begin at a packet that is not shown itself.
    starts = [(p[0], p[1]) for p in found[start:] if p[3] and p[0] is not None]
    numbers = [int(np.searchsorted(times, time)) for time, _ in starts]
    keys: dict[int, int] = {}
    for number, (time, decoded) in zip(numbers, starts, strict=True):
        if number < len(times):
            keys[number] = time if decoded is None else decoded
    ordered = sorted(keys) or [0]
    return _Index(
        times=times,
        end=end,
        order=places,
        keys=np.array(ordered, np.int64),
        seeks=np.array([keys.get(n, 0) for n in ordered], np.int64),
        timed=True,
    )


def _descriptor(path: str | Path) -> int:
    try:
        # Not to wait for somebody who writes into a pipe of that name.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise VideoError(f"it cannot be opened: {error.strerror}") from error


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn FFmpeg's errors into ours; running out of memory stays what it is."""
    try:
        yield
    except av.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        raise VideoError(f"{what}: {error.strerror}") from error
