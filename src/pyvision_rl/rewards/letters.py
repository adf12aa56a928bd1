r"""Which option an answer names by its letter, and whether it says an option's text.

In: answers as ``answers.normalise`` writes them. Out: a small letter, or whether letter and text
agree. Knows one option at a time: which there are is known to ``choices``.
"""

from __future__ import annotations

import re

_LETTER = re.compile(r"([a-z])|\(([a-z])\)(?:\s*[.:])?(\s.+)?|([a-z])[.:)](\s.+)?")
_OTHER_OPTION = re.compile(r"(?:^|\s)(?:\([a-z]\)|[a-z][.:)](?=\s|$))|^(?:or|and|&|/)\s")


def option_letter(text: str) -> tuple[str | None, str]:
    """Return the option letter that an answer names, and the option text after it."""
    found = _LETTER.fullmatch(text)
    if not found:
        return None, ""
    option = (found[3] or found[5] or "").strip()
    if _OTHER_OPTION.search(option):
        return None, ""  # "a. b. c." and "a. or b" list options instead of choosing one.
    return found[1] or found[2] or found[4], option


def says(text: str, letter: str, option: str) -> bool:
    """Return whether an answer is an option's text, alone or behind its letter.

    Between the two stand marks and spaces: ``b red``, ``b - red``, ``b (red)``. An empty option is
    never said.
    """
    said = re.escape(option)
    before = rf"(?:\(?{re.escape(letter)}\)?[ .:)—-]+)?"
    return bool(option and re.fullmatch(rf"{before}(?:{said}|\({said}\))", text))
