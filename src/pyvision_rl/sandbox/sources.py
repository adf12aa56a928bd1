"""What a shown picture shows of what is bound: claims about images are checked by the pixels.

In: the note that came with a picture, and the pixels of both. Out: an ``ImageSource`` that is
``verified`` when the picture was seen to show that part, or ``VideoFrames``, which stay the word of
the session. A claim that names nothing is dropped. Nothing here trusts the session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from pyvision_rl.sandbox.inside.protocol import Frames, Note
from pyvision_rl.sandbox.replies import Shown
from pyvision_rl.types import ImageSource, Media, Source, VideoFrames

GRID = 16
"""Cells, each side, in which a resized picture is compared."""
TOLERANCE = 8.0
"""The mean difference allowed there, of 255; resampling rules differ by less."""
_FRAME = 2
"""Pixels on each side of a picture in a figure that its axes may draw over."""
MAX_FRAMES = 2**17
"""Of one video in one record; further ones are counted only."""


def confirm(
    shown: Shown, bindings: Mapping[str, Media], pixels: Callable[[Media], bytes]
) -> Source | None:
    """Return what the picture shows; None when nothing bound is named, or no part of it.

    Args:
        shown: The picture and the note that came with it.
        bindings: What the session holds, by name.
        pixels: Gives the raw RGB pixels of a binding.

    Raises:
        SandboxError: A bound image cannot be read.
    """
    note = shown.note
    if isinstance(note, Frames):
        return known_frames(note, bindings)
    media = None if note is None else bindings.get(note.name)
    if note is None or media is None or media.kind != "image":
        return None
    left, top, right, bottom = note.box
    box = (max(left, 0), max(top, 0), min(right, media.width), min(bottom, media.height))
    if box[0] >= box[2] or box[1] >= box[3]:
        return None
    if box != note.box or not _inside(note.window, shown):
        return ImageSource(note.name, box)
    return ImageSource(note.name, box, _matches(shown, note, media, pixels(media)))


def known_frames(claim: Frames, bindings: Mapping[str, Media]) -> VideoFrames | None:
    """Return the frames of a claim that are frames of a bound video; None if there are none."""
    media = bindings.get(claim.name)
    if media is None or media.video is None:
        return None
    count = media.video.num_frames
    numbers: list[int] = []
    left_out = claim.total - sum(last - first + 1 for first, last in claim.runs)
    for first, last in claim.runs:
        end = min(last + 1, count)
        room = MAX_FRAMES - len(numbers)
        numbers += range(first, min(end, first + room))
        left_out += max(end - first - room, 0)
    left_out = max(min(left_out, count - len(numbers)), 0)
    return VideoFrames(claim.name, tuple(numbers), left_out) if numbers else None


def _inside(window: tuple[int, int, int, int], shown: Shown) -> bool:
    left, top, right, bottom = window
    return 0 <= left < right <= shown.width and 0 <= top < bottom <= shown.height


def _matches(shown: Shown, note: Note, media: Media, pixels: bytes) -> bool:
    """Whether the window of the picture shows the box of the image."""
    left, top, right, bottom = note.box
    source = np.frombuffer(pixels, np.uint8).reshape(media.height, media.width, 3)
    part = source[top:bottom, left:right]
    picture = np.frombuffer(shown.pixels, np.uint8).reshape(shown.height, shown.width, 3)
    x0, y0, x1, y1 = note.window
    seen = picture[y0:y1, x0:x1]
    if seen.shape == part.shape and np.array_equal(seen, part):
        return True
    # A claim of a few pixels would say little: one colour resembles another.
    if min(seen.shape[:2]) <= 2 * _FRAME + 1:
        return False
    high, wide = seen.shape[:2]
    inner = seen[_FRAME : high - _FRAME, _FRAME : wide - _FRAME]
    share = (_FRAME / wide * (right - left), _FRAME / high * (bottom - top))
    box = (share[0], share[1], right - left - share[0], bottom - top - share[1])
    size = (min(GRID, right - left, inner.shape[1]), min(GRID, bottom - top, inner.shape[0]))
    want = _averages(part, size, box)
    found = _averages(inner, size, (0, 0, inner.shape[1], inner.shape[0]))
    return float(np.abs(want - found).mean()) <= TOLERANCE


def _averages(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    size: tuple[int, int],
    box: tuple[float, float, float, float],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """[height, width, 3] the mean colours of the cells of a grid laid over ``box``."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize(size, Image.Resampling.BOX, box), np.float32)
