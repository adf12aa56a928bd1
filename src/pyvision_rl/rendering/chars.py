"""One character is one token: a renderer for tests and scripted runs.

In and out as in ``base``; the layout is ChatML. Needs no tokenizer and no model directory. No text
can become one of its control tokens, which stand outside of Unicode.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyvision_rl.images import VisionSpec
from pyvision_rl.rendering.chatml import ChatMLRenderer, ControlIds
from pyvision_rl.types import Media

START, END, IMAGE = range(3)
FIRST_CHARACTER = 3
"""Id of the character U+0000; the others follow."""

_SHOWN = {START: "<|im_start|>", END: "<|im_end|>", IMAGE: "<|image_pad|>"}


class CharsRenderer(ChatMLRenderer):
    """ChatML over code points; without a ``VisionSpec`` an image counts as one token."""

    def __init__(self, vision: VisionSpec | None = None) -> None:
        super().__init__(ControlIds(START, END, IMAGE), vision)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return one id per character; no text is a special token here."""
        return tuple(FIRST_CHARACTER + ord(character) for character in text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return ids as text, control tokens by their ChatML names."""
        return "".join(_SHOWN.get(i) or chr(i - FIRST_CHARACTER) for i in token_ids)

    def _encode_text(self, text: str) -> tuple[int, ...]:
        return self.encode(text)

    def _image_tokens(self, media: Media) -> int:
        return 1 if self._vision is None else super()._image_tokens(media)
