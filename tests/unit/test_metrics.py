"""The numbers of a step, worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyvision_rl.config import Config
from pyvision_rl.errors import TrainError
from pyvision_rl.metrics import check_failures, rollout_metrics, selection_metrics, shares, told
from pyvision_rl.types import (
    Batch,
    Candidate,
    EndReason,
    ExecStatus,
    Execution,
    GiveAnswer,
    Gold,
    Group,
    Malformed,
    Rejected,
    Reward,
    RunCode,
    Scored,
    StopReason,
    Task,
    TaskInput,
    Trajectory,
    Turn,
)


def episode(task: str, rollout: int, right: bool | None, *, tool: bool, bad: int = 0) -> Trajectory:
    """One answer, after a call if ``tool`` and ``bad`` malformed turns."""
    ran = Execution(ExecStatus.OK, "")
    turns = [Turn("?", StopReason.END, Malformed("?"), 1)] * bad
    turns += [Turn("c", StopReason.END, RunCode("1"), 1, execution=ran)] * tool
    turns += [Turn("a", StopReason.END, GiveAnswer("1"), 1)]
    reward = None if right is None else Reward({"accuracy": float(right)}, right)
    return Trajectory(task, rollout, (), (), tuple(turns), EndReason.ANSWERED, "1", reward)


def group(name: str, *episodes: Trajectory) -> Group:
    advantages = tuple(0.0 for _ in episodes)
    return Group(Task(TaskInput(name, "?"), Gold("1")), episodes, advantages)


def test_accuracy_is_told_with_and_without_the_tool() -> None:
    groups = [
        group(
            "a",
            episode("a", 0, True, tool=True),
            episode("a", 1, False, tool=True, bad=2),
            episode("a", 2, True, tool=False),
            episode("a", 3, None, tool=True),
        ),
        group("b", episode("b", 0, False, tool=False), episode("b", 1, False, tool=False)),
        group("c", episode("c", 0, True, tool=True), episode("c", 1, None, tool=False)),
        group("d", episode("d", 0, None, tool=False)),
    ]
    numbers = rollout_metrics(groups)
    # With the tool: a0, c0 right, a1 wrong; a3 is not graded. Without: a2 right, b0, b1 wrong.
    assert numbers["correct_with_tool"] == 2 / 3
    assert numbers["correct_without_tool"] == 1 / 3
    # a0, a1, a3 and c0 of nine call.
    assert numbers["zero_tool_share"] == 5 / 9
    # Of the graded groups a, b, c: c is all right, b all wrong.
    assert numbers["groups_all_right"] == numbers["groups_all_wrong"] == 1 / 3
    # Nine answers, four calls, two malformed turns.
    assert numbers["turns"] == 15 / 9
    assert numbers["malformed_share"] == 2 / 15


def test_what_nothing_was_measured_for_is_left_out() -> None:
    numbers = rollout_metrics([group("a", episode("a", 0, True, tool=False))])
    assert numbers["correct_without_tool"] == 1.0
    assert "correct_with_tool" not in numbers
    nothing = rollout_metrics([group("a", episode("a", 0, None, tool=True))])
    about_grades = ("reward", "accuracy", "correct_", "groups_all_")
    assert not any(name.startswith(about_grades) for name in nothing)
    assert (nothing["graded"], nothing["tool_calls"]) == (0.0, 1.0)
    assert told(nothing) == "reward -  accuracy -  tool calls 1.00"


def test_a_grader_that_is_gone_stops_what_needs_grades() -> None:
    lost = [replace(episode("a", i, None, tool=False), error=f"lost {i}") for i in range(3)]
    groups = [group("a", episode("a", 3, True, tool=False), *lost)]
    with pytest.raises(TrainError, match=r"3 of 4 .*ungraded: lost 2 \(rewards.max_ungraded_share"):
        check_failures(groups, Config(), "step 1")
    lenient = Config.model_validate({"rewards": {"max_ungraded_share": 0.75}})
    assert check_failures(groups, lenient, "step 1").startswith("step 1: 3 of 4 episodes")
    assert check_failures([group("a", episode("a", 0, True, tool=False))], Config(), "") == ""


def test_shares_are_of_what_entered_selection() -> None:
    one, two, three, four = (episode("a", i, i != 2, tool=False) for i in range(4))
    kept = (Scored(one, 0.5), Scored(two, -0.25))
    batch = Batch(kept, (Rejected(three, "zero_std"), Rejected(four, "surplus")))
    numbers = selection_metrics([group("a", one, two, three, four)], batch)
    assert shares(numbers) == {
        "kept_share": 2 / 4,
        # Two is correct and has a negative advantage.
        "correct_negative_advantage_share": 1 / 2,
        "drop_share_zero_std": 1 / 4,
        "drop_share_surplus": 1 / 4,
    }
    # Two of group a are used and two left to the next step; of group b, which was carried in, one
    # is used and one is dropped: three of six.
    five, six = (episode("b", i, True, tool=False) for i in range(2))
    waiting = Candidate(group("a", three, four), 0.5, 1)
    used = (*kept, Scored(five, 0.5, fresh=False))
    batch = Batch(used, (Rejected(six, "stale"),), (waiting,), num_carried_in=2)
    late = group("b", five, six)
    numbers = selection_metrics([group("a", one, two, three, four)], batch, [late])
    assert shares(numbers)["kept_share"] == 3 / 6
    assert shares(numbers)["drop_share_stale"] == 1 / 6
    assert shares(selection_metrics([], Batch(()))) == {
        "kept_share": 0.0,
        "correct_negative_advantage_share": 0.0,
    }
