"""Options of a question: read, reordered, written, and found again in an answer.

In: options as texts, the letter of the right one, and an answer. Out: another order, lines for a
prompt, or the letter that an answer names. Options are lettered from A in the order given. Looks
for nothing in prose: an answer is a letter, an option's text, or both where they agree.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from pyvision_rl.errors import TaskError
from pyvision_rl.rewards.answers import normalise
from pyvision_rl.rewards.base import Grade
from pyvision_rl.rewards.choices import named_by_text
from pyvision_rl.rewards.letters import option_letter
from pyvision_rl.types import Fact, Task

_MARK = re.compile(r"\(([A-Z])\)[ \t]*")


@dataclass(frozen=True, slots=True)
class Choices:
    """The options of one question, in the order in which they are asked."""

    options: tuple[str, ...]
    letter: str
    """Of the right one."""

    def __post_init__(self) -> None:
        if self.letter not in letters(self.options):
            raise TaskError(f"answer {self.letter!r:.40} is none of {len(self.options)} options")

    @property
    def facts(self) -> dict[str, Fact]:
        """What a scorer keeps of them: ``options`` and ``letter``."""
        return {"options": self.options, "letter": self.letter}


def asked(task: Task) -> tuple[tuple[str, ...], str]:
    """Return the options of a task in the order asked, and the gold letter."""
    options = task.gold.facts.get("options")
    return (options if isinstance(options, tuple) else ()), task.gold.answer


def letters(options: Sequence[str]) -> str:
    """Return the letters of the options, A first."""
    return ascii_uppercase[: len(options)]


def drawn(choices: Choices, shuffle: int | None, item: str) -> Choices:
    """Return the choices in an order drawn from seed and item id; as they are without a seed."""
    if shuffle is None:
        return choices
    order = list(range(len(choices.options)))
    random.Random(f"{shuffle}|{item}").shuffle(order)
    gold = order.index(letters(choices.options).index(choices.letter))
    return Choices(tuple(choices.options[i] for i in order), ascii_uppercase[gold])


def lines(options: Sequence[str]) -> str:
    """Return ``A. first`` and so on, one a line."""
    return "\n".join(f"{name}. {o}" for name, o in zip(letters(options), options, strict=True))


def split(text: str) -> tuple[str, tuple[str, ...], str]:
    """Return question, options and what follows them, of a text with ``(A) .. (B) ..``.

    The options are those of the last run of marks from A on; the last one ends at its line's end.
    Without such a run there are no options.
    """
    marks = list(_MARK.finditer(text))
    starts = [i for i, mark in enumerate(marks) if mark[1] == "A"]
    if not starts:
        return text.strip(), (), ""
    run = marks[starts[-1] :]
    if "".join(mark[1] for mark in run) != ascii_uppercase[: len(run)]:
        return text.strip(), (), ""
    ends = [*(mark.start() for mark in run[1:]), len(text)]
    found = [text[mark.end() : end].strip() for mark, end in zip(run, ends, strict=True)]
    last, _, rest = found[-1].partition("\n")
    return text[: run[0].start()].strip(), (*found[:-1], last.strip()), rest.strip()


def chosen(answer: str, options: Sequence[str]) -> str | None:
    """Return the letter of the one option that an answer names, or None."""
    said, text = option_letter(normalise(answer))
    names = letters(options)
    bare = [normalise(option) for option in options]
    if said is not None and said.upper() in names:
        meant = bare[names.index(said.upper())]
        return None if text in bare and text != meant else said.upper()
    if any(option_letter(option)[0] for option in bare):
        return None  # Where an option says a letter, nobody knows which of the two is meant.
    return named_by_text(answer, dict(zip(names, bare, strict=True)))


def grade(answer: str | None, gold: str, options: Sequence[str]) -> Grade:
    """Return 1 for an answer that names the option ``gold`` and no other, else 0."""
    if answer is None:
        return Grade(0.0, False, "no answer")
    named = chosen(answer, options)
    if named is None:
        return Grade(0.0, False, "names no option")
    return Grade(float(named == gold), named == gold, f"option {named}")


def kit_grade(named: str | None, gold: str) -> Grade:
    """Return the grade of the letter that a kit's rules found; none is wrong."""
    if named is None:
        return Grade(0.0, False, "no option found")
    return Grade(float(named == gold), named == gold, f"option {named}")
