"""Two runs are compared item by item, and only where their tasks are the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pyvision_rl.config import Config
from pyvision_rl.errors import RunError
from pyvision_rl.evaluation.compare import compare
from pyvision_rl.evaluation.numbers import mcnemar
from pyvision_rl.runs import RunWriter
from pyvision_rl.types import EndReason, Gold, Group, Reward, Task, TaskInput, Trajectory


def write(out: Path, marks: dict[str, str], **task: Any) -> Path:
    """Write a run: task id -> a sign per sample: 1 right, 0 wrong, x failed, ? ungraded."""
    groups = []
    for name, signs in marks.items():
        public = TaskInput(name, task.get("question", "?"), category=f"c{name[-1]}")
        episodes = tuple(_episode(name, k, sign) for k, sign in enumerate(signs))
        groups.append(Group(Task(public, Gold(task.get("answer", "1"))), episodes))
    with RunWriter(out, Config(), "eval") as writer:
        writer.rollouts(1, groups)
    return out


def _episode(name: str, rollout: int, sign: str) -> Trajectory:
    end = EndReason.FAILED if sign == "x" else EndReason.ANSWERED
    reward = Reward({"accuracy": float(sign)}, sign == "1") if sign in "01" else None
    return Trajectory(name, rollout, (), (), (), end, "1", reward)


def marks(signs: Sequence[str]) -> dict[str, str]:
    return {f"t{k}": sign for k, sign in enumerate(signs)}


def test_flips_difference_and_mcnemar_by_hand(tmp_path: Path) -> None:
    a = write(tmp_path / "a", marks("1100010x"))
    b = write(tmp_path / "b", marks("10111110"))
    found = compare(a, b)
    part = found.overall
    # Both right: t0, t5. Only A: t1. Only B: t2, t3, t4, t6. Both wrong: t7, failed in A.
    assert dict(part.flips) == {"both_right": 2, "only_a": 1, "only_b": 4, "both_wrong": 1}
    assert found.ids["only_a"] == ("t1",)
    assert found.ids["only_b"] == ("t2", "t3", "t4", "t6")
    assert (part.accuracy_a, part.accuracy_b, part.difference) == (3 / 8, 6 / 8, 3 / 8)
    # 2 * (C(5,0) + C(5,1)) / 2^5 = 12 / 32.
    assert (part.p, part.test) == (12 / 32, "exact McNemar")
    assert part.p == mcnemar(1, 4)
    assert part.interval is not None
    assert part.interval.low < 3 / 8 < part.interval.high
    assert found.categories["c1"].difference == -1.0
    assert "| all | 8 | 37.50 % | 75.00 % | 37.50 % |" in found.page()


def test_swapped_runs_give_the_mirrored_result(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", marks("1100")), write(tmp_path / "b", marks("1011"))
    there, back = compare(a, b).overall, compare(b, a).overall
    assert (there.difference, there.p) == (-back.difference, back.p)
    assert there.flips["only_a"] == back.flips["only_b"]


def test_several_samples_are_tested_by_signs_over_items(tmp_path: Path) -> None:
    a = write(tmp_path / "a", marks(["00", "01", "00", "10"]))
    b = write(tmp_path / "b", marks(["11", "11", "01", "10"]))
    part = compare(a, b).overall
    # Differences 1, 1/2, 1/2, 0: of 16 arrangements of signs the sum is as large as 2 in those in
    # which the first three agree: 2 * 2. 4 / 16.
    assert part.p == 4 / 16
    assert part.test == "paired permutation over items, exact"
    # More than half: 1/2 is not right.
    assert dict(part.flips) == {"both_right": 0, "only_a": 0, "only_b": 2, "both_wrong": 2}


def test_many_items_with_samples_are_tested_by_drawing(tmp_path: Path) -> None:
    a = write(tmp_path / "a", marks(["01"] * 40))
    same = write(tmp_path / "same", marks(["10"] * 40))
    better = write(tmp_path / "better", marks(["11"] * 40))
    assert compare(a, same).overall.p == 1.0
    assert compare(a, better).overall.p < 1e-3


def test_what_has_no_grade_is_left_out_and_counted(tmp_path: Path) -> None:
    a = write(tmp_path / "a", marks(["1", "?", "0", "1"]))
    b = write(tmp_path / "b", marks(["1", "1", "?", "0"]))
    found = compare(a, b)
    assert (found.overall.items, found.left_out.without_grade) == (2, 2)
    with pytest.raises(RunError, match="no graded task in common"):
        compare(a, write(tmp_path / "none", marks("????")))


def test_other_tasks_are_refused_and_the_common_ones_compared_on_request(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"t0": "1", "t1": "0", "t2": "1"})
    b = write(tmp_path / "b", {"t1": "1", "t2": "1", "t3": "0", "t4": "0"})
    with pytest.raises(RunError, match="1 are only in the first, 2 only in the second"):
        compare(a, b)
    found = compare(a, b, common=True)
    left = found.left_out
    assert (left.only_in_a, left.only_in_b, left.other_content) == (1, 2, 0)
    assert (found.overall.items, found.ids["only_b"]) == (2, ("t1",))


@pytest.mark.parametrize("other", [{"question": "Which?"}, {"answer": "2"}])
def test_the_same_id_with_other_content_is_another_task(tmp_path: Path, other: Any) -> None:
    a, b = write(tmp_path / "a", marks("10")), write(tmp_path / "b", marks("10"), **other)
    with pytest.raises(RunError, match="2 have another question"):
        compare(a, b)
    with pytest.raises(RunError, match="no graded task in common"):
        compare(a, b, common=True)


def test_a_folder_without_episodes_is_named(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "empty", Config(), "eval"):
        pass
    with pytest.raises(RunError, match="empty holds no episodes"):
        compare(tmp_path / "empty", tmp_path / "empty")
