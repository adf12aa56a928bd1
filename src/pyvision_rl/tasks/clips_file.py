"""Clips as files: H.264 in mp4, made once and found again by name.

In: frames and a folder. Out: the file and its ``Media``. Equal frames give equal bytes with one
version of PyAV. A file is there whole or not at all, so several processes may share a folder.
Encodes only; nothing here opens a video.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from uuid import uuid4

from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.tasks.clips_scene import Frames
from pyvision_rl.types import Media, VideoFacts

ENCODER = {
    "preset": "ultrafast",
    "crf": "23",
    "g": "16",
    "bf": "0",
    "x264-params": "scenecut=0",
}
"""A key frame every 16: reaching any frame costs little."""


def default_folder() -> Path:
    """Return this user's folder for clips, under the temporary one; made if it is not there.

    Raises:
        ConfigError: It cannot be made, or somebody else owns it.
    """
    folder = Path(tempfile.gettempdir()) / f"pyvision-rl-clips-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.stat().st_uid
    except OSError as error:
        raise ConfigError(
            f"{folder}: {error.strerror or error}; name another with tasks.options.folder"
        ) from error
    if owner != os.getuid():
        raise ConfigError(f"{folder} is of another user; name another with tasks.options.folder")
    return folder


def clip(path: Path, side: int, facts: VideoFacts, frames: Callable[[], Frames]) -> Media:
    """Return the record of the clip at ``path``; where there is none, ``frames`` makes its frames.

    Raises:
        TaskError: The file can be neither read nor written.
    """
    try:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = encode(frames(), facts.fps)
            _write(path, data)
    except OSError as error:
        raise TaskError(f"{path}: {error.strerror or error}") from error
    digest = hashlib.sha256(data).hexdigest()
    return Media("video", digest, side, side, source=path, video=facts)


def encode(frames: Frames, fps: float) -> bytes:
    """Return frames as an mp4 file."""
    import av

    rate = Fraction(fps).limit_denominator(1000)
    file = BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=rate, options=ENCODER)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # Bytes must not depend on how many cores there are.
        stream.thread_count = 1
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def _write(path: Path, data: bytes) -> None:
    """Write a file as a whole; of several writers of one file, the last one stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
