"""Where pictures come from: bound images are tagged, and what is cut from them keeps the tag.

A tag is ``(binding, left, top, right, bottom)`` in pixels of the bound image, kept as an attribute
of a PIL image. Crops compose, resizing and conversion keep the box, anything else loses it. An
array that is shown is recognised when it is a slice of a bound image's pixels. A figure's only
image passes its tag on to the figure. All of this is open to model code and decides nothing: the
driver compares the pixels.

Frames of videos go the same way by a label of their own, ``(binding, numbers)``, which nothing that
PIL does to one picture loses; what shows several pictures has all their frames. Where frames come
from is asked of the video reader, once it is loaded. Loaded by the child only; imports nothing of
ours.
"""

from __future__ import annotations

import builtins
import functools
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from .protocol import Frames, Note, Origin, claim

# A copy for this file's functions: model code may change or empty the original.
__builtins__ = dict(vars(builtins))  # type: ignore[assignment]

Tag: TypeAlias = tuple[str, float, float, float, float]
Label: TypeAlias = tuple[str, tuple[int, ...]]
FRAMES_OF: Callable[[Any], Label | None] | None = None
"""Tells which frames of which video an array shows, where there are videos."""
_TAG, _LABEL = "_pvrl_tag", "_pvrl_frames"
_BOUND: dict[str, weakref.ref[Image.Image]] = {}
_FAR = 2**30
"""Beyond every coordinate; a frame holds 32 bits."""


def tag(image: Image.Image, name: str) -> None:
    """Note that the image is the binding ``name``."""
    image.__dict__.pop(_LABEL, None)
    image.__dict__[_TAG] = (name, 0, 0, *image.size)
    _BOUND[name] = weakref.ref(image)


def label(shown: object, value: Any) -> None:
    """Note that a picture shows an array or an image, with the frames that are known of it."""
    found = _frames_of(value)
    if found is None:
        vars(shown).pop(_LABEL, None)
    else:
        vars(shown)[_LABEL] = found


def image_note(image: Image.Image) -> Origin:
    """Return what is known of the image, which fills the whole picture that is shown."""
    if _LABEL in image.__dict__:
        return _claim(image.__dict__[_LABEL])
    found: Tag | None = image.__dict__.get(_TAG)
    if found is None:
        return None
    return _note(found[0], found[1:], (0, 0, *image.size))


def figure_note(figure: Figure, height: int) -> Origin:
    """Return what is known of a figure that was drawn ``height`` pixels high."""
    images = [image for axes in figure.axes for image in axes.images]
    frames = _union([vars(image).get(_LABEL) for image in images])
    if frames is not None:
        return _claim(frames)
    if len(images) != 1 or _TAG not in images[0].__dict__:
        return None
    [image] = images
    name, *corners = image.__dict__[_TAG]
    left, right, bottom, top = image.get_extent()
    (x0, y0), (x1, y1) = image.axes.transData.transform([(left, top), (right, bottom)])
    if image.origin != "upper" or not (x0 < x1 and y0 > y1):
        return None
    frame = image.axes.bbox
    window = (max(x0, frame.x0), min(y0, frame.y1), min(x1, frame.x1), max(y1, frame.y0))
    part = [
        (window[0] - x0) / (x1 - x0),
        (window[1] - y0) / (y1 - y0),
        (window[2] - x0) / (x1 - x0),
        (window[3] - y0) / (y1 - y0),
    ]
    shown = (window[0], height - window[1], window[2], height - window[3])
    return _note(name, _inner(corners, part), shown)


def install() -> None:
    """Make PIL and matplotlib pass tags on."""
    _carry("crop", lambda self, box=None: box)
    _carry("resize", lambda self, size, resample=None, box=None, *rest, **options: box)
    _carry("copy", lambda self: None)
    _carry("convert", lambda self, *args, **options: None)
    for method in ("crop", "resize", "copy", "convert", "rotate", "transpose", "filter", "point"):
        _carry_label(method)
    set_data, from_array, paste = AxesImage.set_data, Image.fromarray, Image.Image.paste

    @functools.wraps(set_data)
    def tagged(self: Any, A: Any) -> None:
        set_data(self, A)
        label(self, A)
        found = A.__dict__.get(_TAG) if isinstance(A, Image.Image) else _tag_of(A)
        if found is not None:
            self.__dict__[_TAG] = found
        else:
            self.__dict__.pop(_TAG, None)

    @functools.wraps(from_array)
    def made(obj: Any, *args: Any, **kwargs: Any) -> Image.Image:
        image = from_array(obj, *args, **kwargs)
        label(image, obj)
        found = _tag_of(obj)
        if found is not None:
            image.__dict__[_TAG] = found
        return image

    @functools.wraps(paste)
    def pasted(self: Image.Image, im: Any, *args: Any, **kwargs: Any) -> None:
        paste(self, im, *args, **kwargs)
        frames = _union([_frames_of(self), _frames_of(im)])
        if frames is not None:
            self.__dict__[_LABEL] = frames

    images: Any = Image
    images.fromarray, images.Image.paste = made, pasted

    artist: Any = AxesImage
    artist.set_data = tagged


def _carry(method: str, box_of: Callable[..., Any]) -> None:
    """Let the results of an image's method carry its tag; ``box_of`` names the part they show."""
    image_class: Any = Image.Image
    make = getattr(image_class, method)

    @functools.wraps(make)
    def carrying(self: Image.Image, *args: Any, **kwargs: Any) -> Image.Image:
        made: Image.Image = make(self, *args, **kwargs)
        found: Tag | None = self.__dict__.get(_TAG)
        if found is not None and made is not self:
            box = box_of(self, *args, **kwargs)
            width, height = self.size
            if box is None:
                made.__dict__[_TAG] = found
            elif width and height:
                left, top, right, bottom = map(float, box)
                part = [left / width, top / height, right / width, bottom / height]
                made.__dict__[_TAG] = (found[0], *_inner(found[1:], part))
        return made

    setattr(image_class, method, carrying)


def _carry_label(method: str) -> None:
    """Let the results of an image's method show the frames that the image shows."""
    image_class: Any = Image.Image
    make = getattr(image_class, method)

    @functools.wraps(make)
    def carrying(self: Image.Image, *args: Any, **kwargs: Any) -> Image.Image:
        made: Image.Image = make(self, *args, **kwargs)
        if _LABEL in self.__dict__ and made is not self:
            made.__dict__[_LABEL] = self.__dict__[_LABEL]
        return made

    setattr(image_class, method, carrying)


def _frames_of(value: Any) -> Label | None:
    """The frames that an image or an array shows."""
    if isinstance(value, Image.Image):
        found: Label | None = value.__dict__.get(_LABEL)
        return found
    try:
        return None if FRAMES_OF is None else FRAMES_OF(value)
    except Exception:  # noqa: BLE001 - what model code broke says nothing, and shows all the same
        return None


def _claim(found: Label) -> Frames:
    name, numbers = found
    return claim(str(name), sorted({n for n in map(int, numbers) if 0 <= n < _FAR}))


def _union(labels: list[Label | None]) -> Label | None:
    """The frames of several pictures: of the video that most of them are of."""
    found: dict[str, set[int]] = {}
    for name, numbers in filter(None, labels):
        found.setdefault(name, set()).update(numbers)
    if not found:
        return None
    name = max(found, key=lambda name: len(found[name]))
    return name, tuple(sorted(found[name]))


def _tag_of(array: Any) -> Tag | None:
    """The tag of an array; a binding that model code closed or broke is the source of none."""
    try:
        return _slice_tag(array)
    except Exception:  # noqa: BLE001 - whatever the broken binding made it raise
        return None


def _slice_tag(array: Any) -> Tag | None:
    """The tag of an array that is a piece of the pixels of a bound image, step 1 each way."""
    if not isinstance(array, np.ndarray) or array.ndim != 3 or array.dtype != np.uint8:
        return None
    if not array.size:
        return None
    whole = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    if whole.ndim != 3 or array.strides != whole.strides or not whole.flags.c_contiguous:
        return None
    start = array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    top, left = start // whole.strides[0], start % whole.strides[0] // whole.strides[1]
    high, wide = array.shape[:2]
    if start < 0 or left + wide > whole.shape[1] or top + high > whole.shape[0]:
        return None
    for name, find in _BOUND.items():
        image = find()
        if image is not None and image.size == whole.shape[1::-1] and image.mode == "RGB":
            ends = [(x, y) for x in (left, left + wide - 1) for y in (top, top + high - 1)]
            if all(image.getpixel(end) == tuple(whole[end[1], end[0]].tolist()) for end in ends):
                return (name, left, top, left + wide, top + high)
    return None


def _inner(box: Any, part: list[float]) -> tuple[float, float, float, float]:
    """The part of a box; ``part`` in shares of its width and height."""
    left, top, right, bottom = box
    wide, high = right - left, bottom - top
    return (
        left + part[0] * wide,
        top + part[1] * high,
        left + part[2] * wide,
        top + part[3] * high,
    )


def _note(name: str, box: Any, window: Any) -> Note | None:
    corners = [round(float(value)) for value in (*box, *window)]
    if any(abs(value) > _FAR for value in corners):
        return None
    left, top, right, bottom, *rest = corners
    return Note(name, (left, top, right, bottom), (rest[0], rest[1], rest[2], rest[3]))
