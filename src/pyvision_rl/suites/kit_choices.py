"""Which option VLMEvalKit's and lmms-eval's rules find in a free text.

In: a text and its options. Out: a letter, ``Z`` for a refusal, or None where the kits would ask a
language model. These rules read prose, and are lenient by design: "a cat, so B" and a letter that
stands alone count, and so does an option's text anywhere. For ``vlmevalkit`` and ``lmms-eval``
protocols only; see ``choices`` for ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pyvision_rl.suites.choices import letters

REFUSAL = "Z"

_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_NO_REPLY = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_CONCLUSION = re.compile(r"answer\s+is\s+\**([a-d])\**", re.IGNORECASE)
_NUM_LAST = 4
"""VLMEvalKit believes a letter among that many last words."""


def vlmevalkit(text: str, options: Sequence[str]) -> str | None:
    """Return what VLMEvalKit (e8e78f0) infers without a judge."""
    named = _standing_alone(text, options, near_end=True)
    if named is None and _NO_REPLY not in text and (said := _CONCLUSION.search(text)):
        letter = said[1].upper()
        named = letter if letter in letters(options) else None
    if named is None and len(text.lower()) <= 2 * sum(map(len, options)):
        named = _quoted(text, options)
    return named


def lmms_eval(text: str, options: Sequence[str]) -> str | None:
    """Return what lmms-eval (75571cf) infers without a judge."""
    return _standing_alone(text, options, near_end=False) or _quoted(text, options)


def _standing_alone(text: str, options: Sequence[str], *, near_end: bool) -> str | None:
    """The one letter that is a word of its own."""
    if _NO_REPLY in text:
        return None
    if any(refusal in text for refusal in _REFUSALS):
        return REFUSAL
    words = text.translate(_SEPARATORS).split()
    found = [name for name in letters(options) if name in words]
    if len(found) == 1:
        place = words.index(found[0])
        return found[0] if not near_end or place >= len(words) - _NUM_LAST else None
    return REFUSAL if not found and REFUSAL in words else None


def _quoted(text: str, options: Sequence[str]) -> str | None:
    """The one option whose text occurs, in any case."""
    small = text.lower()
    pairs = zip(letters(options), options, strict=True)
    found = [name for name, option in pairs if option.lower() in small]
    return found[0] if len(found) == 1 else None
