"""The members of an answer that is a list, of which some may be lists themselves.

In: a normalised answer. Out: its members, numbers by value. Never raises, whatever the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import TypeAlias

from pyvision_rl.rewards.answers import MAX_LAYERS, decimal_of, normalise

Member: TypeAlias = "str | Decimal | tuple[Member, ...]"

_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_LOOSE = re.compile(r" *([,;]) *")


def members(text: str, layers: int = MAX_LAYERS) -> tuple[Member, ...]:
    """Return the members of a list; numbers by value, so that ``7`` equals ``7.0``.

    Between semicolons a comma belongs to its member, be it of a number or of a list of its own. So
    does every sign between brackets.
    """
    text = text.replace("\\{", "{").replace("\\}", "}").strip()
    depths = _depths(text)
    if _bracketed(depths) or (not any(depths) and _wrapped(text)):
        text = text[1:-1]
        depths = _depths(text)
    separator = next((sign for sign in ";," if (sign, 0) in zip(text, depths, strict=True)), " ")
    found: list[Member] = []
    for piece in _pieces(text, depths, separator):
        member = normalise(piece)
        number = decimal_of(member)
        inside = _depths(member)
        if number is not None:
            found.append(number)
        elif layers and (_bracketed(inside) or (separator == ";" and "," in member)):
            inner = members(member, layers - 1)
            found.append(inner[0] if len(inner) == 1 else inner)
        elif member:
            found.append(_LOOSE.sub(r"\1", member) if any(inside) else member)
    return tuple(found)


def _depths(text: str) -> list[int]:
    """How many brackets are open behind each sign; 0 everywhere where they do not match."""
    depths, closing = [], list[str]()
    for sign in text:
        if sign in _BRACKETS:
            closing.append(_BRACKETS[sign])
        elif sign in _BRACKETS.values() and (not closing or closing.pop() != sign):
            return [0] * len(text)
        depths.append(len(closing))
    return [0] * len(text) if closing else depths


def _bracketed(depths: Sequence[int]) -> bool:
    """Whether one pair of brackets is around the whole."""
    return len(depths) > 1 and depths[-1] == 0 and min(depths[:-1]) > 0


def _wrapped(text: str) -> bool:
    """Whether the first and the last sign are a pair, as far as one can tell."""
    return len(text) > 1 and _BRACKETS.get(text[0]) == text[-1]


def _pieces(text: str, depths: Sequence[int], separator: str) -> list[str]:
    """Split a text where the separator stands between no brackets."""
    at = [k for k, sign in enumerate(text) if sign == separator and depths[k] == 0]
    return [text[a:b] for a, b in zip([0, *(k + 1 for k in at)], [*at, len(text)], strict=True)]
