r"""The value of a number written as TeX or plainly: ``3\sqrt{2}``, ``\frac{1}{2}+\pi``, ``45^2``.

In: a text. Out: a float, or None for everything else: letters, units, lists, percent, mixed
numbers, and what may be read in two ways (``1/2\pi``, ``2^10``). Evaluates nothing as code, in
bounded time, and never raises. Equality of expressions with unknowns is left to others.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

MAX_CHARS = 200
MAX_DIGITS = 15
"""A float holds that many."""
MAX_EXPONENT = 100
_MAX_DEPTH = 20

_NUMBER = r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_TOKEN = re.compile(rf"\s*(?:({_NUMBER})|\\?([A-Za-z]+)|([-+*/^(){{}}\[\]√]))")
_SPACE = re.compile(r"\\[,;:! ]|~|\\(?:left|right|displaystyle)(?![A-Za-z])")
_SAME = {"dfrac": "frac", "tfrac": "frac", "cdot": "*", "times": "*", "div": "/"}
_SIGNS = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "÷": "/", "π": "\\pi "})
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|°)\s*$")


class _UnreadableError(Exception):
    """The text is no number that this file reads."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    """``number``, ``word`` or ``sign``."""
    text: str


def value(text: str) -> float | None:
    """Return the value of a constant, or None."""
    if len(text) > MAX_CHARS:
        return None
    try:
        return _Reader(_tokens(_plain(text))).whole()
    except (_UnreadableError, ArithmeticError, ValueError):
        return None


def without_degrees(text: str) -> str:
    r"""Return a text without a sign of degrees at its end, ``°`` or ``^\circ``."""
    bare = text.strip().strip("$")
    return _DEGREES.sub("", bare)


def value_of_answer(text: str) -> float | None:
    """Return the value of a constant that may stand in degrees, or None."""
    return value(without_degrees(text))


def members(text: str) -> list[float]:
    """Return the values of a list in brackets, such as ``(4, 3)``; empty for everything else."""
    bare = _plain(text)
    if len(bare) < 2 or bare[0] + bare[-1] not in ("()", "[]"):
        return []
    found = [value(part) for part in bare[1:-1].split(",")]
    numbers = [number for number in found if number is not None]
    return numbers if len(numbers) == len(found) > 1 else []


def close(first: float, second: float) -> bool:
    """Return whether two values are the same number, but for the last bits of their floats."""
    return math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-12)


def _plain(text: str) -> str:
    """The text without dollar signs, TeX parentheses around it, and spacing commands."""
    text = text.strip()
    if text.startswith("\\(") and text.endswith("\\)"):
        text = text[2:-2]
    while len(text) > 1 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    return _SPACE.sub(" ", text).translate(_SIGNS).strip()


def _tokens(text: str) -> list[_Token]:
    found, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _UnreadableError
        position = match.end()
        number, word, sign = match.groups()
        if number is not None:
            found.append(_Token("number", number))
        elif word is not None:
            found.append(_worded(_SAME.get(word, word)))
        else:
            found.append(_Token("word", "root") if sign == "√" else _Token("sign", sign))
    return found


def _worded(word: str) -> _Token:
    if word in ("*", "/"):
        return _Token("sign", word)
    if word in ("frac", "sqrt", "pi"):
        return _Token("word", word)
    raise _UnreadableError


class _Reader:
    """Reads tokens by the usual precedence: sums, products, powers."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens, self._next, self._depth = tokens, 0, 0

    def whole(self) -> float:
        number = self._sum()
        if self._peek() is not None or not math.isfinite(number):
            raise _UnreadableError
        return number

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self, *signs: str) -> str | None:
        """The next token's text, if it is one of these signs."""
        token = self._peek()
        if token is None or token.kind != "sign" or token.text not in signs:
            return None
        self._next += 1
        return token.text

    def _sum(self) -> float:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _UnreadableError
        number = self._signed()
        while sign := self._take("+", "-"):
            term = self._product()
            number = number + term if sign == "+" else number - term
        self._depth -= 1
        return number

    def _signed(self) -> float:
        sign = self._take("+", "-")
        number = self._product()
        return -number if sign == "-" else number

    def _product(self) -> float:
        number = self._run()
        while sign := self._take("*", "/"):
            factor = self._power() if sign == "/" else self._run()
            if sign == "/" and self._starts():
                raise _UnreadableError  # Of a/bc nobody knows whether c is divided by or not.
            number = number * factor if sign == "*" else number / factor
        return number

    def _run(self) -> float:
        """Factors side by side."""
        number = self._power()
        while self._starts():
            last, token = self._tokens[self._next - 1], self._tokens[self._next]
            if last.kind == "number" and (token.kind == "number" or token.text == "frac"):
                raise _UnreadableError  # Two numbers, or a mixed one.
            number *= self._power()
        return number

    def _starts(self) -> bool:
        token = self._peek()
        return token is not None and (token.kind != "sign" or token.text in "({")

    def _power(self) -> float:
        base = self._atom()
        if not self._take("^"):
            return base
        exponent = self._argument()
        if abs(exponent) > MAX_EXPONENT:
            raise _UnreadableError
        number = base**exponent
        if isinstance(number, complex):
            raise _UnreadableError
        return float(number)

    def _atom(self) -> float:
        token = self._peek()
        if token is None:
            raise _UnreadableError
        if token.kind == "sign":
            return self._group()
        self._next += 1
        match token.text:
            case "pi":
                return math.pi
            case "frac":
                return self._fraction()
            case "sqrt":
                return self._root()
            case "root":
                following = self._peek()
                plain = following is not None and following.kind == "number"
                return math.sqrt(self._atom() if plain else self._argument())
            case _:
                return _number(token.text)

    def _group(self) -> float:
        closing = {"(": ")", "{": "}"}
        opened = self._take("(", "{")
        if opened is None:
            raise _UnreadableError
        number = self._sum()
        if not self._take(closing[opened]):
            raise _UnreadableError
        return number

    def _argument(self) -> float:
        """A group, or one digit: of ``2^10`` TeX and people read different things."""
        token = self._peek()
        if token is not None and token.kind == "number":
            if len(token.text) > 1:
                raise _UnreadableError
            self._next += 1
            return float(token.text)
        return self._group()

    def _fraction(self) -> float:
        token = self._peek()
        if token is not None and re.fullmatch("[0-9]{2}", token.text):
            self._next += 1
            return int(token.text[0]) / int(token.text[1])
        top = self._argument()
        return top / self._argument()

    def _root(self) -> float:
        if not self._take("["):
            return math.sqrt(self._argument())
        order = self._sum()
        if not self._take("]") or order < 1:
            raise _UnreadableError
        base = self._argument()
        if base < 0:
            raise _UnreadableError
        return float(base ** (1 / order))


def _number(text: str) -> float:
    digits = text.replace(",", "")
    if len(digits) > MAX_DIGITS:
        raise _UnreadableError
    return float(digits)
