"""Published file formats become tasks; what is missing or malformed is said exactly."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
import zipfile
from dataclasses import replace
from types import ModuleType

import pytest
from PIL import Image

from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.suites import TABLE, tables
from pyvision_rl.suites.base import Final, Item, Items, Scored, protocol_name, settings_of
from pyvision_rl.suites.choices import Choices, drawn, split
from pyvision_rl.suites.files import digests, picture, unpacked
from pyvision_rl.suites.hrbench import HRBench
from pyvision_rl.suites.task_set import find_suite
from pyvision_rl.suites.tirbench import TIRBench
from pyvision_rl.suites.tirbench_rules import TASKS
from pyvision_rl.suites.vsibench import LETTER_TYPES, NUMBER_TYPES, VSIBench
from pyvision_rl.suites.vstar import VStar
from pyvision_rl.types import Gold
from tests.suites import minis

MINE = ("vstar", "hrbench", "tirbench", "vsibench")


def listed(tasks):
    return [tasks[i] for i in range(len(tasks))]


def test_miniatures_have_the_published_columns(tmp_path):
    # As the data sets' own loaders and scorers name them.
    rows = minis.vstar_rows()
    assert list(rows[0]) == ["image", "text", "category", "label", "question_id"]
    with minis.vstar_tsv(tmp_path / "v.tsv").open() as file:
        header = file.readline().split()
    assert header == ["index", "image", "question", "A", "B", "C", "D", "answer", "category"]
    with minis.hrbench_tsv(tmp_path / "h.tsv").open() as file:
        header = file.readline().split()
    columns = "index question A B C D answer category cycle_category image"
    assert header == columns.split()
    rows = minis.vsibench_rows()
    columns = "id dataset scene_name question_type question ground_truth options"
    assert list(rows[0]) == columns.split()
    assert {r["question_type"] for r in rows} == {*LETTER_TYPES, *NUMBER_TYPES}
    rows = minis.tirbench_rows()
    assert list(rows[0])[:5] == ["question_id", "task", "prompt", "answer", "image_1"]
    assert {r["task"] for r in rows} == set(TASKS)


@pytest.mark.parametrize("name", MINE)
def test_every_protocol_says_where_it_comes_from(name):
    suite = find_suite(name)
    assert suite.name == name
    assert next(iter(suite.protocols)) == "pyvision"
    for protocol, settings in suite.protocols.items():
        assert settings.source.endswith((".", "')."))
        assert settings.second_hand is (protocol == "paper")
    assert protocol_name(suite) == "pyvision"
    with pytest.raises(ConfigError, match=r"'papper'.*did you mean 'paper'.*known: pyvision"):
        protocol_name(suite, "papper")


def test_the_paper_asks_for_its_own_sampling():
    paper = settings_of(VStar(), "paper")
    assert (paper.samples, paper.temperature, paper.max_turns) == (32, 0.01, 30)
    assert (paper.min_pixels, paper.max_pixels, paper.max_context_tokens) == (3136, 2000000, 32768)
    assert settings_of(HRBench(), "paper").top_k == 20
    assert settings_of(TIRBench(), "paper").temperature == 0.5
    assert settings_of(VSIBench(), "paper").temperature == 0.01


VSTAR_FILES = {
    "folder": minis.vstar_folder,
    "parquet": lambda folder: minis.vstar_parquet(folder / "test.parquet"),
    "tsv": lambda folder: minis.vstar_tsv(folder / "VStarBench.tsv"),
}


@pytest.mark.parametrize("kind", VSTAR_FILES)
def test_vstar_is_the_same_in_every_format(tmp_path, kind):
    tasks = listed(VStar().tasks(VSTAR_FILES[kind](tmp_path), "pyvision"))
    assert [t.gold.answer for t in tasks] == ["B", "D", "A", "B", "A"]
    assert tasks[0].input.question == (
        "What is the color of the cup?\nA. red\nB. white\nC. green\nD. blue\n"
        "Answer with the letter of one option."
    )
    assert tasks[3].gold.facts["options"] == ("left", "right")
    assert tasks[3].input.category == "relative_position"
    assert tasks[0].id == "direct_attributes/0"
    assert {t.input.data_source for t in tasks} == {"vstar"}
    assert all(t.input.media[0].kind == "image" for t in tasks)


def test_vstar_prompts_are_each_protocols_own(tmp_path):
    path = minis.vstar_folder(tmp_path)
    official = VStar().tasks(path, "official")[3].input.question
    assert official == minis.vstar_rows()[3]["text"]
    shuffled = VStar().tasks(path, "official", shuffle=3)[3].input.question
    assert shuffled.startswith("Is the cup left or right of the spoon?\n(A) ")
    assert shuffled.endswith(f"\n{minis.LETTER}")
    # As VLMEvalKit's build_prompt joins it; worked by hand.
    assert VStar().tasks(path, "vlmevalkit")[3].input.question == (
        "Question: Is the cup left or right of the spoon?\nOptions:\nA. left\nB. right\n"
        "Please select the correct answer from the options above. \n"
    )


def test_a_short_picture_names_the_row_that_has_it(tmp_path):
    tasks = listed(VStar().tasks(minis.vstar_tsv(tmp_path / "v.tsv"), ""))
    assert tasks[1].input.media == tasks[2].input.media
    assert tasks[0].input.media != tasks[1].input.media
    broken = (tmp_path / "v.tsv").read_text().replace("\n2\t1\t", "\n2\t77\t")
    (tmp_path / "w.tsv").write_text(broken)
    with pytest.raises(TaskError, match="row 3 shares the picture of row '77', which has none"):
        VStar().tasks(tmp_path / "w.tsv", "")


def test_rows_without_a_picture_are_left_out_and_counted(tmp_path, caplog):
    row = ("9", "", "Which?", "a", "b", "", "", "A", "direct_attributes")
    full = ("8", minis.as_base64(minis.drawn(1)), "Which?", "a", "b", "", "", "A", "x")
    path = minis.write_tsv(tmp_path / "v.tsv", minis.VSTAR_TSV_COLUMNS, [row, full])
    tasks = VStar().tasks(path, "")
    assert (len(tasks), tasks.num_dropped) == (1, 1)
    assert "1 rows without a picture are left out" in caplog.text


def test_fields_may_be_long_quoted_and_hold_newlines(tmp_path):
    # A drawn picture of this size is about 300,000 base64 characters, above csv's own limit.
    noise = Image.effect_noise((600, 400), 90).convert("RGB")
    text = minis.as_base64(noise)
    assert len(text) > 131_072
    question = 'What\tis "this"?\nSay it.'
    values = (0, question, "a", "b", "", "", "B", "single", "0", text)
    after = (1, "And this?", "a", "b", "", "", "A", "single", "1", "0")
    path = minis.write_tsv(tmp_path / "h.tsv", minis.HRBENCH_COLUMNS, [values, after])
    csv.field_size_limit(131_072)
    tasks = listed(HRBench().tasks(path, ""))
    assert tasks[0].input.question.startswith(question)
    assert tasks[0].input.media[0].width == 600
    assert tasks[1].input.media == tasks[0].input.media


@pytest.mark.parametrize("kind", ["tsv", "parquet"])
def test_hrbench_asks_each_question_in_four_orders(tmp_path, kind):
    write = {"tsv": minis.hrbench_tsv, "parquet": minis.hrbench_parquet}[kind]
    tasks = listed(HRBench().tasks(write(tmp_path / f"hr_bench_8k.{kind}"), ""))
    assert [t.gold.answer for t in tasks] == list("ABCDABCD")
    assert [t.gold.facts["cycle"] for t in tasks] == list("01230123")
    right = {t.gold.facts["options"]["ABCD".index(t.gold.answer)] for t in tasks}
    assert right == {"red", "left of the tree"}
    assert {t.input.media for t in tasks[:4]} == {tasks[0].input.media}
    assert tasks[4].input.media != tasks[0].input.media


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_vsibench_opens_its_videos(tmp_path, kind, zipped):
    path = minis.vsibench_folder(tmp_path, kind=kind, zipped=zipped)
    tasks = VSIBench().tasks(path.parent, "")
    assert len(tasks) == 11
    first = tasks[0]
    assert first.input.media[0].kind == "video"
    assert first.input.media[0].video.num_frames > 1
    assert first.input.question == "How many chairs are in this room?\nAnswer with one number."
    assert first.gold == Gold("4", "float", {"question_type": "object_counting"})
    turn = tasks[5]
    assert turn.gold.facts["options"] == ("left", "right", "back")
    assert turn.input.category == "object_rel_direction"
    # A second look finds the file where the first one put it.
    assert tasks[0].input.media == first.input.media


def test_vsibench_has_a_debiased_part(tmp_path):
    path = minis.vsibench_folder(tmp_path, kind="parquet")
    assert len(VSIBench().tasks(path, "")) == 11
    debiased = VSIBench().tasks(tmp_path / "test.parquet@debiased", "")
    pruned = VSIBench().tasks(tmp_path / "test.parquet@pruned", "")
    assert (len(debiased), len(pruned)) == (10, 1)
    assert pruned[0].gold.facts["part"] == "pruned"
    # Questions without the column are told apart by the published list of ids.
    rows = tmp_path / "rows"
    path = minis.vsibench_folder(rows)
    with pytest.raises(TaskError, match=r"@debiased: no row is known.*pruned_ids\.txt"):
        VSIBench().tasks(rows / "test.jsonl@debiased", "")
    (rows / "pruned_ids.txt").write_text("10\n3\n")
    assert len(VSIBench().tasks(rows / "test.jsonl@debiased", "")) == 9
    assert "part" not in VSIBench().tasks(path, "")[0].gold.facts


def test_a_file_of_one_part_says_so(tmp_path):
    minis.vsibench_folder(tmp_path)
    rows = [row | {"pruned": False} for row in minis.vsibench_rows()[:9]]
    minis.write_parquet(tmp_path / "test_debiased.parquet", rows)
    tasks = VSIBench().tasks(tmp_path / "test_debiased.parquet", "")
    assert tasks[0].gold.facts["part"] == "debiased"
    report = VSIBench().aggregate([Scored(tasks[0], (1.0,))], "")
    assert "of the part 'debiased' of the file" in report.notes
    assert not any("of 5130 items" in note for note in report.notes)


@pytest.mark.parametrize("zipped", [False, True])
def test_tirbench_finds_its_pictures(tmp_path, zipped):
    tasks = listed(TIRBench().tasks(minis.tirbench_folder(tmp_path, zipped=zipped), ""))
    assert len(tasks) == 17
    by_kind = {t.input.category: t for t in tasks}
    assert set(by_kind) == set(TASKS)
    assert len(by_kind["spot_difference"].input.media) == 2
    assert by_kind["jigsaw"].gold.facts["difficulty"] == 2
    assert by_kind["color"].gold.facts["options"] == ("9%", "13%", "17%", "21%")
    # Two references are corrected as the authors' scorer does, by the picture's whole name.
    assert [t.gold.answer for t in tasks if t.input.category == "ocr"] == ["mobi", "harbour"]


def test_an_archive_with_a_first_folder_of_its_own_is_read_as_it_is_checked(tmp_path):
    folder = minis.tirbench_folder(tmp_path)
    plain = listed(TIRBench().tasks(folder, ""))
    with zipfile.ZipFile(folder / "data.zip") as old:
        held = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for name, content in held.items():
            archive.writestr(f"TIR-Bench-main/{name}", content)
    assert listed(TIRBench().tasks(folder, "")) == plain
    # What is there by its very name comes before what another archive has in a folder.
    with zipfile.ZipFile(folder / "a-first.zip", "w") as archive:
        for name in held:
            archive.writestr(f"annotated/{name}", minis.encoded(minis.drawn(99)))
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for name, content in held.items():
            archive.writestr(name, content)
    assert listed(TIRBench().tasks(folder, "")) == plain
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for name, content in held.items():
            archive.writestr(f"TIR-Bench-main/{name}", content)
    with pytest.raises(TaskError, match=r"is there 2 times: a-first\.zip: annotated/data"):
        listed(TIRBench().tasks(folder, ""))


def test_a_list_that_was_not_read_to_the_reference_is_none(tmp_path):
    folder = minis.tirbench_folder(tmp_path)
    rows = minis.tirbench_rows()
    rows[2] |= {"prompt": "Which box is the man?\nA. first\nB. second\nC.third", "answer": "C"}
    (folder / "TIR-Bench.json").write_text(json.dumps(rows))
    task = listed(TIRBench().tasks(folder, ""))[2]
    assert "options" not in task.gold.facts
    assert TIRBench().score(task, Final("C", "C"), "pyvision").correct
    # Episodes that were stored with the shorter list are graded again by the same rule.
    short = replace(task, gold=replace(task.gold, facts={**task.gold.facts, "options": ("a", "b")}))
    assert TIRBench().score(short, Final("C", "C"), "pyvision").correct


def test_tirbench_cannot_draw_the_order_of_its_options(tmp_path):
    with pytest.raises(ConfigError, match="leave shuffle_options = false"):
        TIRBench().tasks(minis.tirbench_folder(tmp_path), "", shuffle=0)


def test_vsibench_draws_its_options_too(tmp_path):
    path = minis.vsibench_folder(tmp_path)
    filed, drawn_ = VSIBench().tasks(path, ""), VSIBench().tasks(path, "", shuffle=2)
    moved = 0
    for number in (5, 6, 7, 8, 9):
        before, after = filed[number].gold, drawn_[number].gold
        right = before.facts["options"]["ABCD".index(before.answer)]
        assert after.facts["options"]["ABCD".index(after.facts["letter"])] == right
        moved += after.answer != before.answer
    assert moved
    assert drawn_[0].gold == filed[0].gold


@pytest.mark.parametrize(
    ("make", "lost", "said"),
    [
        (minis.vstar_folder, "direct_attributes/picture_2.jpg", "craigwu/vstar_bench"),
        (lambda f: minis.tirbench_folder(f, zipped=False), "data/maze/15.png", "Agents-X/TIR-B"),
        (minis.vsibench_folder, "scannet/scene_1.mp4", "nyu-visionx/VSI-Bench"),
    ],
)
def test_a_missing_medium_is_found_before_anything_starts(tmp_path, make, lost, said):
    made = make(tmp_path)
    suite = {"craigwu": VStar, "Agents-": TIRBench, "nyu-vis": VSIBench}[said[:7]]()
    assert len(suite.tasks(made, ""))
    (tmp_path / lost).unlink()
    with pytest.raises(TaskError, match=f"1 files are not there, the first is '{lost}'.*{said}"):
        suite.tasks(made, "")


def test_of_several_files_none_is_chosen_in_silence(tmp_path):
    for size in ("4k", "8k"):
        minis.hrbench_tsv(tmp_path / f"hr_bench_{size}.tsv")
    with pytest.raises(TaskError, match=r"holds hr_bench_4k\.tsv, hr_bench_8k\.tsv: give one"):
        HRBench().tasks(tmp_path, "")


def test_a_video_is_never_unpacked_outside_its_folder(tmp_path):
    with pytest.raises(TaskError, match="leads out of"):
        unpacked(tmp_path, "../a.mp4")


def test_videos_below_a_folder_data_are_found_where_the_check_finds_them(tmp_path):
    questions = minis.vsibench_folder(tmp_path)
    (tmp_path / "data").mkdir()
    for dataset in ("arkitscenes", "scannet"):
        (tmp_path / dataset).rename(tmp_path / "data" / dataset)
    tasks = VSIBench().tasks(questions, "")
    assert tasks[0].input.media[0].kind == "video"


@pytest.mark.parametrize("fault", ["damaged", "encrypted"])
def test_a_member_of_an_archive_that_cannot_be_read_is_named(tmp_path, fault):
    archive = tmp_path / "clips.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.mp4", bytes(range(256)) * 64)
    data = bytearray(archive.read_bytes())
    if fault == "damaged":
        data[60:80] = bytes(255 - byte for byte in data[60:80])
    else:  # the flag of both headers
        data[6] |= 1
        data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(TaskError, match=r"a\.mp4: cannot be unpacked from .*clips\.zip"):
        unpacked(tmp_path, "a.mp4")
    assert [file.name for file in tmp_path.iterdir()] == ["clips.zip"]
    with pytest.raises(TaskError, match=r"clips\.zip: a\.mp4 cannot be read"):
        picture("a.mp4", tmp_path)


def test_ids_that_do_not_tell_items_apart_give_way_to_places(tmp_path):
    folder = minis.tirbench_folder(tmp_path)
    rows = [row | {"question_id": 7, "id": 20 + i} for i, row in enumerate(minis.tirbench_rows())]
    (folder / "TIR-Bench.json").write_text(json.dumps(rows))
    assert [TIRBench().tasks(folder, "")[i].id for i in range(3)] == ["20", "21", "22"]
    rows = [row | {"id": 7} for row in rows]
    keyed = {str(place): row for place, row in enumerate(rows)}
    (folder / "TIR-Bench.json").write_text(json.dumps(keyed))
    tasks = TIRBench().tasks(folder, "")
    assert [tasks[i].id for i in range(3)] == ["0", "1", "2"]


def test_drawn_options_carry_the_gold_letter_along():
    made = Choices(("red", "white", "green", "blue"), "B")
    orders = {drawn(made, seed, "7").options for seed in range(40)}
    assert len(orders) > 5
    for seed in range(40):
        shown = drawn(made, seed, "7")
        assert shown.options["ABCD".index(shown.letter)] == "white"
        assert shown == drawn(made, seed, "7")
    assert drawn(made, 1, "7") != drawn(made, 1, "8") or drawn(made, 2, "7") != drawn(made, 2, "8")
    assert drawn(made, None, "7") == made


def test_options_are_found_in_a_text():
    text = "Which (of all)?\n(A) a (big) one\n(B) two\nAnswer now."
    assert split(text) == ("Which (of all)?", ("a (big) one", "two"), "Answer now.")
    assert split("Which? (A) x (B) y (C) z") == ("Which?", ("x", "y", "z"), "")
    assert split("Nothing (B) here (D).") == ("Nothing (B) here (D).", (), "")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vstar", r"craigwu/vstar_bench.*test_questions\.jsonl"),
        ("hrbench", r"hr_bench_4k\.tsv.*DreamMr/HR-Bench"),
        ("vsibench", r"nyu-visionx/VSI-Bench.*arkitscenes\.zip"),
        ("tirbench", r"Agents-X/TIR-Bench.*data\.zip"),
    ],
)
def test_a_missing_file_names_the_data_set_to_get(tmp_path, name, said):
    suite = find_suite(name)
    with pytest.raises(TaskError, match=said):
        suite.tasks(tmp_path / "nowhere", "")
    with pytest.raises(TaskError, match=said):
        suite.files(tmp_path)


def test_a_text_with_odd_line_ends_is_one_line_of_json(tmp_path):
    said = "what\u2028is\x85\x0bthis?"
    row = {"question": said, "number": 1}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\r\n\n", encoding="utf-8", newline="")
    assert tables.open_table(path, ()).rows == (row,)


def test_a_malformed_file_names_the_row(tmp_path):
    path = tmp_path / "test_questions.jsonl"
    path.write_text('{"image": "a"}\nnot json\n')
    with pytest.raises(TaskError, match="line 2 is not JSON"):
        VStar().tasks(path, "")
    path.write_text('{"image": "a", "text": "?"}\n')
    lost = "has no column 'category', 'label', 'question_id'; .*get the data set craigwu/vstar"
    with pytest.raises(TaskError, match=lost):
        VStar().tasks(path, "")
    minis.vstar_folder(tmp_path)
    row = minis.vstar_rows()[0] | {"label": "F"}
    path.write_text(json.dumps(row))
    with pytest.raises(TaskError, match="row 1: answer 'F' is none of 4 options"):
        VStar().tasks(path, "")
    short = tmp_path / "h.tsv"
    short.write_text("index\tquestion\n1\n")
    with pytest.raises(TaskError, match="row 1 has 1 fields, wants 2"):
        HRBench().tasks(short, "")


@pytest.mark.parametrize("group", [1, 5, 100])
def test_large_columns_are_read_in_any_order(tmp_path, group):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"id": i, "image": {"bytes": bytes([i]), "path": None}} for i in range(37)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    table = tables.open_table(path, ("image",))
    assert table.columns == ("id", "image")
    assert list(table.rows) == [{"id": i} for i in range(37)]
    for number in (*range(37), 3, 36, 0, 17, 16, 17, 5):
        assert table.read(number, "image") == rows[number]["image"]
    with pytest.raises(TaskError, match="row 38 cannot be read"):
        table.read(37, "image")
    assert table.read(36, "image") == rows[36]["image"]


def test_what_is_no_parquet_file_says_so(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"nothing")
    with pytest.raises(TaskError, match="not a readable Parquet file"):
        tables.open_table(path, ())
    with pytest.raises(TaskError, match="wants one of"):
        tables.open_table(tmp_path / "a.csv", ())


def test_items_have_ids_of_their_own():
    item = Item("1", "?", Gold("A"))
    with pytest.raises(TaskError, match="two items have the id '1'"):
        Items("vstar", [item, item])
    with pytest.raises(TaskError, match="holds no items"):
        Items("vstar", [])
    with pytest.raises(IndexError):
        Items("vstar", [item])[1]


def test_a_broken_picture_is_a_fault_of_its_item_alone(tmp_path):
    folder = minis.vstar_folder(tmp_path)
    (folder / "direct_attributes/picture_1.jpg").write_bytes(b"no picture")
    tasks = VStar().tasks(folder, "")
    assert tasks[0].input.media
    with pytest.raises(TaskError, match=r"item direct_attributes/1: .*not a readable image"):
        tasks[1]


def test_pictures_come_in_every_published_form(tmp_path):
    image = minis.drawn(5)
    whole = picture(image, tmp_path)
    data = minis.encoded(image)
    (tmp_path / "a.png").write_bytes(data)
    forms = [data, {"bytes": data, "path": None}, minis.as_base64(image), "a.png", "data/a.png"]
    assert {picture(form, tmp_path) for form in forms} == {whole}
    for bad in ("", None, "b.png", "!" * 300):
        with pytest.raises(TaskError):
            picture(bad, tmp_path)


def test_data_files_are_known_by_their_hash(tmp_path):
    path = minis.hrbench_tsv(tmp_path / "hr_bench_4k.tsv")
    files = HRBench().files(tmp_path)
    assert files == (path,)
    assert digests(files) == {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    assert HRBench().files(tables.Path("hf:DreamMr/HR-Bench")) == ()


class FakeHub:
    """What ``datasets`` gives: rows by number, columns that can be removed."""

    def __init__(self, rows):
        self.rows = rows
        self.column_names = list(rows[0])

    def remove_columns(self, names):
        return [{k: v for k, v in row.items() if k not in names} for row in self.rows]

    def __getitem__(self, number):
        return self.rows[number]


@pytest.fixture
def hub():
    """The package ``datasets``, as far as it is used, and what was asked of it."""
    module, asked = ModuleType("datasets"), []

    def load_dataset(name, subset, *, split):
        asked.append((name, subset, split))
        if name == "nobody/nothing":
            raise OSError("no connection")
        rows = [row | {"image": minis.drawn(i)} for i, row in enumerate(minis.vstar_rows())]
        return FakeHub(rows)

    module.load_dataset = load_dataset
    before = sys.modules.get("datasets")
    sys.modules["datasets"] = module
    yield asked
    if before is None:
        del sys.modules["datasets"]
    else:
        sys.modules["datasets"] = before


def test_a_hub_name_loads_through_datasets(hub):
    tasks = VStar().tasks(tables.Path("hf:lmms-lab-encoder/vstar-bench"), "")
    assert [t.gold.answer for t in listed(tasks)] == ["B", "D", "A", "B", "A"]
    tables.open_table(tables.Path("hf:a/b/full@hrbench_4k"), ("image",))
    assert hub == [("lmms-lab-encoder/vstar-bench", None, "test"), ("a/b", "full", "hrbench_4k")]
    with pytest.raises(ConfigError, match="without a connection, download nobody/nothing"):
        VStar().tasks(tables.Path("hf:nobody/nothing"), "")


def test_a_hub_name_without_datasets_says_both_ways():
    hidden = sys.modules.get("datasets")
    sys.modules["datasets"] = None
    try:
        with pytest.raises(ConfigError, match=r"pip install datasets, or download a/b"):
            VStar().tasks(tables.Path("hf:a/b"), "")
    finally:
        if hidden is None:
            del sys.modules["datasets"]
        else:
            sys.modules["datasets"] = hidden


def test_rows_on_the_hub_have_no_videos():
    with pytest.raises(ConfigError, match=r"rows on the hub have no videos.*arkitscenes\.zip"):
        VSIBench().tasks(tables.Path("hf:nyu-visionx/VSI-Bench"), "")


def test_the_table_names_every_suite():
    assert set(MINE) <= set(TABLE)
    with pytest.raises(ConfigError, match="suite = 'vstarr' is not known"):
        find_suite("vstarr")
