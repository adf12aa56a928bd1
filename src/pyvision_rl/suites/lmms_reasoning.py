"""How lmms-eval's "reasoning" tasks score an answer, as far as rules go.

In: what an episode ended with, and the reference. Out: a ``Grade``, or ``Undecided`` where that kit
asks math-verify. Its rules are kept with their faults, for ``lmms-eval`` protocols only: a
reference that shows a capital A to H counts as an option, so that "Brown" equals "Blue".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pyvision_rl.rewards.base import Grade
from pyvision_rl.suites.arithmetic import close, value
from pyvision_rl.suites.base import Final, Undecided

_OPTIONS = "ABCDEFGH"
_PORTION = 0.9
"""One text inside the other counts if it is that long, as a share."""
_AROUND = ",.!?;:'\""
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_LAST_NUMBER = re.compile(r"\b([0-9]+(?:\.[0-9]+)?)\b\s*\.?\s*$")
_PHRASES = (
    "the answer is",
    "answer is",
    "the correct answer is",
    "correct answer is",
    "the answer",
    "answer",
    "correct answer",
    "the correct answer",
    "the best answer is",
    "best answer is",
    "the best answer",
    "best answer",
    "the option is",
    "option is",
    "the correct option is",
    "correct option is",
    "the choice is",
    "choice is",
    "the correct choice is",
    "correct choice is",
    "i choose",
    "i select",
    "i pick",
    "my answer is",
    "my choice is",
)
# (what follows or surrounds the letter, how much that is trusted)
_FORMS = (
    ("({})", 6),
    ("{}.", 5),
    ("{}:", 4),
    ("{})", 3),
    ("{} ", 2),
    ("{}-", 1),
    ("{}_", 1),
    ("{}=", 1),
)
_START, _END, _NUMBERED, _PHRASE = 10, 9, 8, 7


def score(final: Final, gold: str) -> Grade | Undecided:
    """Return the grade of lmms-eval (75571cf) without a judge."""
    said = _parsed(_extracted(final.text) if final.answer is None else final.answer.strip())
    want = _parsed(gold)
    letter = option(want)
    if letter:
        named = option(said)
        return Grade(float(named == letter), named == letter, f"option {named or 'none'}")
    if _overlap(said, want) or said == want:
        return Grade(1.0, True, "same text, or nearly")
    if not said:
        return Grade(0.0, False, "nothing extracted")
    mine, theirs = value(said), value(want)
    if "\\" in said + want or mine is None or theirs is None:
        return Undecided("lmms-eval asks math-verify whether the two are equal")
    return Grade(float(close(mine, theirs)), close(mine, theirs), "numbers")


def option(text: str) -> str:
    """Return the option letter that lmms-eval reads in a text, empty if there is none."""
    bare = text.strip()
    for sign in _AROUND:
        bare = bare.strip(sign)
    if not bare:
        return ""
    found = list(_candidates(f" {bare} "))
    if found:
        return max(found, key=lambda one: (one[0], -one[1]))[2]
    return next((letter for letter in _OPTIONS if letter in bare), "")


def _candidates(text: str) -> Iterator[tuple[int, int, str]]:
    """(trust, place, letter) of every form of a letter in a text."""
    bare, small = text.strip(), text.lower()
    starts = [small.find(phrase) for phrase in _PHRASES if phrase in small]
    for number, letter in enumerate(_OPTIONS, start=1):
        for form, trust in _FORMS:
            if (place := text.rfind(form.format(letter))) >= 0:
                yield trust, place, letter
        for start in starts:
            if (place := text.find(letter, start)) >= 0:
                yield _PHRASE, place, letter
        if bare.startswith(letter):
            yield _START, 0, letter
        if bare.endswith(letter):
            yield _END, len(text) - 1, letter
        if (place := text.rfind(f"{number}. {letter}")) >= 0:
            yield _NUMBERED, place, letter


def _overlap(said: str, want: str) -> bool:
    """Whether one text holds the other, and is hardly longer."""
    shorter, longer = sorted((said, want), key=len)
    return shorter in longer and len(shorter) >= _PORTION * len(longer)


def _parsed(text: str) -> str:
    return text.removesuffix(".").strip()


def _extracted(text: str) -> str:
    """The answer in a text without the tags that ours are told to use."""
    if tagged := _TAG.search(text):
        return tagged[1].strip()
    for line in reversed(text.strip().split("\n")):
        if number := _LAST_NUMBER.search(line):
            return number[1]
    return ""
