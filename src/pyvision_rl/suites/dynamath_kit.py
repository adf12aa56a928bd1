"""DynaMath as its authors published it in VLMEvalKit: the prompt, and the rules of the scorer.

In: the kind of a question, what a model said, and the reference. Out: words for the prompt; a
``Grade``, or ``Undecided`` where that scorer asks a language model for a short answer. Its faults
are kept, for these protocols only: a text is right if it occurs in the reference, in any case, so
that the empty one always is; of a choice, one letter A to E anywhere in the text decides.
"""

from __future__ import annotations

import json
import math
from typing import Any

from pyvision_rl.rewards.base import Grade
from pyvision_rl.suites.base import Undecided

TOLERANCE = 0.001
CHOICE, FLOAT = "multiple choice", "float"
_LETTERS = "ABCDE"
_GUIDE = (
    "\n## Answer Instruction Please provide an answer to the question outlined above. Your "
    "response should adhere to the following JSON format, which includes two keys: 'solution' and "
    "'short answer'. The 'solution' key can contain detailed steps needed to solve the question, "
    "and the 'short answer' key should provide a concise response. {}\n\n"
    "Example of expected JSON response format:\n\n"
)
_EXAMPLE = {
    "solution": "[Detailed step-by-step explanation]",
    "short answer": "[Concise Answer]",
}
_KIND = {
    # "corresponing" is how it was published.
    CHOICE: (
        "Provide the corresponing choice option in the 'short answer' key, such as 'A', 'B', 'C', "
        "or 'D'."
    ),
    FLOAT: (
        "Format the answer as a three-digit floating-point number and provide it in the 'short "
        "answer' key."
    ),
}
_OTHER = "Float numbers in the answer should be formatted as three-digit floating-point numbers."


def guide(kind: str) -> str:
    """Return what follows a question of this kind."""
    return _GUIDE.format(_KIND.get(kind, _OTHER)) + json.dumps(_EXAMPLE, indent=4)


def score(said: str, gold: str, kind: str) -> Grade | Undecided:
    """Return the grade of that scorer (e8e78f0) without its language model."""
    text = _object(said)
    short = _short(_field(text), kind)
    if short is None:
        short = _short(text, kind)
    if short is None:
        return Undecided("DynaMath's scorer asks a language model for the short answer")
    if kind == FLOAT:
        right = _near(short, gold)
    elif kind == CHOICE:
        right = short == gold
    else:
        right = str(short).lower() in gold.lower()
    return Grade(float(right), right, f"short answer {str(short)!r:.40}")


def _object(said: str) -> str:
    """From the first brace to the last, without backslashes."""
    first, last = said.find("{"), said.rfind("}")
    text = said[first : last + 1] if 0 <= first < last else said
    return text.replace("\\", "")


def _field(text: str) -> Any:
    """The short answer of a JSON object, or None."""
    try:
        found = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return found.get("short answer") if isinstance(found, dict) else None


def _short(answer: Any, kind: str) -> str | float | None:
    """The answer in the form in which it is compared, or None where that cannot be read."""
    if not isinstance(answer, str):
        return None
    if kind == FLOAT:
        return _float(answer)
    if kind != CHOICE:
        return answer
    capitals = answer.upper()
    if len(answer) == 1:
        return capitals
    found = [letter for letter in _LETTERS if letter in capitals]
    return found[0] if len(found) == 1 else None


def _float(text: str) -> float | None:
    """A whole number, or the first word as a number, before a sign of pi as a multiple of it."""
    first = text if text.isdigit() else text.split(" ")[0]
    number, *rest = first.split("\u03c0")
    try:
        return float(number) * (math.pi if rest else 1)
    except (ValueError, OverflowError):
        return None


def _near(found: str | float, gold: str) -> bool:
    try:
        return abs(float(found) - float(gold)) <= TOLERANCE
    except ValueError:
        return False
