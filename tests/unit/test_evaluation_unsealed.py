"""Every reader makes the same of an evaluation that is running or was killed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from test_evaluation_runs import answers, config
from test_show import printed
from test_view_index import data

from pyvision_rl.audit import audit
from pyvision_rl.config_file import load_config
from pyvision_rl.conversations import learnable
from pyvision_rl.errors import RunError
from pyvision_rl.evaluation.compare import compare
from pyvision_rl.evaluation.export import export_log
from pyvision_rl.evaluation.reading import Episodes, read_items
from pyvision_rl.evaluation.rescore import rescore, rescore_config
from pyvision_rl.evaluation.run import run_eval
from pyvision_rl.runs import RunReader
from pyvision_rl.runs_files import replace_file
from pyvision_rl.runs_order import counted, in_order
from pyvision_rl.show import render_run
from pyvision_rl.view.site import Options, RunSite


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unsealed") / "whole"
    run_eval(config(), out)
    return out


@pytest.fixture
def cut(whole: Path, tmp_path: Path) -> Path:
    """The same evaluation before its chunk was put in order, two samples of it run again."""
    out = tmp_path / "cut"
    (out / "rollouts").mkdir(parents=True)
    (out / "run.json").write_bytes((whole / "run.json").read_bytes())
    (file,) = (whole / "rollouts").glob("*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    failed: list[dict[str, Any]] = []
    for place in (4, 11):
        lost = {"end": "failed", "answer": None, "reward": None, "error": "the server is gone"}
        failed.append(lines[place] | lost)
    random.Random(3).shuffle(lines)
    made = "".join(json.dumps(line) + "\n" for line in [*failed, *lines])
    (out / "rollouts" / file.name).write_text(made)
    return out


def test_of_a_sample_the_last_line_counts_and_lines_stand_by_task() -> None:
    places = [(3, 1), (0, 0), (3, 0), (0, 0), (2, 5)]
    assert in_order(places) == [3, 4, 2, 0]
    assert in_order([]) == []
    # Not of an evaluation, or of one of an earlier release.
    for odd in ((None, 1), ("3", 1), (3, None)):
        assert in_order([(3, 1), (3, 1), odd]) == [0, 1, 2]


def test_episodes_are_those_of_the_whole_run_in_its_order(whole: Path, cut: Path) -> None:
    episodes, expected = Episodes(cut), read_items(Episodes(whole))
    found = read_items(episodes)
    assert [(i.index, i.name, i.answer) for i in found] == [
        (i.index, i.name, i.answer) for i in expected
    ]
    assert episodes.superseded == 2
    assert not any(i.sample.end == "failed" for i in found)


def test_grading_again_comparing_and_exporting_see_each_sample_once(
    whole: Path, cut: Path, tmp_path: Path
) -> None:
    found = rescore(cut, tmp_path / "again", rescore_config(cut))
    assert found.episodes == 20
    assert set(found.flips) == {"right -> right", "wrong -> wrong"}
    told = json.loads((tmp_path / "again" / "result.json").read_text())
    assert told["rescored"]["superseded"] == 2
    assert answers(tmp_path / "again") == answers(whole)
    compared = compare(cut, whole)
    assert (compared.overall.items, compared.overall.difference) == (10, 0.0)
    assert compared.superseded == 2
    counts = export_log(cut, tmp_path / "log", "openai")
    assert (counts.episodes, counts.superseded) == (20, 2)
    lines = (tmp_path / "log" / "messages.jsonl").read_text().splitlines()
    facts = [json.loads(line)["metadata"] for line in lines]
    saved = RunReader(whole).trajectories()
    assert [(f["task_id"], f["rollout"]) for f in facts] == [
        (s.task.id, s.trajectory.rollout) for s in saved
    ]


def test_showing_auditing_and_learning_see_each_sample_once(
    whole: Path, cut: Path, tmp_path: Path
) -> None:
    shown, expected = (printed(render_run(run, step=1)) for run in (cut, whole))
    assert shown == expected
    assert "20 trajectories" in shown
    again = "step_000001.jsonl: 2 lines are of samples that were run again"
    assert again in printed(render_run(cut))
    audited = audit(cut, load_config(cut))
    assert (audited.trajectories, audited.graded) == (20, 20)
    assert audited.findings == audit(whole, load_config(whole)).findings
    assert again in audited.notes
    assert list(learnable(cut)) == list(learnable(whole))
    # A single file, as export-sft takes it.
    (file,) = (cut / "rollouts").glob("*.jsonl")
    assert list(learnable(file)) == list(learnable(cut))


def test_a_file_that_is_sealed_while_it_is_read_is_told(whole: Path, cut: Path) -> None:
    (file,) = (cut / "rollouts").glob("*.jsonl")
    (sealed,) = (whole / "rollouts").glob("*.jsonl")
    again, records = counted(file, [])
    assert again == 2
    replace_file(file, sealed.read_text().splitlines())
    with pytest.raises(RunError, match="was replaced while it was read"):
        list(records)


def test_the_viewer_shows_each_sample_once_and_tasks_whole(whole: Path, cut: Path) -> None:
    site = RunSite(cut, Options())
    index, told = data(site, "index"), data(site, "run")
    assert index["group"] == [k for k in range(10) for _ in range(2)]
    assert index["rollout"] == [0, 1] * 10
    expected = data(RunSite(whole, Options()), "index")
    for name in ("task", "group", "rollout", "answer", "correct", "end"):
        assert index[name] == expected[name], name
    again = "2 lines are of samples that were run again"
    assert any(again in problem for problem in told["problems"])
    groups = data(site, index["chunks"][0]["name"])["groups"]
    assert [g["task"]["id"] for g in groups] == [f"item-{k}" for k in range(10)]
