"""A whole rollout of each suite: config, episodes, grades, a run folder, and scored again."""

from __future__ import annotations

import shutil

import pytest

from pyvision_rl.collect import run_rollout
from pyvision_rl.config import Config
from pyvision_rl.runs import RunReader
from pyvision_rl.suites.base import Scored, final_of
from pyvision_rl.suites.task_set import SuiteTasks, find_suite
from pyvision_rl.types import EndReason
from tests.suites import minis

MAKE = {
    "vstar": minis.vstar_folder,
    "hrbench": lambda folder: minis.hrbench_tsv(folder / "hr_bench_4k.tsv"),
    "vsibench": lambda folder: minis.vsibench_folder(folder, zipped=True).parent,
    "tirbench": minis.tirbench_folder,
}


class Answering(SuiteTasks):
    """A suite whose even items are answered rightly, and whose others are not answered at all."""

    def script(self, index: int) -> tuple[str, ...]:
        answer = "no idea" if index % 2 else self[index].gold.answer
        return (f"<answer>\n\\boxed{{{answer}}}\n</answer>",)


@pytest.mark.parametrize("name", MAKE)
def test_a_run_reports_what_its_stored_episodes_say(tmp_path, name):
    data = tmp_path / "data"
    data.mkdir()
    options = {"suite": name, "path": str(MAKE[name](data))}
    config = Config.model_validate(
        {
            "tasks": {"name": f"{__name__}:Answering", "options": options},
            "policy": {"name": "scripted"},
            "sandbox": {"name": "scripted"},
            "rollout": {"max_tool_calls": 1, "group_size": 2},
            "rewards": {"name": "suite", "options": options},
        }
    )
    run_rollout(config, tmp_path / "run")
    # The data are gone; what scoring needs is in the run folder.
    shutil.rmtree(data)
    suite = find_suite(name)
    saved = list(RunReader(tmp_path / "run").trajectories(1))
    assert {r.trajectory.reward.rung for r in saved} == {"suite:pyvision"}
    assert {r.trajectory.end for r in saved} == {EndReason.ANSWERED}
    items = {}
    for rollout in saved:
        grade = suite.score(rollout.task, final_of(rollout.trajectory), "pyvision")
        assert grade.score == rollout.trajectory.reward.parts["accuracy"]
        items.setdefault(rollout.task.id, (rollout.task, []))[1].append(grade.score)
    rows = [Scored(task, tuple(scores)) for task, scores in items.values()]
    total = len(rows)
    report = suite.aggregate(rows, "pyvision")
    assert report.counts == {"items": total, "ungraded": 0, "samples": 2 * total, "failed": 0}
    right = [task for task, scores in items.values() if scores == [1.0, 1.0]]
    assert len(right) == (total + 1) // 2
    assert 0 < report.numbers[report.headline] < 1
