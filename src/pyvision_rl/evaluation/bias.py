"""Does a model prefer a letter, and is it right more often where a certain letter is right?

In: the items of a run whose gold facts hold options and the right letter. Out: per number of
options, how often each letter is right, how often it was answered, the accuracy by right letter,
and two permutation tests. Items with different numbers of options are never mixed: guessing alone
would make them differ.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from string import ascii_uppercase
from typing import Any

import numpy as np

from pyvision_rl.evaluation.items import Item
from pyvision_rl.evaluation.numbers import margins_test, spread_test
from pyvision_rl.rewards.answers import normalise
from pyvision_rl.rewards.letters import option_letter

METHOD = (
    "permutation tests over items, 10000 draws: p_answered exchanges the right and the answered "
    "letter of items; p_accuracy shuffles items among the right letters"
)


@dataclass(frozen=True, slots=True)
class Letter:
    """One letter, over the items with a certain number of options."""

    letter: str
    right: int
    """Items whose right letter it is."""
    answered: float
    """Episodes that answered it, per sample of an item: comparable with ``right``."""
    accuracy: float | None
    """Over the items whose right letter it is; None without one."""


def position_bias(items: Sequence[Item], *, seed: int = 0) -> list[dict[str, Any]] | None:
    """Return the audit by number of options; None where no item has options.

    Args:
        items: Of a run; ungraded episodes are left out.
        seed: Of the permutation tests.
    """
    by_task: dict[int, list[Item]] = {}
    for item in items:
        if _choices(item) and item.sample.counts:
            by_task.setdefault(item.index, []).append(item)
    by_size: dict[int, list[list[Item]]] = {}
    for members in by_task.values():
        by_size.setdefault(len(_choices(members[0])), []).append(members)
    if not by_size:
        return None
    return [_audit(size, by_size[size], seed) for size in sorted(by_size)]


def answered_letter(answer: str | None, options: Sequence[str]) -> str:
    """Return the letter an answer means, by name or by what the option says; empty for none."""
    if answer is None:
        return ""
    said = normalise(answer)
    letter = (option_letter(said)[0] or "").upper()
    if letter and letter in ascii_uppercase[: len(options)]:
        return letter
    same = [k for k, text in enumerate(options) if normalise(text) == said]
    return ascii_uppercase[same[0]] if len(same) == 1 else ""


def _choices(item: Item) -> tuple[str, ...]:
    """The options of an item with a right letter among them."""
    options, gold = item.task.gold.facts.get("options"), _gold(item)
    if not isinstance(options, tuple) or not 1 < len(options) <= len(ascii_uppercase):
        return ()
    return options if len(gold) == 1 and gold in ascii_uppercase[: len(options)] else ()


def _gold(item: Item) -> str:
    letter = item.task.gold.facts.get("letter", item.task.gold.answer)
    return letter if isinstance(letter, str) else ""


def _audit(size: int, tasks: Sequence[Sequence[Item]], seed: int) -> dict[str, Any]:
    letters = ascii_uppercase[:size]
    gold = [letters.index(_gold(members[0])) for members in tasks]
    answered = np.zeros((len(tasks), size))
    none = 0.0
    for row, members in enumerate(tasks):
        said = Counter(answered_letter(m.answer, _choices(m)) for m in members)
        none += said.pop("", 0) / len(members)
        for letter, count in said.items():
            answered[row, letters.index(letter)] = count / len(members)
    rights = [
        math.fsum(float(bool(m.sample.correct)) for m in members) / len(members)
        for members in tasks
    ]
    right = np.zeros_like(answered)
    right[np.arange(len(tasks)), gold] = 1.0
    table = [
        Letter(
            letter,
            gold.count(k),
            float(answered[:, k].sum()),
            _mean([r for r, g in zip(rights, gold, strict=True) if g == k]),
        )
        for k, letter in enumerate(letters)
    ]
    # Who answered no letter preferred none: his items say nothing of it.
    told = answered.sum(axis=1) > 0
    # Nor does a sample without one beside others that have one: each item weighs as much as its
    # right letter.
    shares = answered[told] / answered[told].sum(axis=1, keepdims=True)
    return {
        "options": size,
        "items": len(tasks),
        "no_letter": none,
        "letters": [asdict(letter) for letter in table],
        "p_answered": margins_test(right[told] - shares, seed=seed) if told.any() else None,
        "p_accuracy": spread_test(gold, rights, seed=seed) if len(set(gold)) > 1 else None,
        "method": METHOD,
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
