"""What rules alone can say of an answer: right, wrong, or that it takes more than rules.

In: a final answer, a task with its reference, and the options of ``Rules``. Out: a ``Ruling``. It
is "wrong" only where both sides can be read in the reference's type and differ, or where the answer
says nothing that could be right; what is worded otherwise stays undecided. Pure, never raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pyvision_rl.rewards.answers import (
    ABS_TOL,
    MAX_FACTOR,
    REL_TOL,
    SPARE_CHARS,
    infer_type,
    match,
    normalise,
)
from pyvision_rl.rewards.choices import choice_of, same_choice
from pyvision_rl.rewards.expressions import same_value, value_of
from pyvision_rl.rewards.guards import boxes, hedges, says_something, speaks_to_grader
from pyvision_rl.rewards.letters import option_letter
from pyvision_rl.rewards.relative_accuracy import distance, read_number, relative_accuracy
from pyvision_rl.types import Task, Trajectory


class Rules(BaseModel):
    """The options of the rules; a base of those of the ladder."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rel_tol: float = Field(REL_TOL, ge=0, lt=1)
    """Allowed distance of floats, as a share of the reference."""
    abs_tol: float = Field(ABS_TOL, ge=0)
    """Allowed distance of floats near 0."""
    option_text: bool = True
    """An option that the question lists may be named by what it says instead of its letter."""
    several_boxes: Literal["wrong", "last"] = "wrong"
    r"""A last turn whose answer block boxes different things is wrong; or its last box counts."""
    relative: tuple[Literal["integer", "float"], ...] = ()
    """Answer types of which a number near the reference earns part of the credit, as by
    ``relative_accuracy``; ``auto`` stands for the type that the reference has by its form."""
    correct_from: float = Field(0.5, gt=0, le=1)
    """Such an answer counts as correct from this score on."""
    rule: Literal["reference", "official"] = "reference"
    """How ``relative`` treats an error that equals a threshold's; see ``relative_accuracy``."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rules say, and which one it was."""

    right: bool | None
    """None: undecided."""
    why: str
    score: float | None = None
    """Partial credit; None: all or nothing."""


def ruling(task: Task, trajectory: Trajectory, rules: Rules) -> Ruling:
    """Return what the rules say of the final answer of a trajectory, which is all they read.

    Of the last turn they also see whether its answer block boxes several things.
    """
    answer, gold = trajectory.answer, task.gold.answer
    if answer is None:
        return Ruling(False, "no answer")
    if not answer.strip():
        return Ruling(False, "empty answer")
    if rules.several_boxes == "wrong" and trajectory.turns:
        count = len(boxes(trajectory.turns[-1].text))
        if count > 1:
            return Ruling(False, f"boxes {count} different answers")
    kind = task.gold.answer_type
    kind = infer_type(gold) if kind == "auto" else kind
    near = _near(answer, gold, rules) if kind in rules.relative else None
    if near is not None:
        return near
    tolerances = {"rel_tol": rules.rel_tol, "abs_tol": rules.abs_tol}
    found = match(answer, gold, task.gold.answer_type, **tolerances)
    if found.correct:
        return Ruling(True, found.why)
    question = task.input.question if rules.option_text else ""
    if same_choice(answer, gold, question):
        return Ruling(True, "same choice")
    return _refused(answer, gold) or _typed(answer, task, kind, rules)


def _refused(answer: str, gold: str) -> Ruling | None:
    """Why an answer that equals nothing cannot be right in other words either."""
    if len(answer) > MAX_FACTOR * len(gold) + SPARE_CHARS:
        return Ruling(False, "answer is far longer than the reference")
    if says_something(gold) and not says_something(answer):
        return Ruling(False, "answer holds no word, number or sign")
    if hedges(answer) and not hedges(gold):
        return Ruling(False, "answer hedges")
    if speaks_to_grader(answer) and not speaks_to_grader(gold):
        return Ruling(False, "answer speaks to its grader")
    return None


def _typed(answer: str, task: Task, kind: str, rules: Rules) -> Ruling:
    """Wrong where both sides can be read in the reference's type; a number may still be equal."""
    gold = task.gold.answer
    if task.gold.answer_type in ("auto", "integer", "float"):
        mine, theirs = value_of(answer), value_of(gold)
        if mine is not None and theirs is not None:
            same = same_value(mine, theirs, rules.rel_tol, rules.abs_tol)
            if same is None:
                return Ruling(None, "differs by a percent sign")
            return Ruling(same, "same number" if same else "not the same number")
    if _readable(answer, task, kind, rules):
        return Ruling(False, f"not the same {kind}")
    return Ruling(None, f"not known to be the same {kind}")


def _readable(answer: str, task: Task, kind: str, rules: Rules) -> bool:
    """Whether an answer that is not equal to the reference is plainly another one of its type.

    Both have to be read in it: a reference that cannot be tells nothing of other answers.
    """
    both = (answer, task.gold.answer)
    question = task.input.question if rules.option_text else ""
    match kind:
        case "letter":
            return all(_names_option(text, question) for text in both)
        case "yes_no":
            return all(_says_truth(text) for text in both)
        case "set" | "sequence":
            return all(_all_numbers(text) for text in both)
    return all(choice_of(text, question) for text in both)


def _names_option(text: str, question: str) -> bool:
    return option_letter(normalise(text))[0] is not None or choice_of(text, question) is not None


def _says_truth(text: str) -> bool:
    return any(match(text, word, "yes_no").correct for word in ("yes", "no"))


def _all_numbers(text: str) -> bool:
    pieces = normalise(text).strip("[](){}").replace(";", ",").replace(",", " ").split()
    return bool(pieces) and all(value_of(piece) is not None for piece in pieces)


def _near(answer: str, gold: str, rules: Rules) -> Ruling | None:
    """The credit for a number by how near it is; None if the reference is no number."""
    theirs, mine = read_number(gold), read_number(answer)
    if isinstance(theirs, str):
        return None
    if isinstance(mine, str):
        return Ruling(False, mine, 0.0)
    score = relative_accuracy(mine, theirs, inclusive=rules.rule == "official")
    return Ruling(score >= rules.correct_from, distance(mine, theirs), score)
