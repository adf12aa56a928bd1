"""Small videos, written when a test wants them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt


def counting(num_frames: int, width: int = 64, height: int = 48) -> npt.NDArray[np.uint8]:
    """[N, height, width, 3] frames whose grey level tells their number, up to the codec's error.

    Frame n is ``grey_of(n)`` all over; the levels of neighbours are far apart.
    """
    levels = np.array([grey_of(n) for n in range(num_frames)], np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).copy()


def grey_of(number: int) -> int:
    """Return the grey level of a frame: 40 to 215, 53 or more from its neighbours'."""
    return 40 + 53 * number % 176


def write_clip(
    path: Path,
    frames: Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8],
    fps: float | Fraction = 8,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pts: Sequence[int] | None = None,
    index_first: bool = False,
    **options: str,
) -> Path:
    """Write frames [H, W, 3] uint8 RGB as a video; the suffix picks the container.

    Args:
        path: The file.
        frames: At least one; even sides unless ``pix_fmt`` has no chroma to share.
        fps: Frames per second.
        codec: An encoder's name.
        pix_fmt: What the encoder is given.
        pts: Of each frame, in units of 1 / ``fps``; None: one after the other.
        index_first: An mp4's index before its frames, so that a cut file still opens.
        options: Of the encoder, e.g. ``bf="2"``, ``g="10"``.
    """
    import av

    rate = Fraction(fps).limit_denominator(100_000)
    height, width = frames[0].shape[:2]
    flags = {"movflags": "faststart"} if index_first else {}
    with _same_priority(), av.open(str(path), "w", options=flags) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.thread_count = 1
        stream.codec_context.time_base = 1 / rate
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts = number if pts is None else pts[number]
            frame.time_base = 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@contextmanager
def _same_priority() -> Iterator[None]:
    """Undo what SVT-AV1 does to a root's thread that opens it: real-time, above all else.

    Whatever that thread started later would be real-time too, and keep the machine to itself.
    """
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)
