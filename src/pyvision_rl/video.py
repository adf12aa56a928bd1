"""Videos as records: probe them, and take single frames out of them as images.

In: video files. Out: ``Media`` with its ``VideoFacts``, named by the hash of the file's bytes; and
frames as image ``Media``. A process of its own (``video_worker``), one for all files, does the
decoding, so that none can crash or hang a run: what goes wrong there is a ``TaskError`` that names
the file. Sound is ignored. Binds nothing in a sandbox: there the file itself is opened. Needs the
extra ``video``.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import json
import math
import os
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from pyvision_rl.config import PromptsConfig
from pyvision_rl.errors import TaskError
from pyvision_rl.media import pixels_media
from pyvision_rl.registry import missing
from pyvision_rl.types import Media, VideoFacts

REPLY_S = 120.0
"""The worker is ended when one reply takes longer."""
MAX_REPLY = 2**30
"""Bytes of one frame that we take from the worker."""
_PASSED_ON = ("LD_LIBRARY_PATH",)


@dataclass(frozen=True, slots=True)
class Decoded:
    """One frame of a video."""

    number: int
    time_s: float
    """When it begins to be shown."""
    image: Media


def require_av(where: str) -> None:
    """Raise the ConfigError that names the extra when videos cannot be read here."""
    if importlib.util.find_spec("av") is None:
        raise missing(ModuleNotFoundError("no av", name="av"), where)


def file_video(path: Path) -> Media:
    """Return the record of a video file; ``source`` is the file.

    Raises:
        ConfigError: The extra ``video`` is not installed.
        TaskError: The file is missing, or is no video with frames.
    """
    return _probed(path, *_state(path))


def check_video(path: Path) -> Media:
    """Return the record, after a look at the first frame, the last, and the file's end.

    Raises:
        ConfigError: The extra ``video`` is not installed.
        TaskError: As ``file_video``; or the file is cut short, or one of the two is damaged.
    """
    _state(path)
    _worker().ask(path, "check")
    return file_video(path)


def video_frames(
    media: Media, indices: Sequence[int], max_pixels: int | None = None
) -> list[Media]:
    """Return frames as images, in the order asked for (see ``decoded``)."""
    return [frame.image for frame in decoded(media, indices, max_pixels)]


def decoded(media: Media, indices: Sequence[int], max_pixels: int | None = None) -> list[Decoded]:
    """Return frames of a video, in the order asked for.

    Args:
        media: A video whose source is its file.
        indices: From 0 to ``num_frames`` - 1.
        max_pixels: Larger frames are scaled down to it, their aspect kept.

    Raises:
        IndexError: There is no such frame.
        ConfigError: The extra ``video`` is not installed.
        TaskError: The file is gone, is another one by now, or a frame is damaged.
    """
    path, facts = media.source, media.video
    if facts is None or not isinstance(path, Path):
        raise TaskError(f"{media.sha256}: the record names no video file")
    wrong = [i for i in indices if not 0 <= i < facts.num_frames]
    if wrong:
        raise IndexError(f"{path}: no frame {wrong[0]}; there are {facts.num_frames}")
    if file_video(path).sha256 != media.sha256:
        raise TaskError(f"{path}: changed since it was first read")
    size = _scaled(media.width, media.height, max_pixels)
    # Ascending, each once: the decoder then goes through the file once.
    numbers = sorted(set(indices))
    found: dict[int, Decoded] = {}
    replies = _worker().ask(path, "frames", numbers, size) if numbers else ()
    for number, (head, data) in zip(numbers, replies, strict=True):
        image = pixels_media(head["width"], head["height"], data)
        found[number] = Decoded(number, head["time_s"], image)
    return [found[i] for i in indices]


def spread(media: Media, config: PromptsConfig) -> list[int]:
    """Return which frames of a video ``[prompts]`` puts into the context."""
    assert media.video is not None
    count = config.num_frames
    if count is None:
        assert config.frames_fps is not None
        wanted = round(config.frames_fps * media.video.duration_s)
        count = min(max(1, wanted), config.max_frames)
    return uniform(media.video.num_frames, count)


def uniform(num_frames: int, count: int) -> list[int]:
    """Return the centres of ``count`` equal pieces of a video; all frames if it has fewer."""
    count = min(count, num_frames)
    return [(2 * k + 1) * num_frames // (2 * count) for k in range(count)]


def _scaled(width: int, height: int, max_pixels: int | None) -> tuple[int, int] | None:
    """The largest size of the same aspect within the limit; None if it is the frame's own."""
    if max_pixels is None or width * height <= max_pixels:
        return None
    factor = math.sqrt(max_pixels / (width * height))
    return max(1, math.floor(width * factor)), max(1, math.floor(height * factor))


def _state(path: Path) -> tuple[int, int]:
    """Size and time of change of a video file, by which a changed one is told."""
    require_av(str(path))
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise TaskError(f"{path}: no such file") from error
    except OSError as error:
        raise TaskError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise TaskError(f"{str(path)!r} cannot be the name of a file: {error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise TaskError(f"{path}: not a regular file")
    if found.st_size == 0:
        raise TaskError(f"{path}: not a video (the file is empty)")
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=2**16)
def _probed(path: Path, size: int, changed: int) -> Media:
    """The record of a file in one state; a failure is not kept."""
    ((head, _),) = _worker().ask(path, "facts")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        facts = VideoFacts(head["num_frames"], head["fps"], head["duration_s"])
    except (OSError, ValueError) as error:
        raise TaskError(f"{path}: {error}") from error
    return Media("video", digest, head["width"], head["height"], path, facts)


@cache
def _worker() -> Worker:
    """The one worker of this process."""
    made = Worker()
    atexit.register(made.end)
    return made


class Worker:
    """Asks a worker process, one request at a time; a new one is started after one has ended."""

    def __init__(self, reply_s: float = REPLY_S) -> None:
        self._reply_s = reply_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(
        self,
        path: Path,
        what: str,
        numbers: Sequence[int] = (),
        size: tuple[int, int] | None = None,
    ) -> list[tuple[dict[str, Any], bytes]]:
        """Return the replies: one, or one per frame asked for.

        Raises:
            TaskError: What the worker says of the file, or what became of the worker.
        """
        # Absolute: the worker stays in the folder that it was started in.
        request: dict[str, Any] = {"ask": what, "path": str(path.absolute())}
        request["numbers"] = [*numbers]
        request |= {"size": size, "alarm_s": int(2 * self._reply_s)}
        replies: list[tuple[dict[str, Any], bytes]] = []
        with self._lock:
            process = self._running()
            try:
                _write(process, json.dumps(request).encode() + b"\n")
                while len(replies) < max(1, len(numbers)) and not _failed(replies):
                    replies.append(_reply(process, time.monotonic() + self._reply_s))
            except (OSError, EOFError, ValueError) as error:
                self.end()
                raise TaskError(f"{path}: {_fate(process, error)}") from error
            except BaseException:
                # Stopped between two replies: what comes next would answer another question.
                self.end()
                raise
        if _failed(replies):
            raise TaskError(f"{path}: {replies[-1][0]['error']}")
        return replies

    @property
    def pid(self) -> int | None:
        """Of the process, if there is one."""
        return None if self._process is None else self._process.pid

    def end(self) -> None:
        """End the process. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _running(self) -> subprocess.Popen[bytes]:
        """The process, started anew if there is none."""
        if self._process is None or self._process.poll() is not None:
            self.end()
            root = str(Path(__file__).parents[1])
            environment = {n: os.environ[n] for n in _PASSED_ON if n in os.environ}
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-m", "pyvision_rl.video_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**environment, "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])},
                # Control-C is for the driver.
                start_new_session=True,
            )
        return self._process


def _failed(replies: Sequence[tuple[dict[str, Any], bytes]]) -> bool:
    """Whether the last reply tells what is wrong with the file; none follows it."""
    return bool(replies) and "error" in replies[-1][0]


def _write(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


def _reply(process: subprocess.Popen[bytes], until: float) -> tuple[dict[str, Any], bytes]:
    """The next reply of a worker: its JSON, and the pixels behind it."""
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    head = json.loads(_read(pipe, int.from_bytes(_read(pipe, 4, until), "big"), until))
    return head, _read(pipe, head.get("bytes", 0), until)


def _read(pipe: int, count: int, until: float) -> bytes:
    """Exactly ``count`` bytes.

    Raises:
        EOFError: The other end is closed.
        TimeoutError: They did not come in time.
        ValueError: They are too many.
    """
    if not 0 <= count <= MAX_REPLY:
        raise ValueError(f"a reply of {count} bytes")
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    data = bytearray()
    while len(data) < count:
        if not poll.poll(max(0.0, 1000 * (until - time.monotonic()))):
            raise TimeoutError
        part = os.read(pipe, min(count - len(data), 2**20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def _fate(process: subprocess.Popen[bytes], error: Exception) -> str:
    """What became of a worker that has ended, for people."""
    if isinstance(error, TimeoutError):
        return "the decoder took too long and was ended"
    if isinstance(error, EOFError | BrokenPipeError) and process.returncode < 0:
        return f"the decoder crashed ({signal.Signals(-process.returncode).name})"
    return f"the decoder's answer cannot be read ({error!r}, exit status {process.returncode})"
