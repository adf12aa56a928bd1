"""The published files of the benchmarks of mathematics become tasks, worded by protocol."""

from __future__ import annotations

import json

import pytest

from pyvision_rl.errors import TaskError
from pyvision_rl.suites.base import settings_of
from pyvision_rl.suites.dynamath import DynaMath
from pyvision_rl.suites.listed_options import options_of as lined
from pyvision_rl.suites.mathverse import MathVerse
from pyvision_rl.suites.mathvision import MathVision
from pyvision_rl.suites.task_set import find_suite
from pyvision_rl.suites.wemath import WeMath, options_of
from tests.suites import minis_maths as minis
from tests.suites.minis import as_base64, drawn, write_tsv

MINE = ("mathverse", "mathvision", "wemath", "dynamath")
FILES = {
    "mathverse": (
        minis.mathverse_parquet,
        lambda folder: minis.mathverse_tsv(folder / "MathVerse_MINI.tsv"),
    ),
    "mathvision": (
        lambda folder: minis.mathvision_parquet(folder / "test-00000-of-00001.parquet"),
        minis.mathvision_folder,
        lambda folder: minis.mathvision_tsv(folder / "MathVision.tsv"),
    ),
    "wemath": (
        minis.wemath_folder,
        lambda folder: minis.wemath_parquet(folder / "testmini-00000-of-00001.parquet"),
    ),
    "dynamath": (
        minis.dynamath_folder,
        lambda folder: minis.dynamath_tsv(folder / "DynaMath.tsv"),
    ),
}
CASES = [(name, number) for name, makers in FILES.items() for number in range(len(makers))]


def listed(tasks):
    return [tasks[i] for i in range(len(tasks))]


def test_miniatures_have_the_published_columns():
    columns = (
        "sample_index problem_index problem_version question image answer question_type metadata "
        "query_wo query_cot question_for_eval"
    )
    rows = minis.mathverse_rows()
    assert list(rows[0]) == columns.split()
    assert list(rows[0]["metadata"]) == ["split", "source", "subject", "subfield"]
    assert {row["question"] == "" for row in rows if row["problem_version"] == "Vision Only"} == {
        True
    }
    columns = "id question options image decoded_image answer solution level subject"
    assert list(minis.mathvision_rows()[0]) == columns.split()
    assert list(minis.wemath_rows()[0]) == [
        *("ID", "split", "knowledge concept", "question", "option", "answer", "image_path", "key"),
        *("question number", "knowledge concept description"),
    ]
    columns = "id question image decoded_image ground_truth answer_type subject knowledge_level"
    assert list(minis.dynamath_rows(1)[0]) == columns.split()


@pytest.mark.parametrize("name", MINE)
def test_every_protocol_says_where_it_comes_from(name):
    suite = find_suite(name)
    assert suite.name == name
    assert next(iter(suite.protocols)) == "pyvision"
    assert {"official", "vlmevalkit", "lmms-eval", "paper"} < set(suite.protocols)
    for protocol, settings in suite.protocols.items():
        assert settings.source.endswith(".")
        assert settings.second_hand is (protocol == "paper")
    paper = settings_of(suite, "paper")
    assert (paper.temperature, paper.top_k, paper.max_turns) == (0.5, 20, 30)


@pytest.mark.parametrize(("name", "number"), CASES)
def test_every_published_format_gives_the_same_tasks(name, number, tmp_path):
    suite = find_suite(name)
    (tmp_path / "first").mkdir()
    first = FILES[name][0](tmp_path / "first")
    (tmp_path / "other").mkdir()
    other = FILES[name][number](tmp_path / "other")
    want = listed(suite.tasks(first, "official"))
    have = listed(suite.tasks(other, "official"))
    assert {task.id: task.gold.answer for task in want} == {t.id: t.gold.answer for t in have}
    assert len({task.id for task in have}) == len(have)
    for task in have:
        assert task.input.data_source == name
        assert [media.width for media in task.input.media] == [64]
    assert suite.files(other)
    assert all(file.is_file() for file in suite.files(other))


@pytest.mark.parametrize("name", MINE)
def test_a_missing_file_names_the_data_set_to_get(name, tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(TaskError, match="get the data set"):
            find_suite(name).tasks(path, "")


def mathverse_json(folder):
    """Write ``testmini.json`` with pictures as paths, one problem in text alone."""
    rows = minis.mathverse_rows()
    for number, row in enumerate(rows):
        row["image"] = f"images/{number}.png"
    rows.append(rows[0] | {"problem_version": "Text Only", "image": "never/there.png"})
    for row in rows[:-1]:
        path = folder / row["image"]
        path.parent.mkdir(exist_ok=True)
        drawn(1).save(path)
    (folder / "testmini.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("mathverse", mathverse_json),
        ("mathvision", minis.mathvision_folder),
        ("wemath", minis.wemath_folder),
    ],
)
def test_a_missing_picture_is_found_before_anything_starts(name, make, tmp_path):
    suite, folder = find_suite(name), make(tmp_path)
    assert len(suite.tasks(folder, ""))
    lost = next(f for f in sorted(folder.rglob("*")) if f.suffix in (".png", ".jpg"))
    lost.unlink()
    with pytest.raises(TaskError, match=f"1 files are not there.*{lost.name}.*get the data set"):
        suite.tasks(folder, "")


@pytest.mark.parametrize("name", MINE)
def test_a_file_without_its_columns_says_which(name, tmp_path):
    path = tmp_path / "sample_variant1.jsonl"
    path.write_text('{"question": "?", "image": "a.png"}\n')
    with pytest.raises(TaskError, match="has no column"):
        find_suite(name).tasks(path, "")


def test_mathverse_words_a_problem_that_only_the_picture_tells(tmp_path):
    path = minis.mathverse_parquet(tmp_path)
    by_id = {task.id: task for task in listed(MathVerse().tasks(path, "pyvision"))}
    assert len(by_id) == 20
    task = by_id["1/vision-only"]
    assert task.input.question == (
        "Answer the question that the picture shows.\nAnswer with the letter of one option."
    )
    facts = task.gold.facts
    assert facts["question_for_eval"].startswith("In triangle PQR")
    assert (facts["options"], facts["letter"]) == (("40°", "50°", "60°", "130°"), "B")
    assert by_id["2/text-lite"].input.question == "A ball has radius 3. Find its volume."
    official = {task.id: task for task in listed(MathVerse().tasks(path, "official"))}
    assert official["2/text-lite"].input.question == (
        "Please directly answer the question and provide the final value.\n"
        "Question: A ball has radius 3. Find its volume."
    )


def test_mathverse_text_only_problems_have_no_picture(tmp_path):
    path = minis.mathverse_text_only(tmp_path / "testmini_text_only.json")
    tasks = listed(MathVerse().tasks(path, ""))
    assert [task.id for task in tasks] == [f"{n}/text-only" for n in (1, 2, 3, 4)]
    assert all(task.input.media == () for task in tasks)
    assert tasks[0].gold.facts["question_for_eval"].startswith("In triangle PQR")


def test_mathvision_words_placeholders_and_labels_by_protocol(tmp_path):
    path = minis.mathvision_parquet(tmp_path / "test-0.parquet")
    ours = [task.input.question for task in listed(MathVision().tasks(path, "pyvision"))]
    assert ours[0] == "How many dots are there?"
    assert ours[1] == "Which figure comes next?\nAnswer with the letter of one option."
    assert ours[2].splitlines()[:2] == ["What is the area of ?", "A. $\\frac{1}{2}$"]
    assert ours[3].startswith("<image1> balances <image2>.")
    official = [task.input.question for task in listed(MathVision().tasks(path, "official"))]
    box = (
        'Please solve the problem and put your answer in one "\\boxed{}". If it is a multiple '
        'choice question, only one letter is allowed in the "\\boxed{}".\n'
    )
    assert official[1] == f"{box}Which figure comes next?\n<image1>\n"
    assert official[2].endswith("(D) 24\n(E) none of these\n")
    lmms = [task.input.question for task in listed(MathVision().tasks(path, "lmms-eval"))]
    assert lmms[1] == (
        'Please solve the problem step by step and put your answer in one "\\boxed{}".'
        "Which figure comes next?\n<image1>\nChoices: A. A\nB. B\nC. C\nD. D\nE. E\n"
        "Answer the question with the option's letter from the given choices directly."
    )


def test_mathvision_mends_the_answer_that_lost_its_backslash(tmp_path):
    row = {"id": "1", "question": "?", "options": [], "answer": "\x0crac{36}{13}", "image": "a.png"}
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (tmp_path / "a.png").write_bytes(minis.encoded(drawn(1)))
    assert MathVision().tasks(path, "")[0].gold.answer == "\\frac{36}{13}"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("A. 3;B. 4; C. No correct answer", ("3", "4", "No correct answer")),
        ("A. 4 B. 3 C. 2 ;D. 1; E. No", ("4", "3", "2", "1", "No")),
        # Letters of points, and a letter that is skipped.
        ("A. ∠AB;E.; B. ∠AB;C.; C. None", ("∠AB;E.", "∠AB;C.", "None")),
        ("A. to ;B.; B. first B, then ;B.; C. x", ("to ;B.", "first B, then ;B.", "x")),
        ("A. Yes;B. No.; F. No correct answer", ("Yes", "No.", "No correct answer")),
    ],
)
def test_wemath_options_are_read_out_of_one_text(text, options):
    assert options_of(text) == options


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("Which?\nChoices:\nA:40°\nB:50°", ("40°", "50°")),
        ("Which?\nA. one\nB. two\nso\nC. three", ("one", "two\nso", "three")),
        # Of several lists the last counts; a letter may not be skipped.
        ("A: if so\nB: if not\nWhich?\nA: yes\nB: no\nC: both", ("yes", "no", "both")),
        ("Which?\nA. one\nC. three", ()),
        ("Which?\nA.\nB.", ()),
        ("What is A. doing?", ()),
    ],
)
def test_options_one_a_line_are_read(text, options):
    assert lined(text) == options


@pytest.mark.parametrize("text", ["", "A. 3", "yes or no", "B. 3; C. 4"])
def test_wemath_text_without_options_is_refused(text):
    with pytest.raises(TaskError, match="lists no options"):
        options_of(text)


def test_wemath_words_its_options_by_protocol(tmp_path):
    path = minis.wemath_folder(tmp_path)
    tasks = listed(WeMath().tasks(path, ""))
    assert tasks[0].id == "2steps_1/1"
    assert [task.input.category for task in tasks] == ["S1", "S1", "S2", "S1", "S1", "S1", "S3"]
    assert tasks[0].input.question.splitlines() == [
        "a = ( ) m",
        *("A. 3", "B. 30", "C. 300", "D. No correct answer"),
        "Answer with the letter of one option.",
    ]
    official = WeMath().tasks(path, "official")[0].input.question
    assert official == "a = ( ) m\nA. 3;B. 30;C. 300; D. No correct answer"
    kit = WeMath().tasks(path, "vlmevalkit")[0].input.question
    assert kit == "Question: a = ( ) m\nOptions:\nA. 3\nB. 30\nC. 300\nD. No correct answer\n"


def test_wemath_options_of_a_tsv_are_in_columns(tmp_path):
    columns = ("index", "ID", "key", "question", "answer", "knowledge concept", "A", "B", "image")
    row = (0, "2steps_1", "2steps_1", "Is it?", "B", "Length", "yes", "no", as_base64(drawn(3)))
    task = WeMath().tasks(write_tsv(tmp_path / "WeMath.tsv", columns, [row]), "")[0]
    assert (task.gold.facts["options"], task.gold.answer) == (("yes", "no"), "B")


def test_dynamath_ids_name_problem_and_variant(tmp_path):
    path = minis.dynamath_folder(tmp_path)
    tasks = listed(DynaMath().tasks(path, ""))
    assert len(tasks) == 50
    assert [task.id for task in tasks[:6]] == [
        *("12/v1", "40/v1", "41/v1", "77/v1", "90/v1"),
        "12/v2",
    ]
    # Files are read in the order of their variants, v10 last.
    assert tasks[-1].id == "90/v10"
    assert tasks[0].gold.facts["variant"] == 1
    assert {task.gold.answer_type for task in tasks} == {"float", "letter", "text"}
    one = DynaMath().tasks(path / "sample_variant3-00000-of-00001.parquet", "")
    assert one[0].id == "12/v3"


def test_dynamath_rows_must_say_their_variant(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = minis.dynamath_rows(1)[0] | {"decoded_image": "a.png"}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(TaskError, match="which variant is it"):
        DynaMath().tasks(path, "")


def test_dynamath_words_a_question_by_protocol(tmp_path):
    path = minis.dynamath_folder(tmp_path)
    asked = {name: DynaMath().tasks(path, name)[1].input.question for name in DynaMath.protocols}
    ours = "Which is larger?\nA. red\nB. blue\nAnswer with the letter of one option."
    assert asked["pyvision"] == asked["paper"] == ours
    published = "Which is larger? Choices: (A) red (B) blue"
    assert asked["lmms-eval"] == published
    assert asked["vlmevalkit"] == f"## Question\n {published}"
    assert asked["official"].startswith(f"## Question\n {published}\n## Answer Instruction Please")
    assert asked["official"].endswith('"short answer": "[Concise Answer]"\n}')


@pytest.mark.parametrize("name", MINE)
def test_shuffled_options_keep_the_right_answer(name, tmp_path):
    suite = find_suite(name)
    path = FILES[name][0](tmp_path)
    plain = {task.id: task for task in listed(suite.tasks(path, ""))}
    moved = set()
    for seed in range(4):
        for task in listed(suite.tasks(path, "", shuffle=seed)):
            facts, before = task.gold.facts, plain[task.id].gold.facts
            if "options" not in facts:
                continue
            right = facts["options"][ord(facts["letter"]) - 65]
            assert right == before["options"][ord(before["letter"]) - 65]
            assert task.gold.answer == facts["letter"]
            if facts["options"] != before["options"]:
                moved.add(task.id)
                assert task.input.question != plain[task.id].input.question
    assert moved
    # What only the picture lists stays as it is there.
    assert not {one for one in moved if one.endswith("vision-only")}
    assert "5" not in moved
