"""How an answer to an item of TIR-Bench is scored: by its authors' rules, and strictly.

In: a task and what an episode ended with. Out: a ``Grade``; of ``jigsaw`` and ``spot_difference``
in shares. Never raises.

| task | official | strict |
|---|---|---|
| ocr | the text occurs anywhere in the turn | the answer is the text |
| word_search | a whole number, or the first pair ``a, b`` | a number, or just that pair |
| spot_difference | a whole number, or intersection over union of all integers | of a list of them |
| jigsaw | share in place in the first run of n*n numbers | of an answer that is n*n numbers |
| others, letters | the letter, or a letter that is near | the letters, or an option's text |
| others, numbers | equal after all letters, ``*`` and ``:`` are taken out | one number, equal |
| others, the rest | never right | the same text |

The letter that is near is that of the option which has the text, else the first letter of A to J
in the text, else A. So officially an empty or senseless answer is right where ``A`` is, and a word
where the first capital in it is; strictly neither is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from pyvision_rl.rewards.answers import match, normalise
from pyvision_rl.rewards.base import Grade
from pyvision_rl.rewards.relative_accuracy import read_number
from pyvision_rl.suites import choices
from pyvision_rl.suites.base import Final
from pyvision_rl.types import Task

TASKS = (
    "instrument",
    "color",
    "refcoco",
    "rotation_game",
    "math",
    "word_search",
    "visual_search",
    "ocr",
    "symbolic",
    "spot_difference",
    "contrast",
    "jigsaw",
    "maze",
)
LETTERS = "ABCDEFGHIJ"
"""The options that the official rules know."""

_MAX_CHARS = 2_000
"""A longer answer is no list."""
_LIST = re.compile(r"[\[({]?\s*\d+(?:(?:\s*[,;，]\s*|\s+)\d+)*\s*[\])}]?")
_CORRECTED = (("60.jpg", "mobi"), ("62.jpg", "aires"))


def is_letters(answer: str) -> bool:
    """Return whether a reference is one option letter, or several different ones in order."""
    return bool(answer) and set(answer) <= set(LETTERS) and sorted(set(answer)) == list(answer)


def strict(task: Task, final: Final) -> Grade:
    """Return our grade: of the final answer alone."""
    gold = task.gold.answer
    if final.answer is None:
        return Grade(0.0, False, "no answer")
    kind = task.gold.facts.get("task")
    if kind == "jigsaw":
        return _in_place(_integers(final.answer), _integers(gold) or [])
    if kind == "spot_difference" and not _whole(gold):
        return _overlap(_integers(final.answer), _integers(gold) or [])
    if kind == "word_search" and not _whole(gold):
        pair = _integers(gold)
        right = pair is not None and _integers(final.answer) == pair
        return Grade(float(right), right, "pair")
    if kind != "ocr" and is_letters(gold):
        return _letters(final.answer, gold, choices.asked(task)[0])
    wanted = read_number(gold) if kind != "ocr" and _number(gold) else ""
    if isinstance(wanted, Fraction):
        right = read_number(final.answer) == wanted
        return Grade(float(right), right, "number")
    right = match(final.answer, gold, "text").correct
    return Grade(float(right), right, "text")


def official(task: Task, final: Final) -> Grade:
    """Return the grade of the authors' rules, their faults included."""
    gold = task.gold.answer
    kind = task.gold.facts.get("task")
    if kind == "ocr":
        image = str(task.gold.facts.get("image_1", ""))
        for name, text in _CORRECTED:
            gold = text if name in image else gold
        right = gold in (final.text or final.said)
        return Grade(float(right), right, "the text occurs")
    said = (final.said or "").replace("*", "").strip()
    if kind == "jigsaw":
        side = task.gold.facts.get("difficulty")
        count = side * side if isinstance(side, int) else 0
        return _in_place(_run(said, count), _run(gold, count) or [])
    if kind in ("word_search", "spot_difference") and not _whole(gold):
        if kind == "spot_difference":
            return _overlap(_all_integers(said), _all_integers(gold))
        pair = _pair(said)
        right = pair is not None and pair == _pair(gold)
        return Grade(float(right), right, "first pair")
    if gold.isalpha() and kind not in ("word_search", "spot_difference"):
        return _official_letters(said, gold, task.input.question)
    if _whole(gold) or _float(gold) is not None:
        return _official_number(said, gold)
    return Grade(0.0, False, "a reference of no official kind")


def _letters(answer: str, gold: str, options: Sequence[str]) -> Grade:
    """Strict grade of one or several options; only what the prompt lists can be an option."""
    if len(gold) == 1:
        if gold in choices.letters(options):
            return choices.grade(answer, gold, options)
        right = match(answer, gold, "letter").correct
        return Grade(float(right), right, "letter")
    said = re.sub(r"[\s,;&()\[\].]|\band\b", "", normalise(answer)).upper()
    right = sorted(said) == list(gold)
    return Grade(float(right), right, "letters")


def _official_letters(said: str, gold: str, prompt: str) -> Grade:
    if len(gold) > 1:
        right = sorted(said) == sorted(gold)
        return Grade(float(right), right, "the same letters")
    named = said.replace("Extracted answer:", "").strip()
    if named not in tuple(LETTERS):
        # The found letter replaces the text, so that a later option may match the letter.
        for letter in (*LETTERS, "H"):
            if any(f"{letter}{mark}{named}" in prompt for mark in (". ", ".", " ", "")):
                named = letter
        # The nearest by edits: the first letter that occurs at all, else the first of all.
        named = next((letter for letter in LETTERS if letter in named), LETTERS[0])
    return Grade(float(named == gold), named == gold, f"option {named}")


def _official_number(said: str, gold: str) -> Grade:
    bare = re.sub(r"[A-Za-z*:\s]+", "", said.replace("Extracted answer:", "")).strip()
    try:
        right = int(bare) == int(gold) if _whole(gold) else float(bare) == float(gold)
    except ValueError:
        right = False
    right = right or match(said, gold, "float", rel_tol=0.0).correct
    return Grade(float(right), right, "number")


def _in_place(order: Sequence[int] | None, gold: Sequence[int]) -> Grade:
    """The share of the numbers that stand where the reference has them."""
    if order is None or not gold or len(order) != len(gold):
        return Grade(0.0, False, f"not {len(gold)} numbers")
    share = sum(a == b for a, b in zip(order, gold, strict=True)) / len(gold)
    return Grade(share, share == 1.0, f"{share:.0%} in place")


def _overlap(found: Sequence[int] | None, gold: Sequence[int]) -> Grade:
    """Intersection over union of two sets."""
    if found is None:
        return Grade(0.0, False, "not a list of numbers")
    mine, theirs = set(found), set(gold)
    share = len(mine & theirs) / len(mine | theirs) if mine | theirs else 1.0
    return Grade(share, share == 1.0, f"{share:.0%} in common")


def _integers(text: str) -> list[int] | None:
    """The whole numbers of a text that is nothing but a list of them."""
    bare = normalise(text) if len(text) <= _MAX_CHARS else ""
    if not _LIST.fullmatch(bare):
        return None
    return _all_integers(bare)


def _all_integers(text: str) -> list[int]:
    """Every run of digits of a text; those too long for a number are left out."""
    return [int(digits) for digits in re.findall(r"\d+", text) if len(digits) < _MAX_CHARS]


def _run(text: str, count: int) -> list[int] | None:
    """The first stretch of digits, spaces and commas that holds so many numbers."""
    stretches = (_all_integers(found) for found in re.findall(r"[\d\s,，]+", text))
    return next((numbers for numbers in stretches if len(numbers) == count), None)


def _pair(text: str) -> tuple[int, int] | None:
    found = re.search(r"\b(\d{1,1000})\s*,\s*(\d{1,1000})\b", text)
    return (int(found[1]), int(found[2])) if found else None


def _whole(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _number(text: str) -> bool:
    return _float(text) is not None
