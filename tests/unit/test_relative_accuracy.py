"""Numbers near the reference get part of the credit, by exact arithmetic, and nothing crashes."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyvision_rl.config import RewardsConfig
from pyvision_rl.errors import ConfigError
from pyvision_rl.rewards import build_rewarder
from pyvision_rl.rewards.relative_accuracy import (
    ALLOWED_ERRORS,
    read_number,
    relative_accuracy,
)
from pyvision_rl.types import (
    EndReason,
    GiveAnswer,
    Gold,
    Reward,
    StopReason,
    Task,
    TaskInput,
    Trajectory,
    Turn,
)

NASTY = st.text(alphabet="0123456789.,eE+-/\\{}^()$% mabx×π√²⁻½٣−１\ud800", max_size=60)


def graded(answer: str | None, gold: str, turns: tuple[Turn, ...] = (), **options: Any) -> Any:
    end = EndReason.MALFORMED if answer is None else EndReason.ANSWERED
    trajectory = Trajectory("t", 0, (), (), turns, end, answer=answer)
    config = RewardsConfig(name="relative_accuracy", options=options)
    task = Task(TaskInput("t", "How far?"), Gold(gold))
    return asyncio.run(build_rewarder(config).grade(task, trajectory))


def reward(answer: str | None, gold: str, **options: Any) -> Reward:
    found = graded(answer, gold, **options).reward
    assert found is not None
    return found


# score = how many of the allowed errors 5%, 10%, ..., 50% are larger than the error, of ten.
GOLDEN = [
    ("100", 1.0),  # 0% < all ten
    ("104", 1.0),  # 4% < 5%, and so all ten
    ("105", 0.9),  # 5% is not < 5%: nine are left
    ("110", 0.8),  # 10% is not < 10%: 15% to 50% are eight
    ("120", 0.6),  # 25% to 50%: six
    ("130", 0.4),  # 35% to 50%: four. Binary rounding would let 30% < 1 - 0.7 hold: five
    ("129", 0.5),  # 30% to 50%: five
    ("140", 0.2),  # 45% and 50%
    ("150", 0.0),  # 50% is not < 50%
    ("1000", 0.0),
    ("70", 0.4),  # the same below the reference
    ("96", 1.0),
    ("-100", 0.0),  # 200%
]


@pytest.mark.parametrize(("answer", "score"), GOLDEN)
@pytest.mark.parametrize("scale", ["1", "-1", "0.001", "7", "1e5"])
def test_golden_scores_at_any_scale(answer: str, score: float, scale: str) -> None:
    factor = Fraction(scale)
    assert relative_accuracy(Fraction(answer) * factor, 100 * factor) == score


# Where the error equals a threshold's, the official rule counts one more: <= in place of <.
OFFICIAL = [
    ("100", 1.0),
    ("104", 1.0),
    ("105", 1.0),  # 5% <= 5%
    ("110", 0.9),  # 10% to 50%: nine
    ("120", 0.7),  # 20% to 50%: seven
    ("129", 0.5),  # 29% equals none: as before
    ("130", 0.5),
    ("140", 0.3),  # 40%, 45%, 50%
    ("150", 0.1),  # 50% alone
    ("151", 0.0),
    ("50", 0.1),
    ("-100", 0.0),
]


@pytest.mark.parametrize(("answer", "score"), OFFICIAL)
@pytest.mark.parametrize("scale", ["1", "-1", "0.001", "7", "1e5"])
def test_golden_scores_by_the_official_rule(answer: str, score: float, scale: str) -> None:
    factor = Fraction(scale)
    found = relative_accuracy(Fraction(answer) * factor, 100 * factor, inclusive=True)
    assert found == score


def test_the_rule_is_an_option() -> None:
    assert reward("130", "100").parts["accuracy"] == 0.4
    assert reward("130", "100", rule="reference").parts["accuracy"] == 0.4
    official = reward("130", "100", rule="official")
    assert (official.parts["accuracy"], official.correct) == (0.5, True)
    with pytest.raises(ConfigError, match=r"rewards\.options\.rule.*'reference' or 'official'"):
        reward("1", "1", rule="offical")


@given(st.fractions(-10, 10), st.fractions(-10, 10).filter(bool))
def test_the_rules_differ_only_where_an_error_equals_a_threshold(a: Fraction, b: Fraction) -> None:
    equal = abs(a - b) / abs(b) in ALLOWED_ERRORS
    more = relative_accuracy(a, b, inclusive=True) - relative_accuracy(a, b)
    assert more == pytest.approx(0.1 * equal)


def test_the_allowed_errors_are_those_of_the_thresholds() -> None:
    thetas = [Fraction(50 + 5 * k, 100) for k in range(10)]
    assert sorted(1 - theta for theta in thetas) == list(ALLOWED_ERRORS)


@pytest.mark.parametrize(("answer", "score"), [("0", 1.0), ("0.0", 1.0), ("0.001", 0.0)])
def test_a_reference_of_zero_wants_zero(answer: str, score: float) -> None:
    assert reward(answer, "0").parts["accuracy"] == score


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("−5", -5),
        ("about 3.5 meters", Fraction(7, 2)),
        ("12m", 12),
        ("10x", 10),
        ("12.5 m2", Fraction(25, 2)),
        ("12.5 m^2", Fraction(25, 2)),
        ("12.5 m²", Fraction(25, 2)),
        ("1,200 cm", 1200),
        ("1.5e3", 1500),
        ("1/3", Fraction(1, 3)),
        ("-\\frac{1}{4}", Fraction(-1, 4)),
        ("\\boxed{7}", 7),
        ("$7$.", 7),
        ("45^\\circ", 45),
        ("50\\%", 50),
        (".5", Fraction(1, 2)),
        ("3 eggs", 3),
        # A sign and its number.
        ("- 3", -3),
        ("− 3", -3),
        ("$- 3$", -3),
        ("- .5 m", Fraction(-1, 2)),
        ("x = - 3", -3),
        ("- \\frac{1}{4}", Fraction(-1, 4)),
        ("Depth - 3 m", 3),  # a dash
        ("depth -- 3 m", 3),
        # A mantissa and a power of ten.
        ("1.5 × 10^3", 1500),
        ("1.5\\times10^{3}", 1500),
        ("$1.5 \\times 10^{-3}$ m", Fraction(3, 2000)),
        ("about 1.5 x 10^3 m^2", 1500),
        ("1.5x10^3m", 1500),
        ("-1.5 * 10^3", -1500),
        ("1.5 \\cdot 10^(3)", 1500),
        ("1.5·10³", 1500),
        ("1.5 times 10^3", 1500),
        ("2 × 10⁻² km", Fraction(1, 50)),
        # Exponents of units, and degrees.
        ("20 m^{2}", 20),
        ("20\\text{ m}^{2}", 20),
        ("20\\,\\mathrm{m}^{2}", 20),
        ("20 m s^{-1}", 20),
        ("20 m s^-1", 20),
        ("20 m s⁻¹", 20),
        ("20 m ^ 2", 20),
        ("20 \\frac{m}{s^{2}}", 20),
        ("45^{\\circ}", 45),
        ("45 ^ \\circ C", 45),
        ("10^2 = 100", 100),
        ("12\\,000 m", 12000),
        ("1{,}200.5", Fraction(2401, 2)),
        ("1\u202f200 m", 1200),
        ("1\u2009200", 1200),
        # A sign outside of what is around the number, or in words.
        ("-$5$", -5),
        ("-\\$5", -5),
        ("- (5) m", -5),
        ("-\\(5\\)", -5),
        ("x = -$5$", -5),
        ("minus 5", -5),
        ("about negative .5 m", Fraction(-1, 2)),
        ("room -(5)", 5),  # a dash
        ("2.5e-2 m", Fraction(1, 40)),
        ("the log is 5 m long", 5),
    ],
)
def test_the_one_number_of_an_answer_is_read(text: str, value: Fraction) -> None:
    assert read_number(text) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no number"),
        ("B", "no number"),
        ("three", "no number"),
        ("nan", "no number"),
        ("10^2", "no number"),
        ("10²", "no number"),
        ("2^{10}", "no number"),
        ("2^{n+10}", "no number"),
        ("2 ^ 10", "no number"),
        ("2^(10)", "no number"),
        ("10^{ 3}", "no number"),
        ("(2)^{10}", "no number"),
        ("x^{10}", "no number"),
        ("5e^{3}", "no number"),
        ("1.5e3m", "no number"),
        ("1e-3m", "no number"),
        ("2.5e-2m", "no number"),
        ("1_000", "no number"),
        ("\\ln 5", "no number"),
        ("ln 5", "no number"),
        ("\\log_2 5", "no number"),
        ("\\frac{3}{x}", "no number"),
        ("\\frac{x}{3}", "no number"),
        ("1\\frac{1}{2}", "no number"),
        ("-5^2", "no number"),
        ("10 minus 5", "several numbers"),
        ("3-(4)", "several numbers"),
        ("1e9999", "no number"),
        ("1½", "no number"),
        ("1 ½ m", "no number"),
        ("10 × 3^2", "no number"),
        ("3^2 × 10", "no number"),
        ("(1.5) × 10^3", "no number"),
        ("(1.5 × 10)^3", "no number"),
        ("1.5 \\times {10}^{3}", "no number"),
        ("2 × 1.5 × 10^3", "no number"),
        ("1.5e2 × 10^3", "no number"),
        ("1.5 × 10^3^2", "no number"),
        ("1.5 × 10^n", "no number"),
        ("1.5 × 10^3 \\pi", "no number"),
        ("5\\pi", "no number"),
        ("5\\,\\pi", "no number"),
        ("5π", "no number"),
        ("2\\sqrt{3}", "no number"),
        ("2 × √3", "no number"),
        ("3x4", "no number"),
        ("3X4 m", "no number"),
        ("1.5.2", "no number"),
        ("3..4", "no number"),
        ("between 3 and 4", "several numbers"),
        ("3-4", "several numbers"),
        ("3 - 4", "several numbers"),
        ("3 x 4 m", "several numbers"),
        ("1.5 × 10^3 - 2", "several numbers"),
        ("3/4 × 10^2", "several numbers"),
        ("10:30", "several numbers"),
        ("1,00", "several numbers"),
        ("1/0", "divides by 0"),
        ("1" * 300, "too long for a number"),
    ],
)
def test_an_answer_without_one_number_scores_zero_and_says_why(text: str, why: str) -> None:
    assert read_number(text) == why
    found = reward(text, "5")
    assert (found.total, found.correct, found.why) == (0.0, False, why)


def test_only_the_final_answer_is_read() -> None:
    # The reference's grader reads the first number of the whole transcript: the 8.
    loud = Turn("I sample 8 frames. <answer>5</answer>", StopReason.END, GiveAnswer("5"), 9)
    found = graded("5", "5", (loud,)).reward
    assert found is not None
    assert found.parts["accuracy"] == 1.0


def test_correct_begins_at_the_configured_score() -> None:
    half = reward("129", "100")
    assert (half.parts["accuracy"], half.correct) == (0.5, True)
    assert not reward("130", "100").correct
    assert not reward("129", "100", correct_from=0.9).correct
    assert half.why == "off by 29%"


def test_an_episode_without_an_answer_scores_zero() -> None:
    assert reward(None, "5").why == "no answer"


def test_a_reference_that_is_no_number_leaves_the_trajectory_ungraded() -> None:
    found = graded("5", "B")
    assert found.reward is None
    assert "reference 'B': no number" in found.error


def test_a_wrong_option_is_named() -> None:
    config = RewardsConfig(name="relative_accuracy", options={"correct_form": 0.9})
    with pytest.raises(ConfigError, match=r"rewards\.options\.correct_form.*'correct_from'"):
        build_rewarder(config)


@given(NASTY, st.integers(-(10**6), 10**6))
@example("1e999", 1)
@example("1e-999", 0)
@example("½", 1)
def test_no_answer_crashes_and_scores_are_shares(answer: str, gold: int) -> None:
    found = reward(answer, str(gold))
    assert found.parts["accuracy"] in {k / 10 for k in range(11)}


@given(st.fractions(), st.fractions().filter(bool))
def test_nearer_is_never_worse(answer: Fraction, gold: Fraction) -> None:
    nearer = (answer + gold) / 2
    assert relative_accuracy(nearer, gold) >= relative_accuracy(answer, gold)
    assert relative_accuracy(gold, gold) == 1.0


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-1e9, max_value=1e9, places=4))
def test_what_was_written_is_what_is_read(value: Any) -> None:
    assert read_number(f"{value:f}") == Fraction(value)
