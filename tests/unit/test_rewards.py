"""Answers are compared by typed rules, and rewards follow the paper's equation 1."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyvision_rl.config import RewardsConfig
from pyvision_rl.errors import ConfigError, RewardError
from pyvision_rl.rewards import TABLE, Rewarder, build_rewarder
from pyvision_rl.rewards.answers import infer_type, match, normalise
from pyvision_rl.rewards.base import Grade
from pyvision_rl.types import (
    ANSWER_TYPES,
    EndReason,
    ExecStatus,
    Execution,
    Gold,
    Reward,
    RunCode,
    StopReason,
    Task,
    TaskInput,
    Trajectory,
    Turn,
)

NOT_BLANK = st.text(min_size=1).filter(lambda text: bool(text.strip()))
NASTY = st.text(alphabet="0123456789.,eE+-/\\{}[]()$\"'`aAbByesno ;%frac²½٣−１\ud800", max_size=80)

RIGHT = [
    ("text", "Golden Retriever", " golden  retriever. "),
    ("text", "it's", '"It\'s"'),
    ("text", "a cat", "\\text{A cat}"),
    ("text", "50%", "50\\%"),
    ("letter", "B", "(B)"),
    ("letter", "B", "B."),
    ("letter", "B", "b"),
    ("letter", "B", "B. the red one"),
    ("letter", "B", "(B) the red one"),
    ("letter", "B", "\\boxed{\\text{B}}"),
    ("letter", "(B) red", "B"),
    ("letter", "B. red", "Red"),
    ("letter", "A", "A. Vitamin B"),
    ("integer", "1000", "1,000"),
    ("integer", "7", "+7.0"),
    ("integer", "-3", "−3"),
    ("integer", "-3", "$- 3$"),
    ("integer", "3", "\\boxed{+ 3}"),
    ("integer", "1000", "1{,}000"),
    ("integer", "12000", "12\\,000"),
    ("integer", "-1,234,567", "$- 1{,}234{,}567$"),
    ("integer", "10,\\!000", "\\boxed{10000}"),
    ("integer", "12", "１２"),
    ("integer", "8", "$8$."),
    ("float", "0.333333", "1/3"),
    ("float", "8.125", "8.12"),
    ("float", "-0.5", "-\\frac{1}{2}"),
    ("float", "1500", "1.5e3"),
    ("float", "0", "0.0"),
    ("float", "-0.25", "- \\frac{1}{4}"),
    ("float", "1234.5", "1\\,234.5"),
    ("yes_no", "yes", "Yes."),
    ("yes_no", "no", "No, it is not red"),
    ("yes_no", "yes", "true"),
    ("set", "red, blue", "{Blue; red}"),
    ("set", "3,5", "5, 3, 3"),
    ("set", "1000, 2000", "2{,}000, 1{,}000"),
    ("set", "1,000; 2,000", "{2000; 1000}"),
    ("set", "1,000; 2,000", "2000, 1000"),
    ("set", "red; blue, dark", "blue,dark ; red"),
    ("sequence", "7 3", "[7, 3]"),
    ("sequence", "1,000; 2,000", "1000; 2000.0"),
    ("sequence", "1, 2; 3", "1.0,2; 3"),
    ("sequence", "(1, 2); (3, 4)", "(1,2); (3,4)"),
    ("sequence", "-7, -3", "(- 7, - 3)"),
    ("sequence", "7 3", "(7.0; 3)"),
    ("sequence", "a, b c", "A,B C"),
    ("sequence", "(1, 2); (3, 4)", "[(1, 2); (3, 4)]"),
    ("sequence", "(1, 2), (3, 4)", "((1, 2.0), (3,4))"),
    ("sequence", "f(1, 2), b", "F(1,2); B"),
    ("sequence", "[0, 1), 2", "[0,1), 2"),
    ("set", "{[0, 1), 2}", "[0, 1), 2"),
    ("set", "[a) red, b) blue]", "b) blue, a) red"),
    ("set", "(3, 4); (1, 2)", "(1, 2); (3, 4)"),
    ("set", "(3, 4), (1, 2)", "{(1,2), (3,4)}"),
    ("set", "(3), 5", "5, 3"),
]
WRONG = [
    ("text", "cat", "a cat"),
    ("text", "cat", "cat or dog"),
    ("letter", "A", "A cat is on the mat"),
    ("letter", "B", "ABC"),
    ("letter", "B", "Blue"),
    ("letter", "A", "(s)he said A"),
    ("letter", "A", "A. B. C. D."),
    ("letter", "A", "(A) (B) (C)"),
    ("letter", "A", "A, B"),
    ("letter", "A", "A. or B."),
    ("letter", "B. red", "A. red"),
    ("letter", "A", "A.M."),
    ("integer", "3", "5 4 3"),
    ("integer", "50", "50%"),
    ("integer", "10", "10:30"),
    ("integer", "1000", "1,00"),
    ("integer", "1000", "1{,}00"),
    ("integer", "12345", "12\\,34\\,5"),
    ("integer", "1234567", "1234\\,567"),
    ("integer", "10000", "1{,}0000"),
    ("integer", "500", "0{,}500"),  # where a comma divides the decimals, this is a half
    ("integer", "-3", "5 - 3"),
    ("integer", "-3", "-- 3"),
    ("integer", "7", "7.2"),
    ("integer", "5", "5\\pi"),
    ("integer", "102", "10²"),
    ("integer", "3", "٣"),
    ("integer", "10", "seven or 10"),
    ("float", "0.5", "0.51"),
    ("float", "0.5", "1/0"),
    ("float", "0.5", "nan"),
    ("float", "0.5", "0.5 m"),
    ("float", "5.5", "1½"),
    ("float", "0.0005", "0"),
    ("yes_no", "yes", "yes and no"),
    ("yes_no", "yes", "yes, no"),
    ("yes_no", "no", "now"),
    ("yes_no", "no", "maybe, no"),
    ("set", "red, blue", "red"),
    ("set", "red", "red, blue"),
    ("set", "1{,}000, 2{,}000", "0, 1, 2"),
    ("set", "1,000; 2,000", "0; 1; 2"),
    ("set", "1, 2; 3", "1; 2; 3"),
    ("set", "(1, 2), (3, 4)", "(1, 4), (3, 2)"),
    ("set", "(1, 2); (3, 4)", "(2, 1); (3, 4)"),
    ("sequence", "1,000; 2,000", "1; 0; 2; 0"),
    ("sequence", "7 3", "3 7"),
    ("sequence", "7 3", "73"),
]


@pytest.mark.parametrize(("kind", "gold", "prediction"), RIGHT)
def test_equal_answers_match(kind: str, gold: str, prediction: str) -> None:
    found = match(prediction, gold, kind)
    assert found.correct
    assert found.why == f"same {kind}"


@pytest.mark.parametrize(("kind", "gold", "prediction"), WRONG)
def test_other_answers_do_not_match(kind: str, gold: str, prediction: str) -> None:
    assert not match(prediction, gold, kind).correct


@pytest.mark.parametrize(
    ("gold", "kind"),
    [
        ("B", "letter"),
        ("(C)", "letter"),
        ("(C) red", "letter"),
        ("D.", "letter"),
        ("Yes", "yes_no"),
        ("false", "yes_no"),
        ("7", "integer"),
        ("-1,200", "integer"),
        ("7.50", "float"),
        ("1e3", "float"),
        ("A cat", "text"),
        ("b", "text"),
        ("50%", "text"),
        ("10:30", "text"),
        ("1/2", "text"),
        ("[1, 2]", "text"),
        ("9" * 100, "text"),
    ],
)
def test_auto_goes_by_the_form_of_the_reference(gold: str, kind: str) -> None:
    assert infer_type(gold) == kind
    assert match("surely not this", gold).why == f"not the same {kind}"


@given(NOT_BLANK | NASTY.filter(lambda text: bool(text.strip())), st.sampled_from(ANSWER_TYPES))
@example("\\boxed{", "text")
@example(".", "letter")
@example("1e999", "float")
def test_a_reference_matches_itself(gold: str, kind: str) -> None:
    assert match(gold, gold, kind).correct is True
    assert match(f"  {gold}\n", gold, kind).correct is True


@given(st.text() | NASTY, st.text() | NASTY, st.sampled_from((*ANSWER_TYPES, "unknown")))
@example("9" * 5000, "9" * 5000 + "1", "integer")
@example("1e999", "1e998", "float")
@example("0e999", "0", "set")
def test_no_input_raises(prediction: str, gold: str, kind: str) -> None:
    assert match(prediction, gold, kind).correct in (True, False)


@given(st.sampled_from(["", " ", "\n\t"]), st.text(), st.sampled_from(ANSWER_TYPES))
def test_an_empty_answer_is_wrong(prediction: str, gold: str, kind: str) -> None:
    assert not match(prediction, gold, kind).correct


@given(st.integers(-(10**12), 10**12))
def test_whole_numbers_match_by_value_only(number: int) -> None:
    for written in (f"{number}", f"{number:,}", f"{number}.0", f"$ {number} $", f"{number}."):
        assert match(written, str(number)).correct
    assert not match(str(number + 1), str(number)).correct


@given(st.sampled_from("ABCDEFGH"), st.text(alphabet="ABCDEFGHabcdefgh ", min_size=2))
def test_a_letter_inside_words_is_never_an_option(letter: str, prose: str) -> None:
    if len(prose.strip()) > 1:
        assert not match(prose, letter, "letter").correct


@given(st.text(alphabet="aB .\"'$", max_size=7))
def test_wrapping_does_not_change_an_answer(text: str) -> None:
    bare = normalise(text)
    for wrapped in (f"  {text} ", f"\\boxed{{{text}}}", f"\\boxed{{\\text{{{text}}}}}"):
        assert normalise(wrapped) == bare


def test_tolerances_are_relative_to_the_reference() -> None:
    assert match("100.1", "100.0", "float").correct
    assert not match("100.2", "100.0", "float").correct
    assert match("104", "100.0", "float", rel_tol=0.05).correct
    assert match("0.4", "0.0", "float", abs_tol=0.5).correct
    assert not match("1e308", "-1e308", "float").correct


def test_nested_wrapping_and_long_answers_are_cut_short() -> None:
    assert not match("\\boxed{" * 20_000 + "B", "B").correct
    assert match("x " * 50_000, "B").why == "answer is far longer than the reference"


# Grading -------------------------------------------------------------------------------------

TASK = Task(TaskInput("t", "how many?"), Gold("7", "integer"))


def turn(status: ExecStatus | None) -> Turn:
    execution = None if status is None else Execution(status, "")
    return Turn("", StopReason.END, RunCode("x"), 1, execution=execution)


def episode(answer: str | None, *statuses: ExecStatus | None, **fields: Any) -> Trajectory:
    end = fields.pop("end", EndReason.ANSWERED)
    turns = tuple(turn(status) for status in statuses)
    return Trajectory("t", 0, (), (), turns, end, answer=answer, **fields)


def graded(trajectory: Trajectory, **config: Any) -> Trajectory:
    return asyncio.run(build_rewarder(RewardsConfig(**config)).grade(TASK, trajectory))


def reward(trajectory: Trajectory, **config: Any) -> Reward:
    found = graded(trajectory, **config).reward
    assert found is not None
    return found


class Fixed:
    """A grader that gives what it was given."""

    def __init__(self, grade: Grade | Exception) -> None:
        self._grade = grade

    async def __call__(self, task: Task, trajectory: Trajectory) -> Grade:
        if isinstance(self._grade, Exception):
            raise self._grade
        return self._grade


def test_successful_calls_pay_only_with_a_right_answer() -> None:
    ok = ExecStatus.OK
    right = reward(episode("7", ok, ok, ExecStatus.RAISED, None))
    assert right.parts == {"accuracy": 1.0, "tool_use": pytest.approx(0.2)}
    assert right.correct
    assert right.total == pytest.approx(1.2)
    wrong = reward(episode("8", ok, ok))
    assert wrong.parts == {"accuracy": 0.0, "tool_use": 0.0}
    assert not wrong.correct
    assert wrong.total == 0.0


def test_the_worth_of_a_call_is_configured() -> None:
    calls = (ExecStatus.OK,) * 4
    assert reward(episode("7", *calls), tool_use_per_call=0.0).total == 1.0
    assert reward(episode("7", *calls), tool_use_per_call=0.25).total == 2.0


def test_an_episode_without_an_answer_scores_zero() -> None:
    found = reward(episode(None, ExecStatus.OK, end=EndReason.TURN_LIMIT))
    assert (found.total, found.correct, found.why) == (0.0, False, "no answer")


def test_only_the_final_answer_is_read() -> None:
    loud = replace(turn(ExecStatus.OK), text="<answer>\\boxed{7}</answer>")
    trajectory = replace(episode("8"), turns=(loud,))
    assert reward(trajectory).total == 0.0


def test_the_grade_says_how_it_was_decided() -> None:
    assert reward(episode("7.0")).why == "same integer"
    assert reward(episode("about 7")).why == "not the same integer"
    assert {reward(episode(answer)).rung for answer in ("7", "8", None)} == {"rule"}


def test_grading_leaves_the_rest_of_the_trajectory_alone() -> None:
    before = episode("7", ExecStatus.OK)
    after = graded(before)
    assert before.reward is None
    assert replace(after, reward=None) == before


def test_a_failed_episode_is_returned_as_it_is() -> None:
    failed = episode("7", end=EndReason.FAILED, error="the sandbox died")
    assert graded(failed) is failed


@pytest.mark.parametrize(
    ("grade", "part"),
    [
        (RewardError("judge is down"), "judge is down"),
        (Grade(float("nan"), True), "score is nan"),
        (Grade(1.5, True), "score is 1.5"),
    ],
)
def test_a_failing_grader_leaves_no_reward_and_says_why(grade: Any, part: str) -> None:
    found = asyncio.run(Rewarder(Fixed(grade), RewardsConfig()).grade(TASK, episode("7")))
    assert found.reward is None
    assert "grading failed" in found.error
    assert part in found.error


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_a_grade_in_numpy_s_types_becomes_plain(kind: type[Any]) -> None:
    # A checkpoint with carried groups, and a line of JSON, hold plain values only.
    grade = Grade(kind(0.5), np.bool_(True))
    found = asyncio.run(Rewarder(Fixed(grade), RewardsConfig()).grade(TASK, episode("7")))
    assert found.reward is not None
    assert type(found.reward.parts["accuracy"]) is float
    assert found.reward.correct is True


def test_partial_scores_are_kept_and_pay_no_calls_unless_correct() -> None:
    trajectory = episode("7", ExecStatus.OK)
    half = asyncio.run(Rewarder(Fixed(Grade(0.5, False)), RewardsConfig()).grade(TASK, trajectory))
    assert half.reward is not None
    assert half.reward.parts == {"accuracy": 0.5, "tool_use": 0.0}


def test_a_grader_can_be_named_by_its_path() -> None:
    name = TABLE["match"]
    assert reward(episode("7"), name=name).total == 1.0


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({"name": "mach"}, "rewards.name"),
        ({"options": {"tolerance": 1}}, "rewards.options.tolerance"),
        ({"options": {"rel_tol": -1}}, "rewards.options.rel_tol"),
    ],
)
def test_a_wrong_config_is_named(config: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_rewarder(RewardsConfig(**config))
    assert part in str(error.value)


def test_tolerance_options_reach_the_rules() -> None:
    task = Task(TaskInput("t", "?"), Gold("100.0", "float"))
    strict = build_rewarder(RewardsConfig())
    loose = build_rewarder(RewardsConfig(options={"rel_tol": 0.1}))
    answer = episode("105")
    totals = []
    for rewarder in (strict, loose):
        found = asyncio.run(rewarder.grade(task, answer)).reward
        assert found is not None
        totals.append(found.total)
    assert totals == [0.0, 1.0]
