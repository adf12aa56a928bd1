"""The benchmark of grading measures what it says, and runs."""

from __future__ import annotations

from benchmarks.grading import QUICK, bombs, expressions, measure, typed
from pyvision_rl.rewards.expressions import pairs_of, value_of
from pyvision_rl.rewards.ruling import Rules, ruling


def test_rules_decide_every_typed_answer_some_right_and_some_wrong() -> None:
    found = [ruling(*one, Rules()).right for one in typed(70)]
    assert len(found) == 70
    assert set(found) == {True, False}


def test_expressions_and_bombs_are_left_to_math_verify() -> None:
    for task, episode in (*expressions(9), *bombs(3)):
        assert ruling(task, episode, Rules()).right is None
        assert episode.answer is not None
        assert value_of(episode.answer) is None
        assert len(pairs_of(episode.answer, task.gold.answer)) == 1
    assert len({episode.answer for _, episode in expressions(9)}) == 9


def test_a_quick_run_gives_every_number() -> None:
    numbers = measure(QUICK)
    assert all(numbers[f"{name}_median"] > 0 for name in ("rule_per_s", "maths_per_s", "stall_s"))
    # The bomb's limit is CPU time, so no bomb stalls for less.
    assert numbers["worst_stall_s"] >= QUICK.cpu_s
