"""The first number of a text, in digits or in English words, as lmms-eval reads it for VSI-Bench.

In: a text. Out: a number, or None. For the protocol ``lmms-eval`` only: the first number of a
reasoned answer is seldom the answer.
"""

from __future__ import annotations

import re

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_VALUES = (
    {word: value for value, word in enumerate(_SMALL)}
    | {word: 10 * value for value, word in enumerate(_TENS, 2)}
    | {"hundred": 100, "thousand": 1000}
)
_DIGITS = re.compile(r"-?\d+(?:\.\d+)?")
_WORD = re.compile("[a-z]+")


def first_number(text: str) -> float | None:
    """Return the number that begins first, or None."""
    small = text.strip().lower()
    digits = _DIGITS.search(small)
    start, words = _spelled(small)
    if digits and (not words or digits.start() < start):
        return float(digits[0])
    return _value(words) if words else None


def _spelled(text: str) -> tuple[int, list[str]]:
    """Where the first run of number words begins, and its words without ``and``."""
    start, run = 0, list[str]()
    for word in _WORD.finditer(text):
        if word[0] in _VALUES:
            start = start if run else word.start()
            run.append(word[0])
        elif run and word[0] != "and":
            break
    return start, run


def _value(words: list[str]) -> float:
    total = part = 0
    for value in map(_VALUES.__getitem__, words):
        if value == 100:
            part = 100 * max(part, 1)
        elif value == 1000:
            total, part = total + 1000 * max(part, 1), 0
        else:
            part += value
    return float(total + part)
