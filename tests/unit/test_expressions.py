"""Only a number or one expression is ever compared as such, and by what it is worth."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvision_rl.rewards.expressions import (
    MAX_CHARS,
    MAX_DEPTH,
    pairs_of,
    same_value,
    tex_of,
    value_of,
)

NASTY = st.text(
    alphabet="0123456789.,eE+-/\\{}()[]^_!|=$% abxπ√²°sqrtfracpi½٣\ud800\n", max_size=80
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", Fraction(7)),
        ("1,000.5", Fraction(2001, 2)),
        ("1{,}000.5", Fraction(2001, 2)),
        (r"$12\,000$", Fraction(12000)),
        (r"10,\!000", Fraction(10000)),
        ("$- 2$", Fraction(-2)),
        ("-2.50", Fraction(-5, 2)),
        ("1.5e3", Fraction(1500)),
        ("1/3", Fraction(1, 3)),
        (r"$-\frac{1}{3}$", Fraction(-1, 3)),
        ("2 1/2", Fraction(5, 2)),
        (r"2\frac{1}{2}", Fraction(5, 2)),
        ("-2 1/2", Fraction(-5, 2)),
        ("11/2", Fraction(11, 2)),
        ("50%", Fraction(1, 2)),
        (r"\boxed{12.5\%}", Fraction(1, 8)),
        ("50 percent.", Fraction(1, 2)),
    ],
)
def test_numbers_are_read_exactly(text: str, value: Fraction) -> None:
    found = value_of(text)
    assert found is not None
    assert found.value == value


@pytest.mark.parametrize(
    "text", ["", "A", "seven", "7 cm", "10:30", "5 4 3", "1/0", "1,00", "7-2", "$5", "1" * 65, "½"]
)
def test_what_is_no_single_number_has_no_value(text: str) -> None:
    assert value_of(text) is None


def same(mine: str, gold: str) -> bool | None:
    first, second = value_of(mine), value_of(gold)
    assert first is not None
    assert second is not None
    return same_value(first, second, 1e-3, 1e-9)


@pytest.mark.parametrize(
    ("mine", "gold", "verdict"),
    [
        ("0.5", "1/2", True),
        ("0.333", "1/3", True),  # off by 1/3000, which is a thousandth of the reference
        ("0.33", "1/3", False),  # off by a hundredth of it
        ("1/3", "0.333", True),
        ("2/6", "1/3", True),
        ("333/1000", "1/3", False),  # a fraction is not rounded
        ("7.0", "7", True),
        ("7.001", "7", False),  # a whole reference wants that number
        ("0.5", "50%", True),
        ("50", "50%", None),
        ("50%", "50", None),
        ("51%", "50", False),
        ("33.33", "33.3%", None),
        ("40", "33.3%", False),
        ("50%", "50%", True),
    ],
)
def test_numbers_compare_by_value_and_a_lone_percent_sign_is_undecided(
    mine: str, gold: str, verdict: bool | None
) -> None:
    assert same(mine, gold) is verdict


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        (r"$5\pi$", r"5\pi "),
        ("5π", r"5\pi "),
        ("2sqrt(3)", r"2\sqrt {(3)}"),
        ("√3", r"\sqrt {3}"),
        (r"\dfrac12", r"\dfrac {1}{2}"),
        ("x^10", "x^{10}"),
        ("2**-3", "2^{-3}"),
        ("2^(1+2)", "2^{(1+2)}"),
        ("x²+1", "x^{2}+1"),
        (r"\left( x+1 \right)^2", "(x+1)^{2}"),
        (r"\log_2 8", r"\log _{2}8"),
        ("1,000+1", "1000+1"),
        ("1{,}000+1", "1000+1"),
        (r"x + 12\,000", "x+12000"),
        (r"10,\!000\,\pi", r"10000\pi "),
        (r"\sin^2 x", r"\sin ^{2}x"),
    ],
)
def test_people_write_expressions_in_many_ways(text: str, tex: str) -> None:
    found = tex_of(text)
    assert found is not None
    assert found.text == tex


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "A", "x", "cat", "ab", "Answer", "the value 5", "cost", "N.A.", "?"),
        *(r"5\,4\,3", r"1234\,567", r"3^2\,125", "1{,}00"),
        *("10:30", "5 4 3", "3,4", "1:2", "5 m", "3 cm", "5 kg", "10-20", "555-1234", "1/2/2020"),
        *(
            "x<3",
            "1=2=3",
            r"\text{five}",
            r"5\%",
            "50%",
            "2*1e3",
            "__import__('os')",
            "x.y",
            "lambda",
        ),
        *("3x4", "3 × 4", r"3\times 4\times 5"),
        *("((1)", "1)", "|1", "9^9^9^9", "[1,2]", r"\frac", r"\frac1", r"\sum 1", "1;2", "f'(x)"),
        "(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1),
        "1+" * MAX_CHARS + "1",
        "1{,}000+" * 40 + "1",  # too long before its separators are taken out
    ],
)
def test_what_is_no_expression_is_never_sent_to_be_compared(text: str) -> None:
    assert tex_of(text) is None


def test_lists_are_compared_member_by_member_in_equal_brackets() -> None:
    assert pairs_of("(1, 2+1)", r"\left(1,3\right)") == (("1", "1"), ("3", "2+1"))
    assert pairs_of(r"(10,\!000, 2{,}000)", r"(10000, 2\,000)") == (
        ("10000", "10000"),
        ("2000", "2000"),
    )
    assert pairs_of("(1,2)", "[1,2]") == ()
    assert pairs_of("(1,2,3)", "(1,2)") == ()
    assert pairs_of("1", "(1,2)") == ()


def test_a_named_value_is_its_value_unless_names_differ() -> None:
    assert pairs_of("x = 2+1", "3") == (("3", "2+1"),)
    assert pairs_of("2+1", "x = 3") == (("3", "2+1"),)
    assert pairs_of("x = 2+1", "x = 3") == (("3", "2+1"),)
    assert pairs_of("y = 2+1", "x = 3") == ()


@given(NASTY, NASTY)
@settings(deadline=None)
def test_nothing_raises_and_only_the_alphabet_gets_through(answer: str, gold: str) -> None:
    value_of(answer)
    for pair in pairs_of(answer, gold):
        for tex in pair:
            assert tex.isascii()
            assert set(tex) <= set("0123456789.+-*/^!|(){}[]_\\ ") | set(map(chr, range(65, 123)))


@pytest.mark.parametrize(
    "text", ["(" * 10**5, "1" * 10**5, "1 " * 10**5, "\\frac" * 10**5, "1,000" * 10**5, "$" * 10**5]
)
def test_long_texts_cost_no_more_than_reading_them(text: str) -> None:
    began = time.process_time()
    assert value_of(text) is None
    assert tex_of(text) is None
    pairs_of(text, "(" + text)
    assert time.process_time() - began < 1
