"""From the token ledger to what a vLLM server is sent, and to what it must make of it.

In: segments with ONE placeholder id per image, as they are. Out: an ``Asked``: the same ids, the
images as data URLs, and our own expansion, with which the server's is compared. Images are scaled
here to the size at which the network sees them, so that the server has nothing left to scale; what
it would scale all the same, such as a long strip, it gets as it is.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from pyvision_rl.errors import PolicyError
from pyvision_rl.images import VisionSpec, expand_segment, scaled_size
from pyvision_rl.media import data_url, open_image, png_of
from pyvision_rl.types import Media, Segment

_CACHED_IMAGES = 256

Spans = tuple[tuple[int, int], ...]
"""(first pad, number of pads) of every image, in expanded ids."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt, as it is sent and as the server must read it."""

    token_ids: tuple[int, ...]
    """One placeholder per image: expanded ids are accepted by the server, and read wrongly."""
    images: tuple[str, ...]
    """Data URLs, in order."""
    expanded: tuple[int, ...]
    spans: Spans

    def compare(self, expanded: Sequence[int], spans: Spans) -> str:
        """Return how the server's reading differs from ours; "" if it does not."""
        if spans != self.spans:
            ours, theirs = ([size for _, size in each] for each in (self.spans, spans))
            return (
                f"it gives the images {theirs} tokens, at {[p for p, _ in spans]}, and we give "
                f"them {ours}, at {[p for p, _ in self.spans]}: start it with the pixel limits of "
                "[policy] (--mm-processor-kwargs)"
            )
        if tuple(expanded) == self.expanded:
            return ""
        pairs = zip(expanded, self.expanded, strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        where = "" if at is None else f"; token {at} is {expanded[at]}, not {self.expanded[at]}"
        return f"it read {len(expanded)} tokens where we count {len(self.expanded)}{where}"


class PromptWriter:
    """Makes ``Asked``s for one model, and keeps the last images it encoded."""

    def __init__(self, image_token_id: int, vision: VisionSpec) -> None:
        """Take the model's placeholder and how it wants its images."""
        self._image = image_token_id
        self._vision = vision
        self._urls: OrderedDict[str, str] = OrderedDict()

    async def write(self, segments: Sequence[Segment], forced: Sequence[int] = ()) -> Asked:
        """Return the prompt of a history that is followed by ``forced`` ids.

        Raises:
            RenderError: Placeholders and images of a segment do not match.
            PolicyError: A placeholder was sampled, which the server would take for an image.
            TaskError: An image cannot be read.
        """
        ids: list[int] = []
        expanded: list[int] = []
        spans: list[tuple[int, int]] = []
        images: list[Media] = []
        for segment in (*segments, Segment(tuple(forced), sampled=False)):
            if segment.sampled and self._image in segment.token_ids:
                raise PolicyError(f"the history holds a sampled placeholder (id {self._image})")
            more, found = expand_segment(segment, self._image, self._vision)
            spans += [(len(expanded) + first, rows * columns) for first, rows, columns in found]
            expanded += more
            ids += segment.token_ids
            images += segment.media
        urls = [await self._url(media) for media in images]
        return Asked(tuple(ids), tuple(urls), tuple(expanded), tuple(spans))

    async def _url(self, media: Media) -> str:
        """The picture as the network sees it; the last ones are kept, for later turns."""
        url = self._urls.pop(media.sha256, None)
        if url is None:
            # In a thread: compressing takes longer than a turn of the event loop may.
            url = await asyncio.to_thread(_shown, media, self._vision)
        self._urls[media.sha256] = url
        if len(self._urls) > _CACHED_IMAGES:
            self._urls.popitem(last=False)
        return url


def _shown(media: Media, vision: VisionSpec) -> str:
    """An image, scaled as ``images.patches`` scales it where it can be, as a PNG in a data URL."""
    image = open_image(media)
    size = scaled_size(media, vision)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    return data_url(png_of(image))
