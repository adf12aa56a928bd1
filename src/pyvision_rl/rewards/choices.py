"""Which option of a question is meant: named by its letter, or by what it says.

In: a question that lists its options as ``A. red``, ``A) red``, ``A: red`` or ``(A) red``, one a
line or several in a line, from A on; an answer and a reference. Out: whether both mean the same
option. A list that cannot be read without doubt is none. Never raises, looks for nothing in prose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase

from pyvision_rl.rewards.answers import match, normalise
from pyvision_rl.rewards.letters import option_letter, says

_MARK = re.compile(r"(?:^|(?<=[\s,;:*-]))(?:\(([A-Z])\)|([A-Z])[.):](?=[ \t]))[ \t]*", re.MULTILINE)
_BULLETS = " \t*-"


def same_choice(prediction: str, gold: str, question: str) -> bool:
    """Return whether answer and reference mean the same option that the question lists."""
    options = options_of(question)
    meant = _meant(gold, options)
    return meant is not None and _meant(prediction, options) == meant


def choice_of(answer: str, question: str) -> str | None:
    """Return the small letter of the one listed option that an answer means, if there is one."""
    return _meant(answer, options_of(question))


def named_by_text(answer: str, options: Mapping[str, str]) -> str | None:
    """Return the letter of the one option whose text an answer says, with its letter or without.

    The same text comes before the same number, and that before a number within the tolerance: a
    neighbour of an option may lie so near that a tolerant comparison finds both.
    """
    for found in _alike(answer, options):
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _alike(answer: str, options: Mapping[str, str]) -> Iterator[list[str]]:
    """The keys of the options that an answer fits, by the strictest comparison first."""
    said = normalise(answer)
    yield [k for k, text in options.items() if said and says(said, k.lower(), normalise(text))]
    yield [
        key for key, text in options.items() if match(answer, text, rel_tol=0, abs_tol=0).correct
    ]
    yield [key for key, text in options.items() if match(answer, text).correct]


def options_of(question: str) -> dict[str, str]:
    """Return small letter -> text of the options, as ``normalise`` writes it; empty without a list.

    Options at the beginnings of lines come before those in running text.
    """
    marks = list(_MARK.finditer(question))
    lines = [m for m in marks if _begins_line(question, m.start())]
    for found in (lines, marks):
        letters = "".join(m[1] or m[2] for m in found)
        if len(letters) > 1 and letters == ascii_uppercase[: len(letters)]:
            return _texts(question, letters.lower(), found)
    return {}


def _begins_line(question: str, start: int) -> bool:
    return not question[question.rfind("\n", 0, start) + 1 : start].strip(_BULLETS)


def _texts(question: str, letters: str, marks: Sequence[re.Match[str]]) -> dict[str, str]:
    ends = [*(m.start() for m in marks[1:]), len(question)]
    options = {}
    for letter, mark, end in zip(letters, marks, ends, strict=True):
        text = question[mark.end() : end].partition("\n")[0].rstrip(" \t,;")
        text = text.removesuffix(" or").removesuffix(" and").rstrip(" \t,;")
        options[letter] = normalise(text)
    # Where an option says a letter, nobody knows which of the two an answer means.
    unclear = any(not text or option_letter(text)[0] for text in options.values())
    return {} if unclear else options


def _meant(answer: str, options: dict[str, str]) -> str | None:
    """The letter of the one option that is meant."""
    letter, said = option_letter(normalise(answer))
    if letter in options:
        contradicts = said in options.values() and said != options[letter]
        return None if contradicts else letter
    return named_by_text(answer, options)
