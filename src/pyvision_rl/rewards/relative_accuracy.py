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
# A digit that hangs on a word or a power is no number of its own: the 2 of m2 and m^2. A sign
# behind a number is a dash: 3-4 are two numbers. What is raised or multiplied (3x4), or goes on
# behind a second point (1.5.2), is not read at all.
_NOT_PLAIN = r"[⁰¹²³⁴-⁹]|\^(?!\{?\\circ)|\\(?:pi|sqrt)|\.+[0-9]|[xX][0-9]"
_NUMBER = re.compile(
    rf"(?<![\w.^])(?>[+-]?(?:{_DIGITS})(?:e[+-]?[0-9]{{1,3}}(?!\w))?)(?!{_NOT_PLAIN})"
)
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
        why = "exact" if number == gold else f"off by {_percent(number, gold)}"
        return Grade(score, score >= self._options.correct_from, why, "rule")


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

    Units and words around it are allowed; ``1,200``, ``1.5e3``, ``1/3`` and ``\frac{1}{3}`` read.
    """
    if len(answer) > MAX_ANSWER_CHARS:
        return "too long for a number"
    text = normalise(answer)
    if fraction := _FRACTION.fullmatch(text):
        sign, top, bottom = (part for part in fraction.groups() if part is not None)
        if int(bottom) == 0:
            return "divides by 0"
        return Fraction(int(top), int(bottom)) * (-1 if sign == "-" else 1)
    found = [match[0] for match in _NUMBER.finditer(text)]
    if len(found) != 1:
        return "several numbers" if found else "no number"
    return Fraction(Decimal(found[0].replace(",", "")))


def _percent(number: Fraction, gold: Fraction) -> str:
    if gold == 0:
        return "more than 0"
    error = 100 * abs(number - gold) / abs(gold)
    return f"{float(error):.3g}%" if error < 1000 else "over 1000%"
