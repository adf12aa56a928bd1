r"""Is a text one number, or one expression, and what is it worth?

In: a final answer or a reference. Out: ``value_of``, an exact number, which is compared here; or
``tex_of``, the expression as TeX in a narrow alphabet, for ``maths`` to compare. All else is
neither: a letter, a word, a time (``10:30``), a ratio, a list (``5 4 3``), a number with a unit, an
inequality. That is decided here, by form, because a general parser finds some number in nearly any
text. Never raises; runs nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

from pyvision_rl.rewards.answers import MAX_NUMBER_CHARS, normalise, without_tex_thousands

MAX_CHARS = 200
"""Of an expression."""
MAX_DEPTH = 8
"""Of brackets and braces: what reads them takes twice as long for each further one."""

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_DECIMAL = re.compile(rf"[+-]?(?:{_DIGITS})(?:e[+-]?[0-9]{{1,3}})?")
_RATIO = r"(?:([0-9]+) ?/ ?([0-9]+)|\\[dtc]?frac ?\{ ?([0-9]+) ?\} ?\{ ?([0-9]+) ?\})"
_FRACTION = re.compile(rf"([+-]?) ?(?:([0-9]+)(?: |(?=\\)))?{_RATIO}")
_PERCENT = re.compile(r" ?(?:%|percent)$")

_TYPED = {
    **{"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "π": r"\pi "},
    **{"√": r"\sqrt ", "²": "^2", "³": "^3", "°": r"^\circ ", "∞": r"\infty ", "**": "^"},
}
_LAYOUT = re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[,;:! ]|~")
_NAMES = "sqrt|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|ln|log|exp|pi"
_OF_ITS_OWN = {*_NAMES.split("|"), "infty"}
_GREEK = "alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|sigma|rho|tau"
_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    rf"|(?P<command>\\(?:[dtc]?frac|{_NAMES}|{_GREEK}|cdot|times|div|infty|circ)(?![A-Za-z]))"
    rf"|(?P<name>(?:{_NAMES})(?![A-Za-z]))"
    r"|(?P<letter>[xyz]{1,3}(?![A-Za-z])|[A-Za-z](?![A-Za-z]))"
    r"|(?P<sign>[-+*/^!|(){}])"
    r"|(?P<space>\s+)"
    r"|(?P<root>\[[0-9]\])"
    r"|(?P<base>_)"
)
_ASSIGNED = re.compile(r"\$?\s*([A-Za-z])\s*=\s*(?=[^=\s])")
# Two numbers side by side; an exponent, whose e would be a letter; a number and perhaps its unit; a
# date; a range, a score or a number to call; a tower that may be read in two ways; a size.
_NOT_ONE = re.compile(
    r"(?<!_)[0-9]\s+[0-9.]|[0-9][eE][+-]?[0-9]|(?<!\^)[0-9]\s+[A-Za-z]$"
    r"|[0-9]\s*/\s*[0-9.]+\s*/\s*[0-9]|^[0-9.,]+(?:\s*-\s*[0-9.,]+)+$"
    r"|\^\s*[0-9A-Za-z]+\s*\^|^[0-9.]+(?:\s*(?:[xX]|\\times)\s*[0-9.]+)+$"
)
_OPENING, _CLOSING = {"(": ")", "{": "}"}, {")": "(", "}": "{"}
_LIST = {"(": ")", "[": "]"}


@dataclass(frozen=True, slots=True)
class Value:
    """A number as it was written."""

    value: Fraction
    decimal: bool
    """With a point or an exponent: perhaps rounded."""
    percent: bool


@dataclass(frozen=True, slots=True)
class Tex:
    """An expression that may be compared."""

    text: str
    name: str = ""
    """The x of ``x = 2``, which is not part of the text."""


def value_of(text: str) -> Value | None:
    r"""Return the number that a text is: plain, ``1/3``, ``\frac{1}{3}``, ``2 1/2`` or ``50%``."""
    if len(text) > 2 * MAX_NUMBER_CHARS:
        return None
    bare = normalise(text)
    number = _PERCENT.sub("", bare)
    percent = number != bare
    worth = Fraction(1, 100) if percent else Fraction(1)
    if len(number) > MAX_NUMBER_CHARS:
        return None
    if _DECIMAL.fullmatch(number):
        value = Fraction(Decimal(number.replace(",", "")))
        return Value(value * worth, "." in number or "e" in number, percent)
    found = _FRACTION.fullmatch(number)
    if found is None:
        return None
    top, bottom = (int(part) for part in found.groups()[2:] if part is not None)
    if bottom == 0:
        return None
    value = int(found[2] or 0) + Fraction(top, bottom)
    return Value((-value if found[1] == "-" else value) * worth, False, percent)


def same_value(mine: Value, gold: Value, rel_tol: float, abs_tol: float) -> bool | None:
    """Return whether two numbers are equal; None if they differ in nothing but a percent sign.

    Whole numbers and fractions must be equal; a decimal on either side may be rounded, within the
    tolerances, unless the reference is whole.
    """
    first, second = mine.value, gold.value
    whole = not gold.decimal and second.denominator == 1 and not gold.percent
    if first == second:
        return True
    if (mine.decimal or gold.decimal) and not whole:
        allowed = Fraction(rel_tol).limit_denominator(10**12) * max(abs(first), abs(second))
        if abs(first - second) <= max(allowed, Fraction(abs_tol)):
            return True
    if mine.percent != gold.percent:
        ratio = Fraction(100) if mine.percent else Fraction(1, 100)
        signed = replace(mine, value=first * ratio, percent=gold.percent)
        return None if same_value(signed, gold, rel_tol, abs_tol) else False
    return False


def pairs_of(answer: str, gold: str) -> tuple[tuple[str, str], ...]:
    """Return what would have to be equal, reference first; empty if there is nothing to compare.

    One pair for two expressions; one per member for two lists in the same brackets. ``x = 2`` is 2,
    unless the other side is about another letter.
    """
    ours, theirs = _members(answer), _members(gold)
    if ours is None or theirs is None:
        ours, theirs = ("", (answer,)), ("", (gold,))
    if ours[0] != theirs[0] or len(ours[1]) != len(theirs[1]):
        return ()
    pairs = []
    for mine, other in zip(ours[1], theirs[1], strict=True):
        first, second = tex_of(mine), tex_of(other)
        if first is None or second is None or (first.name and second.name not in ("", first.name)):
            return ()
        pairs.append((second.text, first.text))
    return tuple(pairs)


def tex_of(text: str) -> Tex | None:
    """Return a text as TeX, braces and operators written out; None if it is no expression."""
    text = text.strip()
    if len(text) > MAX_CHARS:  # Before anything is taken out: a part is another expression.
        return None
    text = _unwrapped(text)
    for typed, tex in _TYPED.items():
        text = text.replace(typed, tex)
    text = without_tex_thousands(text)  # Before the layout, of which one separator is part.
    text = _LAYOUT.sub(" ", text).strip().removesuffix(".").rstrip()
    assigned = _ASSIGNED.match(text)
    name = assigned[1] if assigned else ""
    text = text[assigned.end() :] if assigned else text
    if not text or len(text) > MAX_CHARS or _NOT_ONE.search(text):
        return None
    tokens = _tokens(text)
    if tokens is None or not _balanced(tokens) or not _computes(tokens):
        return None
    written = _written(tokens)
    return None if written is None else Tex(written, name)


def _unwrapped(text: str) -> str:
    """The text without dollar signs or TeX brackets around the whole."""
    for begin, end in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        inner = text[len(begin) : -len(end)]
        if text.startswith(begin) and text.endswith(end) and inner and begin not in inner:
            return inner.strip()
    return text


def _members(text: str) -> tuple[str, tuple[str, ...]] | None:
    """The brackets of a list of at least two members, and the members."""
    text = without_tex_thousands(_unwrapped(text.strip()[: 2 * MAX_CHARS]))
    text = _LAYOUT.sub("", text).strip()
    if len(text) < 2 or _LIST.get(text[0]) != text[-1]:
        return None
    members, depth, begin = [], 0, 1
    for position, character in enumerate(text[1:-1], 1):
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return None
        if character == "," and depth == 0:
            members.append(text[begin:position])
            begin = position + 1
    members.append(text[begin:-1])
    return (text[0] + text[-1], tuple(members)) if len(members) > 1 else None


def _tokens(text: str) -> list[str] | None:
    """The tokens without spaces, names as commands; None if anything else is in the text."""
    tokens: list[str] = []
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            return None
        token, position = found[0], found.end()
        match found.lastgroup:
            case "space":
                continue
            case "name":
                token = "\\" + token
            case "number":
                token = token.replace(",", "")
            case "root":
                if not tokens or tokens[-1] != "\\sqrt":
                    return None
            case "base":
                if not tokens or tokens[-1] != "\\log":
                    return None
        tokens.append(token)
    return tokens


def _balanced(tokens: list[str]) -> bool:
    open_ones: list[str] = []
    for token in tokens:
        if token in _OPENING:
            open_ones.append(token)
        elif token in _CLOSING and (not open_ones or open_ones.pop() != _CLOSING[token]):
            return False
        if len(open_ones) > MAX_DEPTH:
            return False
    return not open_ones and tokens.count("|") % 2 == 0


def _computes(tokens: list[str]) -> bool:
    """Whether there is a number or a constant, or letters that are joined by something."""
    if any(token[0].isdigit() or token[0] == "." for token in tokens):
        return True
    if any(token[1:] in _OF_ITS_OWN for token in tokens):
        return True
    return any(t.isalpha() for t in tokens) and any(t in "+-*/^" for t in tokens)


def _written(tokens: list[str]) -> str | None:
    """The tokens as TeX in which powers, roots and fractions have braces."""
    out = list(tokens)
    for index, token in enumerate(tokens):
        after = index + 1
        if token.endswith("frac") and out[after : after + 1] != ["{"]:
            digits = out[after] if after < len(out) else ""
            if not re.fullmatch("[0-9]{2}", digits):
                return None
            out[after] = f"{{{digits[0]}}}{{{digits[1]}}}"
        elif token in ("^", "\\sqrt") or (token == "_" and index):
            _brace(out, after)
    return "".join(f"{token} " if token[0] == "\\" else token for token in out)


def _brace(out: list[str], after: int) -> None:
    """Write braces around what a power, a root or a base takes."""
    taken = out[after] if after < len(out) else ""
    if taken == "(":
        depth = 0
        for end in range(after, len(out)):
            depth += (out[end] == "(") - (out[end] == ")")
            if depth == 0:
                out[after], out[end] = "{(", ")}"
                return
    elif taken == "-" and after + 1 < len(out) and out[after + 1][0].isdigit():
        out[after], out[after + 1] = "{-", out[after + 1] + "}"
    elif taken and taken[0].isdigit():
        out[after] = f"{{{taken}}}"
