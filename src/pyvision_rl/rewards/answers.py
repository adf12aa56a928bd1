r"""Is an answer equal to the reference? Pure rules, one per answer type.

In: the predicted and the reference answer as text, and the type that says how they compare. Out:
a ``Match``. Never raises, runs nothing that it reads, and looks for no answer inside prose: a
letter in a word or a number in a sentence is not an answer. Knows no units.

| type | equal when |
|---|---|
| ``text`` | same words, ignoring case, spacing, quotes, TeX wrapping and a final period |
| ``letter`` | same option letter, written ``B``, ``(B)``, ``B.`` or ``B. option text`` |
| ``integer`` | same whole number; ``1,000``, TeX's ``1{,}000`` and ``7.0`` are read |
| ``float`` | within the tolerances; ``1e3``, ``1/3`` and ``\frac{1}{3}`` are read |
| ``yes_no`` | same of yes (true) and no (false), alone or before a comma or period |
| ``set`` | same members in any order, separated by semicolons, else by commas, else by spaces |
| ``sequence`` | same members in the same order |
| ``auto`` | by the reference's form: letter, yes_no, integer, float, else text |

A reference that its own type cannot read is compared as text.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

REL_TOL = 1e-3
ABS_TOL = 1e-9
MAX_FACTOR, SPARE_CHARS = 4, 1000
"""An answer longer than so many references and so many characters is wrong unread."""
MAX_NUMBER_CHARS = 64
MAX_LAYERS = 8
"""Wrappings that are taken off; more is no honest answer."""

_PLAIN_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_NUMBER = re.compile(rf"[+-]?(?:{_PLAIN_NUMBER})(?:e[+-]?[0-9]{{1,3}})?")
_FRACTION = re.compile(r"([+-]?)(?:([0-9]+)\s*/\s*([0-9]+)|\\d?frac\{([0-9]+)\}\{([0-9]+)\})")
_AUTO_LETTER = re.compile(r"[A-Z][.:)]?|\([A-Z]\)(\s.*)?", re.DOTALL)
_TEX_WRAP = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|boxed|fbox)\s*\{")
_TEX_SPACE = re.compile(r"\\[,;:! ]|~|\\(?:left|right|quad)(?![a-z])")
_TEX_GROUP = r"(?:\{,\}|\\,|,\\!)"
# Of 0{,}500 the comma is a decimal one.
_TEX_THOUSANDS = re.compile(
    rf"(?<![0-9.^_])[1-9][0-9]{{0,2}}(?:{_TEX_GROUP}[0-9]{{3}})+(?!{_TEX_GROUP}?[0-9])"
)
_LEADING_SIGN = re.compile(r"\A([+-]) (?=\.?[0-9]|\\[dtc]?frac)")
_PAIRS = {'"': '"', "'": "'", "`": "`", "$": "$", "“": "”", "‘": "’"}
# Not NFKC: it would turn 10² into 102 and 1½ into 11/2. Narrow spaces are TeX's \\,.
_SIGNS = {ord("−"): "-", ord("–"): "-", 0x2009: "\\,", 0x202F: "\\,"} | {
    wide: chr(wide - 0xFEE0) for wide in range(0xFF01, 0xFF5F)
}
_TRUTH = {"yes": True, "true": True, "no": False, "false": False}


@dataclass(frozen=True, slots=True)
class Match:
    """Whether an answer is right, and which rule said so."""

    correct: bool
    why: str


def match(
    prediction: str,
    gold: str,
    answer_type: str = "auto",
    *,
    rel_tol: float = REL_TOL,
    abs_tol: float = ABS_TOL,
) -> Match:
    """Return whether ``prediction`` equals ``gold``.

    Args:
        prediction: The final answer, without the tags around it. An empty one is wrong.
        gold: The reference answer.
        answer_type: One of ``ANSWER_TYPES``; an unknown one compares as text.
        rel_tol: Allowed distance of floats, as a share of the reference.
        abs_tol: Allowed distance of floats near 0.
    """
    if not prediction.strip():
        return Match(False, "empty answer")
    if prediction.strip() == gold.strip():
        return Match(True, "identical")
    if len(prediction) > MAX_FACTOR * len(gold) + SPARE_CHARS:
        return Match(False, "answer is far longer than the reference")
    kind = infer_type(gold) if answer_type == "auto" else answer_type
    mine, theirs = normalise(prediction), normalise(gold)
    if mine and mine == theirs:
        return Match(True, f"same {kind}")
    equal = {
        "letter": _same_letter,
        "integer": _same_integer,
        "float": _float_rule(rel_tol, abs_tol),
        "yes_no": _same_truth,
        "set": _same_set,
        "sequence": _same_sequence,
    }.get(kind)
    if equal is not None and equal(mine, theirs):
        return Match(True, f"same {kind}")
    return Match(False, f"not the same {kind}")


def infer_type(gold: str) -> str:
    """Return the type that ``auto`` stands for: letter, yes_no, integer, float or text.

    Only plain forms count. ``A cat``, ``50%``, ``10:30``, ``1/2`` and lists are text.
    """
    if _AUTO_LETTER.fullmatch(gold.strip()):
        return "letter"
    text = normalise(gold)
    if text in _TRUTH:
        return "yes_no"
    if len(text) <= MAX_NUMBER_CHARS and _NUMBER.fullmatch(text):
        return "float" if any(sign in text for sign in ".e") else "integer"
    return "text"


def normalise(text: str) -> str:
    """Return an answer without what does not change its meaning.

    That is: how characters are composed or how wide they are, case, runs of spaces, what TeX puts
    between thousands, quotes or dollar signs around the whole, TeX text and box commands, one final
    period, and spaces behind the sign of a number.
    """
    text = unicodedata.normalize("NFC", text).translate(_SIGNS).casefold()
    text = without_tex_thousands(text)
    text = _TEX_SPACE.sub(" ", text.replace("\\%", "%"))
    text = " ".join(text.split())
    for _ in range(MAX_LAYERS):
        bare = _without_layer(text)
        if bare == text:
            break
        text = bare
    return _LEADING_SIGN.sub(r"\1", text)


def without_tex_thousands(text: str) -> str:
    r"""Return a text in which ``1{,}000``, ``1\,000`` and ``1,\!000`` are ``1000``.

    Nothing takes the separator's place: a comma would divide the members of a list.
    """
    return _TEX_THOUSANDS.sub(lambda found: re.sub("[^0-9]", "", found[0]), text)


def _without_layer(text: str) -> str:
    """The text without its outermost wrapping or final period, if it has one."""
    if len(text) > 1 and _PAIRS.get(text[0]) == text[-1]:
        inner = text[1:-1]
        # Not "a" and "b": there the outer signs do not belong together.
        if text[0] not in inner and text[-1] not in inner:
            return inner.strip()
    if len(text) > 4 and text[:2] == text[-2:] == "**" and "**" not in text[2:-2]:
        return text[2:-2].strip()
    if text.startswith("\\(") and text.endswith("\\)"):
        return text[2:-2].strip()
    found = _TEX_WRAP.search(text)
    if found:
        end = _closing_brace(text, found.end())
        if end is not None:
            return f"{text[: found.start()]}{text[found.end() : end]}{text[end + 1 :]}".strip()
    if len(text) > 1 and text.endswith(".") and not text.endswith(".."):
        return text[:-1].rstrip()
    return text


def _closing_brace(text: str, start: int) -> int | None:
    """Where the brace opened just before ``start`` closes."""
    depth = 1
    for position in range(start, len(text)):
        if text[position] == "{":
            depth += 1
        elif text[position] == "}":
            depth -= 1
            if depth == 0:
                return position
    return None


def _same_letter(mine: str, theirs: str) -> bool:
    """Same option letter; or the reference's option text, with its letter or without."""
    from pyvision_rl.rewards.letters import option_letter, says

    gold, option = option_letter(theirs)
    return gold is not None and (option_letter(mine)[0] == gold or says(mine, gold, option))


def _same_integer(mine: str, theirs: str) -> bool:
    """Same whole number."""
    first, second = decimal_of(mine), decimal_of(theirs)
    if first is None or second is None:
        return False
    return first == second and first == first.to_integral_value()


def decimal_of(text: str) -> Decimal | None:
    """Return the exact value of a plain number, or None."""
    if len(text) > MAX_NUMBER_CHARS or not _NUMBER.fullmatch(text):
        return None
    return Decimal(text.replace(",", ""))


def _float_rule(rel_tol: float, abs_tol: float) -> Callable[[str, str], bool]:
    """The comparison of two numbers with tolerances."""

    def same_float(mine: str, theirs: str) -> bool:
        first, second = _float(mine), _float(theirs)
        if first is None or second is None:
            return False
        return abs(first - second) <= max(rel_tol * abs(second), abs_tol)

    return same_float


def _float(text: str) -> float | None:
    """The value of a plain number or a fraction of two integers, or None."""
    if len(text) > MAX_NUMBER_CHARS:
        return None
    value = decimal_of(text)
    fraction = _FRACTION.fullmatch(text)
    if fraction:
        sign, *digits = fraction.groups()
        top, bottom = (Decimal(d) for d in digits if d is not None)
        value = None if bottom == 0 else (-top if sign == "-" else top) / bottom
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None


def _same_truth(mine: str, theirs: str) -> bool:
    """Same of yes and no."""
    gold = _truth(theirs)
    return gold is not None and _truth(mine) is gold


def _truth(text: str) -> bool | None:
    """What a normalised answer says: True for yes, False for no, None for neither or both."""
    found = re.fullmatch(r"([a-z]+)(?:[,.;:](.*))?", text)
    said = _TRUTH.get(found[1]) if found else None
    if found is None or said is None:
        return None
    later = {_TRUTH[word] for word in re.findall(r"[a-z]+", found[2] or "") if word in _TRUTH}
    return None if later - {said} else said


def _same_set(mine: str, theirs: str) -> bool:
    """Same members, in any order and number."""
    from pyvision_rl.rewards.members import members

    return set(members(mine)) == set(members(theirs))


def _same_sequence(mine: str, theirs: str) -> bool:
    """Same members in the same order."""
    from pyvision_rl.rewards.members import members

    return members(mine) == members(theirs)
