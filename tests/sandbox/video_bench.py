"""Videos for the tests of the sandbox, and sessions that hold them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import av
import numpy as np

from pyvision_rl.types import Media, VideoFacts
from tests.clips import counting, write_clip

NUM_FRAMES = 48
HOURS_10 = 36_000
"""Frames of ten hours, one a second."""


def bound(path: Path, num_frames: int = NUM_FRAMES, fps: float = 8.0) -> Media:
    """The record of a file as a task set would make it, right or wrong."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Media("video", digest, 64, 48, path, VideoFacts(num_frames, fps, num_frames / fps))


def clip(folder: Path, name: str = "clip.mp4", num_frames: int = NUM_FRAMES) -> Media:
    """A clip whose frames are told apart by their grey levels."""
    path = write_clip(folder / name, counting(num_frames), bf="2", g="12", preset="ultrafast")
    return bound(path, num_frames)


def ten_hours(folder: Path) -> Media:
    """Ten hours in a few MB: one key frame, stored once for each second."""
    one = write_clip(folder / "one.mp4", np.zeros((1, 16, 16, 3), np.uint8), 1)
    path = folder / "long.mp4"
    with av.open(str(one)) as source, av.open(str(path), "w") as made:
        [given] = source.streams.video
        packet = next(source.demux(given))
        stream = made.add_stream_from_template(given)
        unit = int(1 / packet.time_base)
        for number in range(HOURS_10):
            copy = av.Packet(bytes(packet))
            copy.stream, copy.time_base, copy.is_keyframe = stream, packet.time_base, True
            copy.pts = copy.dts = number * unit
            copy.duration = unit
            made.mux(copy)
    return bound(path, HOURS_10, 1.0)
