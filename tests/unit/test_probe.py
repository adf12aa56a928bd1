"""The probe weighs categories, pairs tasks, and says what to expect."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from pydantic import ValidationError

from pyvision_rl.config import ProbeConfig
from pyvision_rl.errors import ConfigError, TrainError
from pyvision_rl.probe import ProbeResult, _result
from pyvision_rl.types import (
    EndReason,
    ExecStatus,
    Execution,
    Gold,
    Group,
    Reward,
    RunCode,
    StopReason,
    Task,
    TaskInput,
    Trajectory,
    Turn,
)

RAN = Turn("", StopReason.END, RunCode(""), 1, execution=Execution(ExecStatus.OK, ""))


def group(name: str, category: str, *accuracies: float, calls: int = 0) -> Group:
    task = Task(TaskInput(name, "?", category=category), Gold("x"))
    members = tuple(
        Trajectory(
            name,
            i,
            (),
            (),
            (RAN,) * calls,
            EndReason.ANSWERED,
            "x",
            Reward({"accuracy": a, "tool_use": 0.1 * calls * a}, a > 0),
        )
        for i, a in enumerate(accuracies)
    )
    return Group(task, members)


FREE = [group("e", "easy", 1, 1, calls=1), group("h", "hard", 0, 0)]
TOOL = [group("e", "easy", 1, 0, calls=2), group("h", "hard", 1, 1, calls=2)]
DIRECT = [group("e", "easy", 1, 1), group("h", "hard", 0, 0)]


def ungraded(group: Group) -> Group:
    return replace(group, trajectories=tuple(replace(t, reward=None) for t in group.trajectories))


def test_what_could_not_be_graded_says_nothing_of_the_tool() -> None:
    every = [group(str(k), "y", 1, 1, calls=1) for k in range(4)]
    none = [group(str(k), "y", 0, 0) for k in range(4)]
    free = [*every[:2], *map(ungraded, every[2:])]
    got = _result(ProbeConfig(), free, every, none)
    assert (got.tool_share, got.gain) == (1.0, 1.0)


@pytest.mark.parametrize("branch", [0, 1, 2])
def test_a_category_without_a_grade_is_named_and_not_counted_as_nothing(branch: int) -> None:
    branches = [FREE, TOOL, DIRECT]
    branches[branch] = [branches[branch][0], ungraded(branches[branch][1])]
    with pytest.raises(TrainError, match="no task of category 'hard' could be graded"):
        _result(ProbeConfig(), *branches)
    weights = {"easy": 1.0, "hard": 0.0}
    assert _result(ProbeConfig(category_weights=weights), *branches).gain == pytest.approx(-0.5)


def test_categories_are_weighted_as_configured() -> None:
    # easy: 0.5 - 1 = -0.5; hard: 1 - 0 = 1. With weights 3:1: -0.375 + 0.25 = -0.125.
    got = _result(ProbeConfig(category_weights={"easy": 3, "hard": 1}), FREE, TOOL, DIRECT)
    assert got.gain == pytest.approx(-0.125)
    # With 2 paid calls: easy 0.6 - 1 = -0.4, hard 1.2: -0.3 + 0.3 = 0.
    assert got.gain_with_bonus == pytest.approx(0.0)
    assert got.tool_share == pytest.approx(0.75)
    assert got.categories["hard"].tool.tool_calls == 2


def test_without_weights_every_task_counts_the_same() -> None:
    assert _result(ProbeConfig(), FREE, TOOL, DIRECT).gain == pytest.approx(0.25)


def test_standard_error_pairs_tasks() -> None:
    # Two easy tasks with differences -0.5 and 0: mean -0.25, sd 0.35355, se 0.25.
    tool = [TOOL[0], group("f", "easy", 1, 1, calls=2)]
    direct = [DIRECT[0], group("f", "easy", 1, 1)]
    got = _result(ProbeConfig(), tool, tool, direct)
    assert got.gain_se == pytest.approx(0.25)


def test_the_error_of_a_category_of_one_task_is_not_known() -> None:
    got = _result(ProbeConfig(), FREE, TOOL, DIRECT)
    assert (got.gain_se, got.gain_with_bonus_se) == (None, None)
    assert "too close to call" in got.expectation
    # A category that weighs nothing need not be known.
    tool, direct = ([*g, group("f", "easy", 1, 1)] for g in (TOOL, DIRECT))
    section = ProbeConfig(category_weights={"easy": 1, "hard": 0})
    assert _result(section, tool, tool, direct).gain_se == pytest.approx(0.25)


def test_weights_must_name_the_drawn_categories() -> None:
    for weights in ({"eassy": 1}, {"easy": 0, "hard": 0}):
        with pytest.raises(ConfigError, match=r"wants one above 0, .* probe's tasks: easy, hard"):
            _result(ProbeConfig(category_weights=weights), FREE, TOOL, DIRECT)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        ProbeConfig(category_weights={"easy": -1, "hard": 1})


def test_what_we_failed_to_run_says_nothing_about_the_model() -> None:
    failed = Trajectory("e", 2, (), (), (), EndReason.FAILED, error="no template")
    tool = [replace(TOOL[0], trajectories=(*TOOL[0].trajectories, failed)), TOOL[1]]
    assert _result(ProbeConfig(), FREE, tool, DIRECT).gain == pytest.approx(0.25)


def test_distance_is_zero_inside_the_window_and_adds_up_outside() -> None:
    inside = ProbeConfig(tool_share=(0, 1), gain=(0.2, 0.3), gain_with_bonus=(0, 1))
    assert _result(inside, FREE, TOOL, DIRECT).window_distance == 0.0
    outside = ProbeConfig(tool_share=(0.6, 1), gain=(0.35, 0.5))
    assert _result(outside, FREE, TOOL, DIRECT).window_distance == pytest.approx(0.1 + 0.1)


@pytest.mark.parametrize(
    ("gain", "paid", "word"),
    [
        (0.2, 0.3, "pays by itself"),
        (-0.1, 0.1, "plain RL should drop the tool"),
        (-0.3, -0.2, "either way"),
        (0.0, 0.01, "too close to call"),
    ],
)
def test_the_expectation_follows_the_signs(gain: float, paid: float, word: str) -> None:
    result = ProbeResult(0.5, gain, 0.02, paid, 0.02, {}, 0.0)
    assert word in result.expectation
    assert result.to_json()["expectation"] == result.expectation
    assert not math.isnan(replace(result, gain=0.0).gain)
