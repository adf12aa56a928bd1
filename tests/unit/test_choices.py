"""An option may be named by its letter or its text, and nothing is read into a question."""

from __future__ import annotations

import asyncio
from string import ascii_lowercase
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyvision_rl.config import RewardsConfig
from pyvision_rl.rewards import build_rewarder
from pyvision_rl.rewards.choices import options_of, same_choice
from pyvision_rl.types import EndReason, Gold, Reward, Task, TaskInput, Trajectory

LINES = (
    "Which car is first?\nOptions:\nA. The red car\nB. The blue car\nC. 3 cars\nAnswer a letter."
)
INLINE = "Which color do the squares have? (A) red (B) blue, or (C) 1/2"


@pytest.mark.parametrize(
    ("question", "options"),
    [
        (LINES, {"a": "the red car", "b": "the blue car", "c": "3 cars"}),
        (INLINE, {"a": "red", "b": "blue", "c": "1/2"}),
        ("Which?\n- A) yes\n- B) no", {"a": "yes", "b": "no"}),
        ("Which?\n(A) yes.\n(B) no.", {"a": "yes", "b": "no"}),
        ("Options: A: left; B: right; C: back", {"a": "left", "b": "right", "c": "back"}),
        ("A. up B. down\nC. in D. out", {"a": "up", "b": "down", "c": "in", "d": "out"}),
        # Lines come first, whatever letters the question itself names.
        ("Did Mr. A. meet B. ?\nA. yes\nB. no", {"a": "yes", "b": "no"}),
        # No list, or none without doubt.
        ("Which car is first?", {}),
        ("Is it A. or not?", {}),
        ("Which?\nA. yes", {}),
        ("Which?\nB. yes\nC. no", {}),
        ("Which?\nA. yes\nC. no", {}),
        ("A. yes B. no A. in B. out", {}),
        ("Which?\nA. B\nB. A", {}),
        ("Which?\nA.\nB.", {}),
        ("e.g. vitamin A, B.", {}),
        ("", {}),
    ],
)
def test_options_are_read_as_they_are_listed(question: str, options: dict[str, str]) -> None:
    assert options_of(question) == options


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("B", "The blue car"),
        ("B", "the blue car."),
        ("B", "\\text{the blue car}"),
        ("(B)", "The blue car"),
        ("B. The blue car", "the blue car"),
        ("The blue car", "B"),
        ("The blue car", "(B)"),
        ("the blue car", "B. The blue car"),
        ("C", "3 cars"),
        ("B", "B The blue car"),
        ("B", "B - the blue car"),
        ("B", "B — the blue car."),
        ("B", "B (the blue car)"),
        ("B", "(B) (The blue car)"),
        ("B", "B.the blue car"),
        ("B. The blue car", "B: the blue car"),
        ("B", "**B**"),
        ("B", "**B. The blue car**"),
    ],
)
def test_letter_and_text_mean_the_same_option(gold: str, answer: str) -> None:
    assert same_choice(answer, gold, LINES)
    assert not same_choice(answer, "A", LINES)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("B", "The red car"),
        ("B", "blue"),  # part of a text is no option
        ("B", "The blue car or the red car"),
        ("B", "I think it is the blue car"),
        ("The blue car", "A"),
        ("The blue car", "B. The red car"),  # says two things
        ("The blue car", "D"),
        ("B", "B the red car"),  # says two things
        ("B", "A the blue car"),
        ("B", "B the blue car or the red car"),
        ("B", "** B"),
        ("The green car", "B"),  # the reference is none of the options
        ("The green car", "The green"),
        ("B", ""),
    ],
)
def test_what_means_another_option_or_none_is_not_the_same(gold: str, answer: str) -> None:
    assert not same_choice(answer, gold, LINES)


def test_numbers_among_the_options_are_compared_as_numbers() -> None:
    question = "How many?\nA. 3\nB. 4\nC. 0.5\nD. 1,000"
    assert same_choice("4.0", "B", question)
    assert same_choice("1/2", "C", question)
    assert same_choice("D", "1000", question)
    assert not same_choice("5", "B", question)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("3.141", "A"),
        ("3.142", "B"),  # A and C lie within a thousandth of it
        ("$3.142$.", "B"),
        ("3.1420", "B"),  # the same number, written otherwise
        ("3.143", "C"),
        ("5.000", "E"),  # its own text, though D is the same number
        ("5", "D"),
        ("2.5005", "F"),  # near one option alone
        ("3.1425", None),  # near several
        ("5.00", None),
    ],
)
def test_an_option_is_its_own_text_however_near_its_neighbours_lie(
    answer: str, letter: str | None
) -> None:
    question = "pi?\nA. 3.141\nB. 3.142\nC. 3.143\nD. 5\nE. 5.000\nF. 2.5"
    assert [name for name in "ABCDEF" if same_choice(answer, name, question)] == [*(letter or "")]


def test_options_that_say_the_same_are_told_apart_by_letter_alone() -> None:
    question = "Which?\nA. left\nB. left\nC. right"
    assert not same_choice("left", "A", question)
    assert same_choice("A", "(A)", question)
    assert same_choice("right", "C", question)


NASTY = st.text(alphabet="ABCabc().:;,*- \n\t1½\ud800$", max_size=60)


@given(NASTY | st.text(), NASTY | st.text(), NASTY | st.text())
@example("A. " * 2000, "A", "A")
@example("(A)" + " " * 5000 + "(B)", "A", "B")
def test_nothing_in_question_or_answer_raises(question: str, gold: str, answer: str) -> None:
    options = options_of(question)
    assert "".join(options) == ascii_lowercase[: len(options)]
    assert len(options) != 1
    same = same_choice(answer, gold, question)
    assert same == same_choice(gold, answer, question)
    assert options or not same


WORDS = st.lists(
    st.sampled_from(["red", "blue", "the car", "3", "7.5", "a cat", "yes"]),
    min_size=2,
    max_size=7,
    unique=True,
)


@given(WORDS, st.data(), st.sampled_from(["{}. {}", "{}) {}", "({}) {}", "{}: {}"]))
def test_every_listed_option_is_found_by_letter_and_by_text(
    words: list[str], data: st.DataObject, form: str
) -> None:
    named = [(letter.upper(), word) for letter, word in zip(ascii_lowercase, words, strict=False)]
    for joint in ("\n", " "):
        question = "Which?\n" + joint.join(form.format(*option) for option in named)
        (letter, word), other = data.draw(st.permutations(named))[:2]
        assert same_choice(word, letter, question)
        assert same_choice(letter, word, question)
        assert not same_choice(other[1], letter, question)
        assert not same_choice(other[0], word, question)


def graded(answer: str, gold: Gold, **options: Any) -> Reward:
    trajectory = Trajectory("t", 0, (), (), (), EndReason.ANSWERED, answer=answer)
    config = RewardsConfig(name="match", options=options)
    done = asyncio.run(build_rewarder(config).grade(Task(TaskInput("t", LINES), gold), trajectory))
    assert done.reward is not None
    return done.reward


@pytest.mark.parametrize("kind", ["auto", "letter", "text"])
def test_the_match_grader_takes_letter_or_text(kind: str) -> None:
    by_text = graded("The blue car", Gold("B", kind))
    assert (by_text.correct, by_text.why) == (True, "same choice")
    assert graded("B", Gold("The blue car", kind)).correct
    assert graded("B", Gold("B", kind)).why == "identical"
    assert not graded("The red car", Gold("B", kind)).correct


def test_letters_alone_may_be_asked_for() -> None:
    assert not graded("The blue car", Gold("B"), option_text=False).correct
    assert graded("B", Gold("B"), option_text=False).correct
