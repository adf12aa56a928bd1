"""From a picture to what a Qwen-VL vision tower reads: resize rule, patch grid, patches.

In: ``Media`` and the ``VisionSpec`` of a model. Out: grid sizes, token counts and float32 patches,
equal to those of transformers' ``Qwen2VLImageProcessorPil``; and segments with their placeholders
expanded. NumPy and Pillow only: counting the tokens of a prompt needs no network. A still image
repeats its frame over ``temporal_patch_size``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from pyvision_rl.errors import ConfigError, RenderError
from pyvision_rl.media import open_image
from pyvision_rl.types import Media, Segment

Triple: TypeAlias = tuple[float, float, float]
"""One number per colour channel: red, green, blue."""
MAX_ASPECT_RATIO = 200
"""Longer side / shorter side; beyond it the Qwen-VL processors refuse an image."""


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """How a model wants its images; the defaults are Qwen2.5-VL's."""

    patch_size: int = 14
    """Pixels, each side."""
    merge_size: int = 2
    """Patches, each side, that become one token."""
    temporal_patch_size: int = 2
    min_pixels: int = 3136
    max_pixels: int = 12_845_056
    mean: Triple = (0.48145466, 0.4578275, 0.40821073)
    """Subtracted from values in [0, 1]."""
    std: Triple = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        for name in ("patch_size", "merge_size", "temporal_patch_size", "min_pixels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"vision {name} = {getattr(self, name)}; must be at least 1")
        if self.min_pixels > self.max_pixels:
            raise ConfigError(
                f"vision min_pixels = {self.min_pixels} is above max_pixels = {self.max_pixels}"
            )
        if not all(value > 0 for value in self.std):
            raise ConfigError(f"vision std = {self.std}; every value must be above 0")

    @property
    def factor(self) -> int:
        """Pixels, each side, of one token: sizes are rounded to multiples of it."""
        return self.patch_size * self.merge_size


def too_long(width: int, height: int) -> bool:
    """Return whether no Qwen-VL model takes an image of this shape."""
    return max(width, height) > MAX_ASPECT_RATIO * min(width, height)


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Return the (height, width) an image is scaled to.

    Both are multiples of ``factor``, the area is brought into [min_pixels, max_pixels] and the
    aspect ratio is kept as well as that allows (Qwen2-VL, arXiv 2409.12191).

    Raises:
        RenderError: No such size: an empty image, or one longer than ``MAX_ASPECT_RATIO``.
    """
    if min(height, width) < 1 or too_long(width, height):
        raise RenderError(
            f"an image of {width} x {height} pixels cannot be shown: the sides must be positive "
            f"and within a factor of {MAX_ASPECT_RATIO}"
        )
    rows, columns = round(height / factor), round(width / factor)
    area = rows * columns * factor**2
    if area > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows = max(1, math.floor(height / shrink / factor))
        columns = max(1, math.floor(width / shrink / factor))
    elif area < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * grow / factor)
        columns = math.ceil(width * grow / factor)
    return rows * factor, columns * factor


def grid(media: Media, spec: VisionSpec) -> tuple[int, int, int]:
    """Return (frames, rows, columns) in patches; frames is 1. Reads no pixels.

    Raises:
        RenderError: Not an image, or of a shape that cannot be shown.
    """
    if media.kind != "image":
        raise RenderError(f"{media.sha256} is a {media.kind}; only images have a patch grid")
    height, width = smart_resize(
        media.height, media.width, spec.factor, spec.min_pixels, spec.max_pixels
    )
    return 1, height // spec.patch_size, width // spec.patch_size


def scaled_size(media: Media, spec: VisionSpec) -> tuple[int, int]:
    """Return the (width, height) at which an image can be kept or sent, and be seen as it is now.

    That is the size at which the network sees it, or its own where an image of that size would be
    scaled once more or be refused: that of a long strip, or between pixel limits close together.
    """
    seen = grid(media, spec)
    width, height = seen[2] * spec.patch_size, seen[1] * spec.patch_size
    if too_long(width, height) or grid(Media("image", "", width, height), spec) != seen:
        return media.width, media.height
    return width, height


def num_tokens(media: Media, spec: VisionSpec) -> int:
    """Return how many tokens the image takes in the network's context."""
    frames, rows, columns = grid(media, spec)
    return frames * rows * columns // spec.merge_size**2


def expand_segment(
    segment: Segment, image_token_id: int, spec: VisionSpec
) -> tuple[list[int], list[tuple[int, int, int]]]:
    """Return a segment as the network reads it. Nothing else expands a placeholder.

    Returns:
        Its ids, with as many pads in place of an image's placeholder as the image takes; and of
        each image (index of the first pad, rows, columns), rows and columns of pads.

    Raises:
        RenderError: Placeholders and images do not match, or an image cannot be shown.
    """
    ids = segment.token_ids
    # In sampled text the id is a token like any other.
    places = [i for i, t in enumerate(ids) if t == image_token_id and not segment.sampled]
    if len(places) != len(segment.media):
        raise RenderError(
            f"a segment has {len(places)} image placeholders and {len(segment.media)} images"
        )
    expanded: list[int] = []
    spans, start = [], 0
    for place, media in zip(places, segment.media, strict=True):
        expanded += ids[start:place]
        rows, columns = (side // spec.merge_size for side in grid(media, spec)[1:])
        spans.append((len(expanded), rows, columns))
        expanded += [image_token_id] * (rows * columns)
        start = place + 1
    return [*expanded, *ids[start:]], spans


def tokens_of_size(width: int, height: int, spec: VisionSpec) -> int:
    """Return how many tokens an image, or a frame shown as one, of this size takes.

    Needs no model: ``VisionSpec()`` is Qwen2.5-VL's rule, and its ``max_pixels`` the reader's.
    """
    return num_tokens(Media("image", "", width, height), spec)


def patches(media: Media, spec: VisionSpec) -> npt.NDArray[np.float32]:
    """Return the image as the vision tower's input, float32 [rows * columns, 3 * T * P * P].

    Patches that merge into one token are neighbours; within a patch the order is channel, frame,
    row, column.

    Raises:
        RenderError: Not an image, or of a shape that cannot be shown.
        TaskError: The pixels cannot be read.
    """
    _, rows, columns = grid(media, spec)
    size, merge = spec.patch_size, spec.merge_size
    image = open_image(media)
    if image.size != (columns * size, rows * size):
        image = image.resize((columns * size, rows * size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image).reshape(rows // merge, merge, size, columns // merge, merge, size, 3)
    # -> token row, token column, row in token, column in token, channel, row, column in patch
    pixels = pixels.transpose(0, 3, 1, 4, 6, 2, 5)
    out = np.empty((*pixels.shape[:5], spec.temporal_patch_size, size, size), np.float32)
    for channel, values in enumerate(_normalized(spec.mean, spec.std)):
        out[:, :, :, :, channel] = values[pixels[:, :, :, :, channel]][:, :, :, :, None]
    return out.reshape(rows * columns, -1)


@lru_cache(maxsize=16)
def _normalized(mean: Triple, std: Triple) -> npt.NDArray[np.float32]:
    """[3, 256] what each byte value becomes in each channel: a look-up is cheaper than maths."""
    scaled = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    table = (scaled - np.array(mean, np.float32)[:, None]) / np.array(std, np.float32)[:, None]
    return table.astype(np.float32)
