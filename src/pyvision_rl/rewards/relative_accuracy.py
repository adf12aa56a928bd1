"""Mean relative accuracy: partial credit for a number that is near the reference.

In: a task and a trajectory, of which only the final answer is read. Out: a ``Grade`` in steps of
0.1: the share of the thresholds theta = 0.50, 0.55, ..., 0.95 for which
``|answer - reference| / |reference| < 1 - theta`` (VSI-Bench, arXiv 2412.14171, and the authors'
code of PyVision-RL), or ``<=`` in its place (VSI-Bench's own evaluation).

Numbers are compared as fractions, without rounding: an error that equals a threshold's meets it by
the second rule alone. (In binary floating point, 1.3 for 1 would meet theta = 0.7 by either.)
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pyvision_rl.config import RewardsConfig
from pyvision_rl.errors import RewardError
from pyvision_rl.registry import parse_options
from pyvision_rl.rewards.answers import normalise
from pyvision_rl.rewards.base import Grade
from pyvision_rl.types import Task, Trajectory

ALLOWED_ERRORS = tuple(Fraction(k, 20) for k in range(1, 11))
"""1 - theta: 0.05, 0.10, ..., 0.50."""
MAX_ANSWER_CHARS = 200
"""A longer answer is no measurement."""

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_TIMES = r" ?(?:[×⨯✕x*·⋅]|\\?times|\\cdot) ?"
_BRACES = r"\{(?:[^{}]|\{[^{}]*\})*\}"
# A digit that hangs on a word or a power is no number of its own: the 2 of m2 and m^2. A sign
# behind a number is a dash: 3-4 are two numbers. What is raised, multiplied (3x4, 5\pi, 1½), or
# goes on behind a second point (1.5.2), a low line (1_000) or with an exponent that cannot be read
# (1e-3m), is not read at all.
_NOT_PLAIN = (
    rf"[)\]}}]* ?(?:e? ?\^|(?:{_TIMES})?(?:\\pi|\\sqrt|[π√¼-¾⅐-⅟↉])|{_TIMES}[{{(]?[0-9.,]+[)}}]?\^)"
    r"|\.+[0-9]|x[0-9]|e[+-]?[0-9]|_"
)
_NUMBER = re.compile(
    rf"(?<![\w.^√])(?<!\^[+-])(?<![0-9.]e[+-])(?<!sqrt[{{( ])"
    rf"(?>[+-]?(?:{_DIGITS})(?:e[+-]?[0-9]{{1,3}}(?!\w))?)(?!{_NOT_PLAIN})"
)
_FACTOR = rf"(?>(?:{_DIGITS})(?:e[+-]?[0-9]+)?(?:\^(?:{_BRACES}|[+-]?(?:[0-9]+|[a-z])))?)"
_PRODUCT = re.compile(rf"(?<![\w.^])({_FACTOR})((?:{_TIMES}{_FACTOR})+)")
_POWER_OF_TEN = re.compile(rf"{_TIMES}10\^(?:\{{ ?)?([+-]?[0-9]{{1,3}})(?: ?\}})?")
# Of a number, so that it is none itself. A fraction of units is a unit: \frac{m}{s}.
_FUNCTION = re.compile(
    r"\\(?:ln|log|exp|sin|cos|tan)(?![a-z])|\bln\b|\\[dtc]?frac\{(?:[^{}]*\}\{)?[+-]?[0-9.]"
)
_SIGN_OUTSIDE = re.compile(
    r"(?<![\w)\]}%°])(?<![\w)\]}%°] )([+-]) ?((?:\\?\$|\\?\() ?)(?=\.?[0-9])"
)
_SMALL_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_FRACTION = re.compile(r"([+-]?)([0-9]+)\s*/\s*([0-9]+)|([+-]?)\\d?frac\{([0-9]+)\}\{([0-9]+)\}")


class Options(BaseModel):
    """The options of the grader ``relative_accuracy``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    correct_from: float = Field(0.5, gt=0, le=1)
    """The answer counts as correct from this score on."""
    rule: Literal["reference", "official"] = "reference"
    """reference: an error equal to a threshold's does not meet it; official: it does."""


class RelativeAccuracyGrader:
    """Grades a number by how near it is."""

    def __init__(self, config: RewardsConfig) -> None:
        """Check the options.

        Raises:
            ConfigError: An option is unknown or out of range.
        """
        self._options = parse_options(Options, config.options, "rewards.options")

    async def __call__(self, task: Task, trajectory: Trajectory) -> Grade:
        """Return the grade; an answer without a number, or with several, scores 0.

        Raises:
            RewardError: The reference is not one number.
        """
        gold = read_number(task.gold.answer)
        if isinstance(gold, str):
            raise RewardError(f"reference {task.gold.answer!r:.80}: {gold}")
        if trajectory.answer is None:
            return Grade(0.0, False, "no answer", "rule")
        number = read_number(trajectory.answer)
        if isinstance(number, str):
            return Grade(0.0, False, number, "rule")
        score = relative_accuracy(number, gold, inclusive=self._options.rule == "official")
        return Grade(score, score >= self._options.correct_from, distance(number, gold), "rule")


def relative_accuracy(answer: Fraction, gold: Fraction, *, inclusive: bool = False) -> float:
    """Return the share of thresholds that an answer meets; for a reference of 0, 1 if it is 0.

    Args:
        answer: The number that was given.
        gold: The reference.
        inclusive: An error equal to a threshold's meets it.
    """
    if gold == 0:
        return float(answer == 0)
    error = abs(answer - gold) / abs(gold)
    met = sum(error < most or (inclusive and error == most) for most in ALLOWED_ERRORS)
    return met / len(ALLOWED_ERRORS)


def read_number(answer: str) -> Fraction | str:
    r"""Return the one number of an answer, or what is wrong with it.

    Units and words around it are allowed; ``1,200``, ``1.5e3``, ``1.5 \times 10^3``, ``1/3`` and
    ``\frac{1}{3}`` read.
    """
    if len(answer) > MAX_ANSWER_CHARS:
        return "too long for a number"
    text = normalise(answer)
    if fraction := _FRACTION.fullmatch(text):
        sign, top, bottom = (part for part in fraction.groups() if part is not None)
        if int(bottom) == 0:
            return "divides by 0"
        return Fraction(int(top), int(bottom)) * (-1 if sign == "-" else 1)
    if _FUNCTION.search(text):
        return "no number"
    found = [match[0] for match in _NUMBER.finditer(_plainly(text))]
    if len(found) != 1:
        return "several numbers" if found else "no number"
    return Fraction(Decimal(found[0].replace(",", "")))


def _plainly(text: str) -> str:
    """A text whose signs stand at their numbers, powers of ten as ``e3``, units without exponents.

    Other powers leave a lone ``^`` behind, by which what is raised is no plain number.
    """
    text = re.sub(r"\^ ?\{? ?\\circ ?\}?", "°", text)
    text = re.sub(r"\b(?:minus|negative) (?=[$(\\]*\.?[0-9])", "-", text)
    text = _SIGN_OUTSIDE.sub(r"\2\1", text)
    text = re.sub("[⁺⁻⁰¹²³⁴-⁹]+", lambda small: f"^{{{small[0].translate(_SMALL_DIGITS)}}}", text)
    text = re.sub(r" ?\^ ?", "^", text)
    text = re.sub(r"\^\(([^()]*)\)", r"^{\1}", text)
    text = _PRODUCT.sub(_multiplied, text)
    # Not of Euler's number, which is raised as a number is: 5e^{3}.
    text = re.sub(rf"(?<=[^\W\d_])(?<![0-9]e)(?<![0-9] e)\^{_BRACES}", "", text)
    text = " ".join(re.sub(rf"\^{_BRACES}", "^", text).split())
    # Behind a word or a number it is a dash.
    return re.sub(r"(?<![\w)\]}%°+-])(?<![\w)\]}%°+-] )([+-]) (?=\.?[0-9])", r"\1", text)


def _multiplied(product: re.Match[str]) -> str:
    """A mantissa and its power of ten as one number; a lone sign for other products of powers."""
    if "^" not in product[0]:
        return product[0]
    ten = _POWER_OF_TEN.fullmatch(product[2])
    return f"{product[1]}e{ten[1]} " if ten and "^" not in product[1] else "× "


def distance(number: Fraction, gold: Fraction) -> str:
    """Return in words how far a number is from the reference."""
    if number == gold:
        return "exact"
    if gold == 0:
        return "off by more than 0"
    error = 100 * abs(number - gold) / abs(gold)
    return f"off by {float(error):.3g}%" if error < 1000 else "off by over 1000%"
