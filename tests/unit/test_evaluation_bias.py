"""A preferred letter is found, and silence is none."""

from __future__ import annotations

import pytest

from pyvision_rl.evaluation.bias import position_bias
from pyvision_rl.evaluation.items import Item
from pyvision_rl.types import Gold, Task, TaskInput
from tests.unit.test_evaluation_numbers import sample

OPTIONS = ("red", "green", "blue", "white")


def items(letters: str, *answers: str) -> list[Item]:
    """Items with these right letters; every answer stands for a sample of each, ``=`` the right."""
    found = []
    for index, letter in enumerate(letters):
        gold = Gold(letter, "letter", {"options": OPTIONS, "letter": letter})
        task = Task(TaskInput(f"t{index}", "Which?"), gold)
        for answer in answers:
            said = letter if answer == "=" else answer
            graded = sample(task.id, said == letter)
            found.append(Item(index, task, graded, said, "", ""))
    return found


def test_a_sample_that_names_no_letter_takes_no_side() -> None:
    (found,) = position_bias(items("ABCD" * 10, "=", "who knows")) or []
    # Of the samples that named a letter each was right: nothing is preferred.
    assert found["p_answered"] == 1.0
    # The table counts as it was answered, per sample.
    assert [x["answered"] for x in found["letters"]] == [5.0] * 4
    assert found["no_letter"] == pytest.approx(20.0)


def test_a_preferred_letter_is_found_beside_silent_samples() -> None:
    (found,) = position_bias(items("ABCD" * 10, "A", "who knows")) or []
    assert found["p_answered"] < 0.01
