"""Images and videos, and what happened when code looked at them.

The two records that the sandbox shares with the rest of an episode. Units: pixels for sizes and
boxes, seconds for ``*_s``. Imports the standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What is known of a video before any frame is decoded."""

    num_frames: int
    """Frames are numbered from 0, in the order they are shown."""
    fps: float
    """Mean frames per second."""
    duration_s: float

    def __post_init__(self) -> None:
        if self.num_frames < 1 or not (self.fps > 0 and self.duration_s > 0):
            raise ValueError(f"a video without frames or length: {self}")


@dataclass(frozen=True, slots=True)
class Media:
    """One image or video, named by its content: equal content, equal record."""

    kind: Literal["image", "video"]
    sha256: str
    """Hex digest (see ``media``): of an image's pixels, of a video's file."""
    width: int
    """Upright, as shown; ``height`` too."""
    height: int
    source: bytes | Path | None = field(default=None, compare=False, repr=False)
    """Raw RGB pixels (width*height*3 bytes, row-major), or the file that holds the content."""
    video: VideoFacts | None = None
    """Of a video."""

    def __post_init__(self) -> None:
        if (self.kind == "video") != (self.video is not None):
            raise ValueError(f"{self.kind} {self.sha256}: a video, and nothing else, has its facts")


class ExecStatus(StrEnum):
    """What became of one block of model code. A failure of ours is a SandboxError instead."""

    OK = "ok"
    RAISED = "raised"
    TIMEOUT = "timeout"
    """Interrupted at the limit; variables are kept."""
    KILLED = "killed"
    """Did not stop when interrupted; variables are lost."""
    OOM = "oom"
    DIED = "died"
    """The interpreter exited or crashed; variables are lost."""
    VIOLATION = "violation"
    """The session broke the protocol and was ended; variables are lost."""


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Which part of a bound image a shown picture shows."""

    name: str
    """Of the binding, e.g. ``image_clue_0``."""
    box: tuple[int, int, int, int]
    """(left, top, right, bottom) in its pixels; right and bottom are exclusive."""
    verified: bool = False
    """The sandbox compared the pixels. False is the word of the process that ran model code."""


@dataclass(frozen=True, slots=True)
class VideoFrames:
    """Some frames of a bound video; the word of the process that ran model code."""

    name: str
    """Of the binding, e.g. ``video_clue_0``."""
    frames: tuple[int, ...]
    """Numbers, ascending, each once."""
    num_left_out: int = 0
    """Further frames that the sandbox was told of, and left out because there were too many."""


Source: TypeAlias = ImageSource | VideoFrames
"""What a shown picture shows."""


@dataclass(frozen=True, slots=True)
class Execution:
    """What happened when the sandbox ran one block of the model's code."""

    status: ExecStatus
    output: str
    """stdout, stderr and the last expression's value, in order, already cut to the limits."""
    error: str = ""
    """The end of the traceback, or why the code was stopped; empty when ``status`` is OK."""
    images: tuple[Media, ...] = ()
    """Pictures shown, in order; the session has bound them as ``image_clue_k``."""
    duration_s: float = 0.0
    state_lost: bool = False
    """True when the interpreter was replaced; the next run starts with the initial bindings and
    the images shown so far."""
    parts: tuple[str | int, ...] = ()
    """``output`` in pieces, and between them the indices of ``images``, as they happened. Empty
    when the order is not known."""
    sources: tuple[Source | None, ...] = ()
    """For each image what it shows, None where that is not known. Empty when nothing is known."""
    fetched: tuple[VideoFrames, ...] = ()
    """The frames that the code asked the video readers for, shown or not."""

    def __post_init__(self) -> None:
        if self.parts:
            if "".join(p for p in self.parts if isinstance(p, str)) != self.output:
                raise ValueError("the texts of the parts are not the output")
            if [p for p in self.parts if isinstance(p, int)] != list(range(len(self.images))):
                raise ValueError("the parts do not name every image once, in order")
        if self.sources and len(self.sources) != len(self.images):
            raise ValueError(f"{len(self.sources)} sources for {len(self.images)} images")
