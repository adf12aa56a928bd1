"""What a call is worth, and the terms that see a whole group."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from pyvision_rl.config import RewardsConfig
from pyvision_rl.errors import ConfigError, RewardError
from pyvision_rl.media import image_media
from pyvision_rl.rewards import Rewarder, build_terms
from pyvision_rl.rewards.base import Grade
from pyvision_rl.rewards.grading import num_paid_calls
from pyvision_rl.rewards.terms import GroupTerms
from pyvision_rl.types import (
    EndReason,
    ExecStatus,
    Execution,
    Gold,
    Group,
    Malformed,
    Reward,
    RunCode,
    StopReason,
    Task,
    TaskInput,
    Trajectory,
    Turn,
)

TASK = Task(TaskInput("t", "how many?"), Gold("7", "integer"))
PICTURE = image_media(Image.new("RGB", (4, 4), "red"))
OK, RAISED = ExecStatus.OK, ExecStatus.RAISED


def call(code: str, status: ExecStatus = OK, pictures: int = 0) -> Turn:
    done = Execution(status, "", images=(PICTURE,) * pictures)
    return Turn("", StopReason.STOP_STRING, RunCode(code), 1, execution=done)


def episode(*turns: Turn, end: EndReason = EndReason.ANSWERED) -> Trajectory:
    return Trajectory("t", 0, (), (), turns, end, "7" if end is EndReason.ANSWERED else None)


class Fixed:
    """A grader that gives what it was given."""

    def __init__(self, score: float, correct: bool) -> None:
        self._grade = Grade(score, correct)

    async def __call__(self, task: Task, trajectory: Trajectory) -> Grade:
        return self._grade


def tool_use(trajectory: Trajectory, score: float = 1.0, **config: Any) -> float:
    rewarder = Rewarder(Fixed(score, score == 1.0), RewardsConfig(**config))
    found = asyncio.run(rewarder.grade(TASK, trajectory)).reward
    assert found is not None
    return found.parts["tool_use"]


MIXED = episode(
    call("show(crop(1))", pictures=2),
    call("print(1)"),
    call("print( 1 )  # again"),
    call("fail()", RAISED),
    call("show(late)", RAISED, pictures=1),
    Turn("", StopReason.END, Malformed("neither"), 1),
)


@pytest.mark.parametrize(
    ("rule", "calls"),
    [
        ("ok", 3),
        ("executed", 5),
        ("showed_image", 1),
        ("distinct", 2),
    ],
)
def test_which_calls_are_paid(rule: str, calls: int) -> None:
    assert tool_use(MIXED, paid_calls=rule) == pytest.approx(0.1 * calls)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("x = 1\nprint(x)", "x=1 # one\n\nprint( x )", True),
        ("print('a')", 'print("a")', True),
        ("x = (1)", "x = 1", True),
        ("x = 1", "x = 2", False),
        ("%magic  ", "%magic", True),
        ("%magic a", "%magic b", False),
        ("print('\\d')", "print( '\\d')", True),
        ("x = 1\x00", "x = 1", False),
        ("-" * 30_000 + "1", "-" * 30_000 + "1", True),
        ("(" * 5_000, "(" * 5_001, False),
    ],
)
def test_a_repeated_call_is_known_by_its_code_but_for_layout(
    one: str, other: str, same: bool
) -> None:
    calls = num_paid_calls(episode(call(one), call(other)), RewardsConfig(paid_calls="distinct"))
    assert calls == (1 if same else 2)


def test_a_call_that_failed_before_is_paid_when_it_works() -> None:
    again = episode(call("print(x)", RAISED), call("x = 1"), call("print(x)"))
    assert tool_use(again, paid_calls="distinct") == pytest.approx(0.2)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "a # b", "("]),
            st.sampled_from(list(ExecStatus)),
            st.booleans(),
        ),
        max_size=6,
    ),
    st.none() | st.integers(1, 4),
)
def test_every_rule_pays_at_most_what_a_milder_one_pays(
    rows: list[tuple[str, ExecStatus, bool]], most: int | None
) -> None:
    done = episode(*(call(code, status, int(shown)) for code, status, shown in rows))

    def paid(rule: Any) -> int:
        return num_paid_calls(done, RewardsConfig(paid_calls=rule, max_paid_calls=most))

    assert paid("showed_image") <= paid("ok") <= paid("executed")
    assert paid("distinct") <= paid("ok")
    assert (paid("distinct") > 0) == (paid("ok") > 0)
    assert most is None or paid("executed") <= most


def test_calls_beyond_the_cap_are_not_paid() -> None:
    assert tool_use(MIXED, max_paid_calls=2) == pytest.approx(0.2)
    assert tool_use(MIXED, max_paid_calls=9) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("when", "score", "paid"),
    [
        ("correct", 1.0, True),
        ("correct", 0.9, False),
        ("always", 0.0, True),
        ("threshold", 0.6, True),
        ("threshold", 0.5, False),
    ],
)
def test_when_calls_are_paid(when: str, score: float, paid: bool) -> None:
    found = tool_use(MIXED, score, paid_when=when, paid_threshold=0.6)
    assert found == pytest.approx(0.3 if paid else 0.0)


# Terms ---------------------------------------------------------------------------------------


def group(*members: tuple[int, float | None]) -> Group:
    """(calls, accuracy) of each member."""
    trajectories = []
    for index, (calls, score) in enumerate(members):
        reward = None if score is None else Reward({"accuracy": score}, score > 0, "why")
        turns = tuple(call(f"x = {i}") for i in range(calls))
        trajectories.append(replace(episode(*turns), rollout=index, reward=reward))
    return Group(TASK, tuple(trajectories))


def add(made: Group, **terms: Mapping[str, Any]) -> Group:
    found = build_terms(RewardsConfig(terms={k: dict(v) for k, v in terms.items()}))
    assert found is not None
    return found(made)


def parts(made: Group, name: str) -> list[float | None]:
    return [None if t.reward is None else t.reward.parts[name] for t in made.trajectories]


def test_no_terms_need_no_pass_over_the_group() -> None:
    assert build_terms(RewardsConfig()) is None


def test_the_format_bonus_is_paid_once_for_an_answer_right_or_wrong() -> None:
    made = group((2, 1.0), (0, 0.0), (0, 0.0))
    cut = replace(made.trajectories[2], end=EndReason.TOKEN_LIMIT, answer=None)
    made = replace(made, trajectories=(*made.trajectories[:2], cut))
    assert parts(add(made, format={"bonus": 0.2}), "format") == [0.2, 0.2, 0.0]


def test_curiosity_pays_tool_use_only_while_it_is_rare_in_the_group() -> None:
    # One of four graded members used a tool: 0.5 * (0.5 - 0.25) = 0.125 for that one.
    rare = group((1, 0.0), (0, 1.0), (0, 0.0), (0, 0.0), (3, None))
    options = {"weight": 0.5, "target_share": 0.5, "max_calls": 1, "penalty": 0.05}
    assert parts(add(rare, curiosity=options), "curiosity") == [0.125, 0.0, 0.0, 0.0, None]
    # Half of them did: nothing to be paid, and two calls beyond the bound cost 0.1.
    often = group((3, 1.0), (0, 1.0))
    assert parts(add(often, curiosity=options), "curiosity") == pytest.approx([-0.1, 0.0])


def test_terms_are_added_to_the_total_and_change_nothing_else() -> None:
    made = group((1, 1.0), (0, None))
    done = add(made, format={}, again={"name": "format", "bonus": 0.25})
    reward = done.trajectories[0].reward
    assert reward == Reward({"accuracy": 1.0, "format": 0.1, "again": 0.25}, True, "why")
    assert reward.total == pytest.approx(1.35)
    bare = [replace(t, reward=None) for t in done.trajectories]
    assert bare == [replace(t, reward=None) for t in made.trajectories]


def test_a_group_without_a_grade_is_left_alone() -> None:
    made = group((1, None), (0, None))
    assert add(made, curiosity={}) is made


class Broken:
    """A term that cannot do its work."""

    def __init__(self, options: Mapping[str, Any], where: str) -> None:
        self._value = options.get("value")

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[float]:
        if self._value is None:
            raise RewardError("the server is gone")
        return [float(self._value)] * len(trajectories)


@pytest.mark.parametrize("value", ["nan", "inf", math.inf])
def test_a_term_worth_no_finite_number_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"rewards\.terms\.format\.bonus = .*finite number"):
        GroupTerms({"format": {"bonus": value}})
    with pytest.raises(ValidationError, match="finite number"):
        RewardsConfig.model_validate({"tool_use_per_call": value})


@pytest.mark.parametrize(
    ("options", "why"), [({}, "the server is gone"), ({"value": "nan"}, "wants 2 finite numbers")]
)
def test_a_failing_term_leaves_the_group_ungraded_and_says_why(
    options: dict[str, Any], why: str
) -> None:
    made = add(group((1, 1.0), (0, 0.0)), mine={"name": f"{__name__}:Broken", **options})
    assert all(t.reward is None and why in t.error for t in made.trajectories)


@pytest.mark.parametrize(
    ("terms", "part"),
    [
        ({"formatt": {}}, "rewards.terms.formatt.name.*did you mean 'format'"),
        ({"format": {"bonsu": 1}}, "rewards.terms.format.bonsu is not a key"),
        ({"curiosity": {"target_share": 2}}, "rewards.terms.curiosity.target_share"),
        ({"accuracy": {"name": "format"}}, "choose another name"),
    ],
)
def test_a_wrong_term_is_named_before_work_starts(terms: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        build_terms(RewardsConfig(terms=terms))
