"""VLMsAreBlind: its files, what the two kits give, what ours gives, and the mean over kinds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvision_rl.errors import TaskError
from pyvision_rl.suites.base import Final, Scored
from pyvision_rl.suites.task_set import find_suite
from pyvision_rl.suites.vlmsareblind import TASKS, VLMsAreBlind
from pyvision_rl.types import Gold, Task, TaskInput
from tests.suites import minis_maths as minis

ORACLE = Path(__file__).parents[1] / "oracles" / "vlmsareblind.json"
SUITE = VLMsAreBlind()


def one(kind, gold):
    return Task(TaskInput("i", "?"), Gold(gold, "auto", {"kind": kind, "answer": gold}))


def listed(path, protocol=""):
    tasks = SUITE.tasks(path, protocol)
    return [tasks[i] for i in range(len(tasks))]


def test_the_miniature_has_the_published_columns_and_every_kind(tmp_path):
    assert minis.BLIND_COLUMNS == ("image", "task", "prompt", "groundtruth", "metadata")
    tasks = listed(minis.blind_parquet(tmp_path / "valid-0.parquet"))
    assert {task.input.category for task in tasks} == set(TASKS)
    assert tasks[0].id == "subway-connections/0"
    assert [media.width for media in tasks[0].input.media] == [64]
    other = listed(minis.blind_tsv(tmp_path / "VLMBlind.tsv"))
    assert [(t.id, t.input.question, t.gold) for t in other] == [
        (t.id, t.input.question, t.gold) for t in tasks
    ]
    kit = listed(tmp_path / "valid-0.parquet", "lmms-eval")[3].input.question
    assert kit.endswith("Answer Yes or No.\nAnswer only in the required format.")
    assert find_suite("vlmsareblind").name == "vlmsareblind"


def test_a_kind_that_is_not_known_is_refused(tmp_path):
    path = tmp_path / "valid.jsonl"
    row = {"image": "a.png", "task": "Knots", "prompt": "?", "groundtruth": "1"}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(TaskError, match="row 1: task 'Knots' is none of counting grid"):
        SUITE.tasks(path, "")
    with pytest.raises(TaskError, match="get the data set XAI/vlmsareblind"):
        SUITE.tasks(tmp_path / "absent", "")


@pytest.mark.parametrize("kit", ["lmms-eval", "vlmevalkit"])
def test_kits_find_right_what_their_own_functions_find_right(kit):
    rows = json.loads(ORACLE.read_text(encoding="utf-8"))[kit]["rows"]
    assert len(rows) >= 200
    for answer, kind, gold, right in rows:
        assert SUITE.score(one(kind, gold), Final(None, answer), kit).correct is right, (
            answer,
            kind,
            gold,
        )


def test_every_reference_is_right_in_the_form_that_is_asked_for(tmp_path):
    for task in listed(minis.blind_parquet(tmp_path / "valid-0.parquet")):
        gold = task.gold.answer
        rows, _, columns = gold.partition(",")
        written = f"rows={{{rows}}} columns={{{columns}}}" if columns else gold
        for protocol in ("pyvision", "vlmevalkit"):
            assert SUITE.score(task, Final(written), protocol).correct, (protocol, gold)
        asked = f"({gold})" if columns else gold
        assert SUITE.score(task, Final(asked), "lmms-eval").correct
        assert not SUITE.score(task, Final(None, gold), "pyvision").correct


@pytest.mark.parametrize(
    ("kind", "gold", "answer", "right"),
    [
        ("Subway Connections", "3", "{3}", True),
        ("Subway Connections", "3", "3.0", True),
        ("Subway Connections", "3", "13", False),
        ("Circled Letter", "c", "C", True),
        ("Circled Letter", "c", "the letter c", False),
        ("Touching Circles", "No", "no.", True),
        # Right by VLMEvalKit, which looks for the reference anywhere.
        ("Touching Circles", "No", "I know", False),
        ("Olympic Counting - Circles", "5", "15", False),
        ("Counting Grid - Word Grids", "4,5", "4 x 5", True),
        ("Counting Grid - Word Grids", "4,5", "columns={5} rows={4}", True),
        ("Counting Grid - Word Grids", "4,5", "rows={5} columns={4}", False),
        ("Counting Grid - Word Grids", "4,5", "4, 5 or 6", False),
    ],
)
def test_ours_reads_the_whole_answer(kind, gold, answer, right):
    assert SUITE.score(one(kind, gold), Final(answer), "pyvision").correct is right
    if answer in ("I know", "15"):
        assert SUITE.score(one(kind, gold), Final(answer), "vlmevalkit").correct


@given(st.text(max_size=40), st.booleans(), st.sampled_from(minis.BLIND))
def test_no_text_makes_a_scorer_raise(text, answered, row):
    for protocol in SUITE.protocols:
        final = Final(text if answered else None, text)
        assert SUITE.score(one(row[0], row[2]), final, protocol).score in (0.0, 1.0)


def test_kinds_of_which_nothing_is_right_count_in_the_mean(tmp_path):
    tasks = listed(minis.blind_parquet(tmp_path / "valid-0.parquet"))
    marks = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    run = [Scored(task, (mark,), (False,)) for task, mark in zip(tasks, marks, strict=True)]
    report = SUITE.aggregate(run, "")
    # One kind of eight is right, and half of the two grids.
    assert report.numbers[report.headline] == pytest.approx(1.5 / 8)
    assert report.numbers["accuracy"] == pytest.approx(2 / 9)
    few = SUITE.aggregate(run[:2], "")
    assert any("2 of 8 kinds" in note for note in few.notes)
    assert SUITE.aggregate([Scored(tasks[0], ())], "").numbers == {}
