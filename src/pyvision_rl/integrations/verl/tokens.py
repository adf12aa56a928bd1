"""Between our ledger and verl's token lists: placeholders expanded, images scaled, masks.

In: segments with one placeholder per image. Out: the ids that verl's servers and learner read, with
as many pads per image as their processor will make features, and the images in the sizes that it
leaves alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from PIL import Image

from pyvision_rl.errors import ConfigError, RenderError
from pyvision_rl.images import VisionSpec, expand_segment, grid, too_long
from pyvision_rl.media import open_image
from pyvision_rl.types import Media, Segment, Trajectory

_CACHED_IMAGES = 64


@dataclass(frozen=True, slots=True)
class Pads:
    """How one model's images become tokens."""

    image: int
    """The id of a pad; in our ledger it stands once for each image."""
    vision: VisionSpec
    banned: frozenset[int] = frozenset()
    """Placeholders of any medium: sampled, they would stand for one that is not there."""
    own: VisionSpec | None = None
    """The processor's own pixel rule, whose limits hold ours; None takes ``vision``."""

    def expand(self, segments: Iterable[Segment]) -> list[int]:
        """Return the ids as the network sees them.

        Raises:
            RenderError: Placeholders and images of a segment do not match.
        """
        return [i for s in segments for i in expand_segment(s, self.image, self.vision)[0]]


@dataclass(frozen=True, slots=True)
class Row:
    """A trajectory as verl trains on it."""

    prompt_ids: list[int]
    response_ids: list[int]
    mask: list[int]
    """[response] 1 where the policy's own token carries loss."""
    logprobs: list[float] | None
    """[response] at sampling, 0.0 on given tokens; None where the server did not tell."""
    images: list[Image.Image]
    """Of prompt and response, in token order."""


def row_of(trajectory: Trajectory, pads: Pads, filler: int, *, trained: bool) -> Row:
    """Return the row of a trajectory.

    Args:
        trajectory: Any; one that failed before its first token gets ``filler`` for what it lacks.
        pads: Of the model.
        filler: An id of a text token: verl cannot hold an empty prompt or response.
        trained: False masks every token, so that the row has no gradient.
    """
    first, rest = trajectory.segments[:1], trajectory.segments[1:]
    response_ids: list[int] = []
    mask: list[int] = []
    logprobs: list[float] = []
    for segment in rest:
        ids = pads.expand([segment])
        response_ids += ids
        mask += [int(segment.sampled and trained)] * len(ids)
        logprobs += segment.known_logprobs if segment.sampled else (0.0,) * len(ids)
    told = all(s.logprobs is not None for s in rest)
    return Row(
        prompt_ids=pads.expand(first) or [filler],
        response_ids=response_ids or [filler],
        mask=mask or [0],
        logprobs=(logprobs or [0.0]) if told else None,
        images=[fitted(m, pads.vision, pads.own) for m in trajectory.media],
    )


@lru_cache(maxsize=_CACHED_IMAGES)
def fitted(media: Media, vision: VisionSpec, own: VisionSpec | None = None) -> Image.Image:
    """Return an image in the size whose patches the network reads; nobody may change it.

    A processor whose limits hold ours has nothing left to scale, so it makes as many features as
    the ledger has pads. An image that rounding makes too long for processors goes as it is.

    Raises:
        RenderError: The processor, whose own rule is ``own``, would still scale it: there would be
            other features than pads.
    """
    _, rows, columns = seen = grid(media, vision)
    size = (columns * vision.patch_size, rows * vision.patch_size)
    image = open_image(media)
    if image.size != size and not too_long(*size):
        image = image.resize(size, Image.Resampling.BICUBIC)
    if own is not None and grid(Media("image", "", *image.size), own) != seen:
        raise RenderError(
            f"an image of {image.width}x{image.height} pixels is none that the model's processor "
            "leaves alone: policy.min_pixels and policy.max_pixels are near its limits, or it is "
            "too long"
        )
    return image


def vision_of(
    processor: Any, min_pixels: int | None, max_pixels: int | None
) -> tuple[VisionSpec, VisionSpec]:
    """Return the pixel rule of the processor that verl loaded, and that within ``[policy]``.

    Raises:
        ConfigError: It is no Qwen-VL image processor, or its own limits are narrower than ours: it
            would scale our images again, and pads and features would differ.
    """
    own = getattr(processor, "image_processor", None)
    try:
        size = dict(own.size) if own.size else {}  # type: ignore[union-attr]
        low = size.get("shortest_edge") or own.min_pixels  # type: ignore[union-attr]
        high = size.get("longest_edge") or own.max_pixels  # type: ignore[union-attr]
        spec = VisionSpec(
            patch_size=own.patch_size,  # type: ignore[union-attr]
            merge_size=own.merge_size,  # type: ignore[union-attr]
            temporal_patch_size=own.temporal_patch_size,  # type: ignore[union-attr]
            min_pixels=low,
            max_pixels=high,
            mean=tuple(own.image_mean),  # type: ignore[union-attr]
            std=tuple(own.image_std),  # type: ignore[union-attr]
        )
    except (AttributeError, TypeError) as error:
        raise ConfigError(f"{type(own).__name__} is no Qwen-VL image processor: {error}") from error
    if (min_pixels or low) < low or (max_pixels or high) > high:
        raise ConfigError(
            f"policy.min_pixels = {min_pixels} and policy.max_pixels = {max_pixels} must lie "
            f"within {low} and {high}, the limits of the model's own processor, which verl uses"
        )
    return spec, replace(spec, min_pixels=min_pixels or low, max_pixels=max_pixels or high)
