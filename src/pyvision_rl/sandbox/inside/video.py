"""The videos of a session as model code reads them: decord's API, and OpenCV's for the same videos.

In: descriptors of bound videos, and what model code asks for. Out: frames as arrays that know which
frames they are (``shown.py``). Readers of one video share its one decoder: a session has one
description of the file and cannot open another. Every fetch is told to ``FETCHED``. Loaded by the
child only; imports nothing of ours.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib.util
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .frames import FrameReader, VideoError
from .shown import Frames, carrying, frames_of, shows

__all__ = [
    "FETCHED",
    "VideoError",
    "VideoReader",
    "cpu",
    "frames_of",
    "install",
    "open_video",
    "patch_cv2",
]

# A copy for this file's functions: model code may change or empty the original.
__builtins__ = dict(vars(builtins))  # type: ignore[assignment]

FETCHED: Callable[[str, Sequence[int]], None] = lambda name, numbers: None  # noqa: E731
"""Called with a binding and the frames that code asked it for."""

_BOUND: dict[str, FrameReader] = {}
_CARRYING = "cvtColor resize rotate flip hconcat vconcat copyMakeBorder"
"""OpenCV's functions whose result shows what they are given."""


class VideoReader:
    """A video as ``decord.VideoReader`` reads it; decodes nothing before a frame is asked for."""

    def __init__(
        self,
        uri: Any,
        ctx: object = None,
        width: int = -1,
        height: int = -1,
        num_threads: int = 0,
        fault_tol: int = -1,
    ) -> None:
        """Open a bound video (its name or a reader of it), a file, or an open file.

        Raises:
            VideoError: It is no video that can be read.
        """
        self._name, self._frames = _source(uri)
        self._width, self._height = int(width), int(height)
        self._next = 0

    def __len__(self) -> int:
        return self._frames.num_frames

    def __repr__(self) -> str:
        frames, (width, height) = self._frames, self._size()
        return (
            f"<VideoReader {self._name or 'file'}: {len(self)} frames, {frames.fps:.4g} fps, "
            f"{frames.duration_s:.1f} s, {width}x{height}>"
        )

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.get_batch(range(*index.indices(len(self))))
        if not isinstance(index, (int, np.integer)):
            if np.ndim(index):
                return self.get_batch(index)
            if int(index) != index:
                raise TypeError(f"a frame's number is a whole number, not {index!r}")
        number = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= number < len(self):
            raise IndexError(f"Index: {number} out of bound: {len(self)}")
        self._next = number + 1
        return _BRIDGE.out(self._fetch([number])[0])

    def __iter__(self) -> Iterator[Any]:
        for number in range(len(self)):
            yield self[number]

    def get_batch(self, indices: Any) -> Any:
        """Return the frames as [K, H, W, 3], in the order asked for; negative ones from the end."""
        return _BRIDGE.out(self._fetch(self._numbers(indices)))

    def next(self) -> Any:
        """Return the next frame.

        Raises:
            StopIteration: There is none.
        """
        if self._next >= len(self):
            raise StopIteration
        return self[self._next]

    def seek(self, pos: int) -> None:
        """Let ``next`` go on at a frame: at exactly this one, as ``seek_accurate`` does."""
        [self._next] = self._numbers(pos)

    seek_accurate = seek

    def skip_frames(self, num: int = 1) -> None:
        """Let ``next`` leave frames out."""
        self._next = min(self._next + max(int(num), 0), len(self))

    def get_avg_fps(self) -> float:
        """Return the mean frames per second."""
        return self._frames.fps

    def get_key_indices(self) -> list[int]:
        """Return the numbers of the key frames."""
        return self._frames.key_frames

    def get_frame_timestamp(self, idx: Any) -> np.ndarray[Any, Any]:
        """Return (start, end) in seconds, one row for each frame asked for."""
        if isinstance(idx, slice):
            idx = range(*idx.indices(len(self)))
        found: np.ndarray[Any, Any] = self._frames.timestamps[self._numbers(idx)]
        return found[0] if np.ndim(idx) == 0 else found

    def _size(self) -> tuple[int, int]:
        frames = self._frames
        return (
            self._width if self._width > 0 else frames.width,
            self._height if self._height > 0 else frames.height,
        )

    def _numbers(self, indices: Any) -> list[int]:
        numbers = np.array(indices, dtype=np.int64).ravel()
        given = numbers.copy()
        numbers[numbers < 0] += len(self)
        if (numbers < 0).any():
            raise IndexError(f"Invalid negative indices: {given[numbers < 0]}")
        if (numbers >= len(self)).any():
            raise IndexError(f"Out of bound indices: {given[numbers >= len(self)]}")
        return [int(number) for number in numbers]

    def _fetch(self, numbers: list[int]) -> Frames:
        if self._name:
            FETCHED(self._name, numbers)
        return shows(self._frames.get(numbers, self._size()), self._name, numbers)


class VideoCapture:
    """A bound video as ``cv2.VideoCapture`` reads it; of any other source, OpenCV's own."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Return OpenCV's own for what is no bound video."""
        if (args or kwargs) and _bound(_first(args, kwargs)) is None:
            return _CV2["VideoCapture"](*args, **kwargs)
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.open(*args, **kwargs)

    def open(self, *args: Any, **kwargs: Any) -> bool:
        """Read another bound video from its start; whether it is one."""
        source = _first(args, kwargs)
        self._reader = None if _bound(source) is None else VideoReader(source)
        self._next, self._shown = 0, -1
        return self.isOpened()

    def isOpened(self) -> bool:
        """Whether there is something to read."""
        return self._reader is not None

    def release(self) -> None:
        """Read no more."""
        self._reader = None

    def grab(self) -> bool:
        """Go on to the next frame; whether there is one."""
        if self._reader is None or self._next >= len(self._reader):
            return False
        self._shown, self._next = self._next, self._next + 1
        return True

    def retrieve(self, image: Any = None, flag: int = 0) -> tuple[bool, Any]:
        """Return the frame gone to, blue first; in ``image`` if that has its shape."""
        if self._reader is None or self._shown < 0:
            return False, None
        try:
            rgb = self._reader._fetch([self._shown])[0]
        except VideoError:
            return False, None
        bgr = rgb[..., ::-1].copy()
        if isinstance(image, np.ndarray) and (image.shape, image.dtype) == (bgr.shape, bgr.dtype):
            image[...] = bgr
        return True, bgr

    def read(self, image: Any = None) -> tuple[bool, Any]:
        """Go on to the next frame and return it, blue first; (False, None) at the end."""
        return self.retrieve(image) if self.grab() else (False, None)

    def get(self, prop: int) -> float:
        """Return a property, 0 if it is not known."""
        reader = self._reader
        if reader is None:
            return 0.0
        frames = reader._frames
        values: dict[int, Callable[[], float]] = {
            0: lambda: frames.timestamps[max(self._shown, 0), 0] * 1000,
            1: lambda: self._next,
            2: lambda: self._next / len(reader),
            3: lambda: frames.width,
            4: lambda: frames.height,
            5: lambda: frames.fps,
            6: lambda: int.from_bytes(frames.codec.encode()[:4].ljust(4), "little"),
            7: lambda: len(reader),
        }
        return float(values[prop]()) if prop in values else 0.0

    def set(self, prop: int, value: float) -> bool:
        """Go to a frame by its time in ms (0), its number (1) or its share of the video (2)."""
        if self._reader is None or prop not in (0, 1, 2):
            return False
        total = len(self._reader)
        if prop == 0:
            times = self._reader._frames.timestamps
            past = value / 1000 >= times[-1, 1]
            number = total if past else int(np.abs(times[:, 0] - value / 1000).argmin())
        else:
            number = int(value) if prop == 1 else round(value * total)
        self._next = min(max(number, 0), total)
        self._shown = self._next - 1
        return True

    def getBackendName(self) -> str:
        """Return what OpenCV says of videos that FFmpeg decodes."""
        return "FFMPEG"


class _Bridge:
    """What readers give: arrays as they are, or tensors."""

    def __init__(self) -> None:
        self.out: Callable[[Any], Any] = _same

    def set(self, name: str) -> None:
        """Choose it.

        Raises:
            ImportError: The library it needs is not installed.
        """
        if name in ("native", "numpy"):
            self.out = _same
            return
        if name != "torch" or importlib.util.find_spec("torch") is None:
            are = "numpy arrays, .asnumpy() works" if self.out is _same else "torch's tensors"
            raise ImportError(
                f"decord.bridge: {name} is not available here; the bridge stays as it is: frames "
                f"are {are}"
            )
        self.out = importlib.import_module("torch").from_numpy

    @contextlib.contextmanager
    def use(self, name: str) -> Iterator[None]:
        """Choose it for a while."""
        before = self.out
        self.set(name)
        try:
            yield
        finally:
            self.out = before


def _same(frames: Any) -> Any:
    return frames


_BRIDGE = _Bridge()
_CV2: dict[str, Any] = {}
"""What OpenCV's names were before."""


class _Device:
    """Where frames are decoded: always on the CPU."""

    def __init__(self, kind: str, number: int) -> None:
        self._words = f"{kind}({number})"

    def __repr__(self) -> str:
        return self._words


def cpu(dev_id: int = 0) -> _Device:
    """Return a CPU, as decord names it."""
    return _Device("cpu", dev_id)


def gpu(dev_id: int = 0) -> _Device:
    """Return a GPU, as decord names it; frames are decoded on the CPU all the same."""
    return _Device("gpu", dev_id)


def open_video(fd: int, name: str) -> VideoReader:
    """Bind a video under a name; the descriptor is the reader's from now on.

    Raises:
        VideoError: It is no video that can be read.
    """
    _BOUND[name] = FrameReader(fd)
    return VideoReader(name)


def _bound(source: Any) -> str | None:
    """The bound video that a source names: a reader, a name, or a path to no file that ends so."""
    if isinstance(source, VideoReader):
        return source._name or None
    if isinstance(source, (str, os.PathLike)):
        name = Path(os.fspath(source)).name.partition(".")[0]
        if name in _BOUND and not Path(source).is_file():
            return name
    return None


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What OpenCV is to read: its first argument, or the one of that name."""
    return args[0] if args else kwargs.get("filename")


def _source(uri: Any) -> tuple[str, FrameReader]:
    name = _bound(uri)
    if name is not None:
        return name, _BOUND[name]
    if isinstance(uri, VideoReader):
        return "", uri._frames
    if hasattr(uri, "read"):
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(uri, copy)
            copy.flush()
            return "", FrameReader(os.dup(copy.fileno()))
    try:
        return "", FrameReader(os.fspath(uri))
    except VideoError as error:
        known = ", ".join(_BOUND) or "none"
        raise VideoError(f"Error reading {uri}: {error} (bound videos: {known})") from None


def _refused(*args: Any, **kwargs: Any) -> Any:
    raise VideoError("videos are read without their sound, one at a time: use VideoReader")


def install() -> None:
    """Put decord, and OpenCV's VideoCapture if it is loaded, where imports find them."""
    names = "decord bridge logging ndarray base video_reader"
    parts = {
        name: types.ModuleType("decord" if name == "decord" else f"decord.{name}")
        for name in names.split()
    }
    bridge, top = parts["bridge"], parts["decord"]
    vars(bridge).update(set_bridge=_BRIDGE.set, reset_bridge=lambda: _BRIDGE.set("native"))
    vars(bridge).update({f"use_{n}": lambda n=n: _BRIDGE.use(n) for n in ("torch", "tensorflow")})
    levels = ("QUIET", "PANIC", "FATAL", "ERROR", "WARNING", "INFO", "VERBOSE", "DEBUG", "TRACE")
    vars(parts["logging"]).update({name: 8 * n - 8 for n, name in enumerate(levels)})
    vars(parts["logging"]).update(set_level=lambda level=16: None)
    vars(parts["ndarray"]).update(cpu=cpu, gpu=gpu, NDArray=Frames)
    vars(parts["base"]).update(DECORDError=VideoError)
    vars(parts["video_reader"]).update(VideoReader=VideoReader)
    top.__path__ = []
    vars(top).update(parts, nd=parts["ndarray"], VideoReader=VideoReader, cpu=cpu, gpu=gpu)
    vars(top).update(DECORDError=VideoError, __version__="0.6.0")
    vars(top).update(dict.fromkeys(("AudioReader", "AVReader", "VideoLoader"), _refused))
    del top.__dict__["decord"]
    for module in parts.values():
        sys.modules[module.__name__] = module
    patch_cv2()


def patch_cv2() -> None:
    """Let OpenCV, if it is loaded, read bound videos and pass on what frames arrays show."""
    cv2: Any = sys.modules.get("cv2")
    if cv2 is None or getattr(cv2, "VideoCapture", None) is VideoCapture:
        return
    _CV2["VideoCapture"] = cv2.VideoCapture
    cv2.VideoCapture = VideoCapture
    for name in _CARRYING.split():
        setattr(cv2, name, carrying(getattr(cv2, name)))
