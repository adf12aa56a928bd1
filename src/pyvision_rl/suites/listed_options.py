"""Options that a question lists one a line, ``A: ..`` or ``A. ..``, at its end.

In: a question as published. Out: its options, or the question with them in another order. A list
begins with A and skips no letter; of several lists the last one counts.
"""

from __future__ import annotations

import re
from string import ascii_uppercase

from pyvision_rl.suites import choices

_OPTION = re.compile(r"(?:^|\n)[ \t]*\(?([A-Z])[:.)][ \t]*")


def options_of(text: str) -> tuple[str, ...]:
    """Return the options of a question; empty if it lists none, or one is only in the picture."""
    marks = _marks(text)
    if len(marks) < 2:
        return ()
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    found = tuple(text[m.end() : end].strip() for m, end in zip(marks, ends, strict=True))
    return found if all(found) else ()


def relisted(text: str, given: choices.Choices, shown: choices.Choices) -> str:
    """Return a question with its options in the order shown; as it is if it lists others."""
    if shown == given or options_of(text) != given.options:
        return text
    listed = choices.lines(shown.options).split("\n")
    lines = "\n".join(f"{line[0]}:{line[2:]}" for line in listed)
    return f"{text[: _marks(text)[0].start()].rstrip()}\n{lines}"


def _marks(text: str) -> list[re.Match[str]]:
    marks: list[re.Match[str]] = []
    for mark in _OPTION.finditer(text):
        if mark[1] == "A":
            marks = []
        if len(marks) < len(ascii_uppercase) and mark[1] == ascii_uppercase[len(marks)]:
            marks.append(mark)
    return marks
