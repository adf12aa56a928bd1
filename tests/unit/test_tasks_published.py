"""The published RL files are tasks as they are, in both shapes, and every fault has its number."""

from __future__ import annotations

import json
import logging
import re
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pyvision_rl.assemble import build_tasks
from pyvision_rl.config import PromptsConfig, TasksConfig
from pyvision_rl.config_file import load_config
from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.media import image_media
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.registry import parse_options
from pyvision_rl.rewards import build_rewarder
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.tasks.published import Options, entry_of
from pyvision_rl.tasks.records import Record
from pyvision_rl.tasks.survey import names_records, section_of
from pyvision_rl.types import Text
from tests.clips import counting, write_clip

RED = Image.new("RGB", (40, 30), (255, 0, 0))
QUESTION = "What is the glove made of?\n(A) rubber\n(B) cotton"


def raw(**fields: Any) -> dict[str, Any]:
    """A record as the sets of the authors hold it; None leaves a field out."""
    made = {
        "id": "0",
        "question": QUESTION,
        "answer": "A",
        "ability": "visual_search",
        "data_source": "deepeyes",
        "image_path": "images/red.png",
        **fields,
    }
    return {key: value for key, value in made.items() if value is not None}


def processed(kind: str = "image", path: str = "images/red.png", **fields: Any) -> dict[str, Any]:
    """A record as the authors' code converts it."""
    env = {"image": "pyvision_gym_w_image_hint", "video": "pyvision_gym_wo_video_hint"}
    line = "<image>\n" if kind == "image" else ""
    return {
        "prompt": [{"content": f"{line}Solve it.\n\n{QUESTION}\n", "role": "user"}],
        "data_source": "vstar",
        "ability": "visual_search",
        "env_name": env[kind],
        "reward_model": {"ground_truth": "A", "style": "model"},
        "extra_info": {"answer": "A", "index": 7, "question": QUESTION, "split": "train"},
        "mm_hint": {"hint_path": path, "hint_type": kind},
        **fields,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    RED.save(tmp_path / "images" / "red.png")
    return tmp_path


def write(folder: Path, *items: Any, name: str = "rl_data.json") -> Path:
    path = folder / name
    if path.suffix == ".json":
        path.write_text(json.dumps(list(items), indent=4))
    else:
        path.write_text("".join(f"{json.dumps(item)}\n" for item in items))
    return path


def tasks(path: Path, **options: Any) -> TaskSet:
    return build_tasks(TasksConfig(name="published", path=str(path), options=options))


@pytest.mark.parametrize("name", ["rl_data.json", "rl_data.jsonl"])
def test_both_shapes_are_tasks(folder: Path, name: str) -> None:
    found = tasks(write(folder, raw(), processed(), name=name))
    first, second = found[0], found[1]
    assert (first.id, second.id) == ("0", "7")
    for task, source in ((first, "deepeyes"), (second, "vstar")):
        assert task.input.question == QUESTION
        assert task.input.media == (image_media(RED),)
        assert (task.input.category, task.input.data_source) == ("visual_search", source)
        assert (task.gold.answer, task.gold.answer_type) == ("A", "auto")
    assert found[0] == first
    assert getattr(found, "data_sources")() == {"deepeyes", "vstar"}  # noqa: B009


def test_a_record_says_itself_how_its_answer_compares_and_what_it_is_about(folder: Path) -> None:
    own = raw(answer_type="text", category="digits", ability=None)
    path = write(folder, own)
    assert tasks(path)[0].gold.answer_type == "text"
    assert tasks(path)[0].input.category == "digits"
    # An option that is set counts for all, and nobody asks what else they say.
    assert tasks(path, answer_type="letter")[0].gold.answer_type == "letter"
    words = write(folder, raw(answer_type="words", category=["a"]))
    assert tasks(words, answer_type="letter")[0].input.category == "visual_search"
    with pytest.raises(TaskError, match="answer_type: is 'words'; allowed: "):
        tasks(words)


def test_videos_are_tasks_in_both_shapes(folder: Path) -> None:
    write_clip(folder / "film.mp4", counting(9))
    film = {"image_path": None, "video_path": "film.mp4", "data_source": "vsi", "answer": 4.5}
    found = tasks(write(folder, raw(**film), processed("video", "film.mp4")))
    for index in range(2):
        (media,) = found[index].input.media
        assert (media.kind, media.width, media.height) == ("video", 64, 48)
        assert media.video is not None
        assert media.video.num_frames == 9
    assert found[0].gold.answer == "4.5"


def test_a_whole_prompt_is_read_as_the_authors_code_shows_it(folder: Path) -> None:
    path = write(folder, processed())
    task = tasks(path, question="prompt")[0]
    (message,) = PromptBuilder(PromptsConfig(template="minimal")).prompt(task.input).messages
    texts = [part.text if isinstance(part, Text) else "<image>" for part in message.parts]
    content = processed()["prompt"][0]["content"]
    # Its loader puts the tags around the marker, and nothing else.
    assert "".join(texts) == content.replace("<image>", "<image_clue_0><image></image_clue_0>")


def test_a_marker_inside_a_question_is_no_image(folder: Path) -> None:
    question = "Where does <image> stand?"
    task = tasks(write(folder, raw(question=question)))[0]
    assert task.input.question == question
    assert len(task.input.media) == 1


def test_paths_start_where_the_options_say(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    path = write(elsewhere, raw(image_path="/cluster/disk/images/red.png"))
    with pytest.raises(TaskError, match=r"image_path: /cluster/disk/images/red\.png: no such file"):
        tasks(path)
    found = tasks(path, media_root=str(folder), drop_prefix="/cluster/disk")
    assert found[0].input.media == (image_media(RED),)
    # Taken off are whole folders.
    beside = write(elsewhere, raw(image_path="/cluster/disk2/images/red.png"))
    with pytest.raises(TaskError, match=r"/cluster/disk2/images/red\.png: no such file"):
        tasks(beside, media_root=str(folder), drop_prefix="/cluster/disk")
    absolute = write(elsewhere, raw(image_path=str(folder / "images" / "red.png")))
    assert len(tasks(absolute)) == 1


def test_several_images_keep_their_order(folder: Path) -> None:
    Image.new("RGB", (2, 2)).save(folder / "images" / "dot.png")
    paths = ["images/red.png", "images/dot.png"]
    (first, second) = tasks(write(folder, raw(image_path=paths)))[0].input.media
    assert (first.width, second.width) == (40, 2)


@pytest.mark.parametrize(
    ("ids", "names"),
    [("sourced", ["deepeyes/0", "minio3/0"]), ("numbered", ["1", "2"])],
)
def test_ids_that_two_sources_share_can_be_told_apart(
    folder: Path, ids: str, names: list[str]
) -> None:
    path = write(folder, raw(), raw(data_source="minio3"))
    with pytest.raises(TaskError, match=r"record 2 \(id 0\): id: that of record 1 too"):
        tasks(path)
    found = tasks(path, ids=ids)
    assert [found[index].id for index in range(2)] == names


@pytest.mark.parametrize(
    ("record", "key", "word"),
    [
        (raw(question=None), "question", "is missing"),
        (raw(answer=""), "answer", "is empty"),
        (raw(answer=["A"]), "answer", "wants text or a number"),
        (raw(answer=True), "answer", "wants text or a number"),
        (raw(id={"a": 1}), "id", "wants text or a number"),
        (raw(ability="\ud800"), "ability", "surrogate"),
        (raw(image_path="images/none.png"), "image_path", "no such file"),
        (raw(image_path=["images/red.png", ""]), "image_path[1]", "wants a path"),
        (raw(image_path=7), "image_path", "wants a path"),
        (raw(image_path="x" * 5000), "image_path", "no such file"),
        (raw(image_path="a\0b"), "image_path", "no such file"),
        (raw(image="images/red.png"), "image", "stands beside image_path"),
        (raw(image_path=None, image="images/red.png", images=[]), "image", "stands beside images"),
        (processed(image="images/red.png"), "image[0]", "stands beside mm_hint"),
        (processed(extra_info=None), "extra_info.question", "is missing"),
        (processed(extra_info=[1]), "extra_info", "is a list, wants an object"),
        (processed(reward_model={"style": "model"}), "reward_model.ground_truth", "is missing"),
        (processed(reward_model={"ground_truth": "B"}), "extra_info.answer", "but reward_model"),
        (processed("image", "none.png"), "mm_hint.hint_path", "no such file"),
        (processed(mm_hint={"hint_path": "a"}), "mm_hint.hint_type", "allowed: image, video"),
        (processed(mm_hint={"hint_type": "image"}), "mm_hint.hint_path", "is None, wants a path"),
    ],
)
def test_each_fault_names_its_file_record_and_key(
    folder: Path, record: dict[str, Any], key: str, word: str
) -> None:
    path = write(folder, raw(id="good"), record)
    with pytest.raises(TaskError) as caught:
        tasks(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 1 fault"
    assert lines[1].startswith("  record 2")
    assert f": {key}: " in lines[1]
    assert word in lines[1]


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        (None, "wants a list of one message"),
        ([], "wants a list of one message"),
        ([{"role": "system", "content": "a"}], "wants a list of one message"),
        ([{"role": "user", "content": 3}], "wants text"),
    ],
)
def test_a_prompt_that_cannot_be_taken_whole_is_a_fault(
    folder: Path, prompt: Any, word: str
) -> None:
    with pytest.raises(TaskError, match=word):
        tasks(write(folder, processed(prompt=prompt)), question="prompt")
    with pytest.raises(TaskError, match="is missing"):
        tasks(write(folder, raw()), question="prompt")


def test_faulty_records_are_left_out_only_if_asked_and_counted(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(folder, raw(id="a"), raw(id="b", image_path="none.png"), 3, raw(id="c"))
    with caplog.at_level(logging.WARNING):
        found = tasks(path, skip_faulty=True)
    assert [found[index].id for index in range(len(found))] == ["a", "c"]
    assert "2 of 4 records are faulty and left out" in caplog.text
    with pytest.raises(TaskError, match="holds no tasks"):
        tasks(write(folder, 3), skip_faulty=True)


def test_a_limit_reads_no_further(folder: Path) -> None:
    path = folder / "rl_data.json"
    path.write_text(json.dumps([raw(id="a"), raw(id="b")])[:-1] + ", nonsense")
    section = TasksConfig(name="published", path=str(path), limit=2)
    assert len(build_tasks(section)) == 2


def test_a_medium_that_is_gone_later_names_its_record(folder: Path) -> None:
    path = write(folder, raw())
    found = tasks(path)
    (folder / "images" / "red.png").unlink()
    with pytest.raises(TaskError, match=r"rl_data.json record 1 \(id 0\): image_path: .*no such"):
        found[0]
    (folder / "images" / "red.png").write_text("no image")
    with pytest.raises(TaskError, match=r"record 1 \(id 0\): .*not a readable image"):
        found[0]


@pytest.mark.parametrize(
    ("path", "options", "word"),
    [
        ("", {}, "tasks.path is empty"),
        ("no.json", {}, "no such file"),
        ("no.json", {"media_rot": "x"}, "did you mean 'media_root'"),
        ("no.json", {"ids": "odd"}, "tasks.options.ids"),
        ("no.json", {"answer_type": "word"}, "tasks.options.answer_type"),
    ],
)
def test_bad_options_are_named_before_anything_is_read(
    path: str, options: dict[str, Any], word: str
) -> None:
    with pytest.raises(ConfigError, match=word):
        build_tasks(TasksConfig(name="published", path=path, options=options))


def encoded(image: Image.Image) -> bytes:
    stream = BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


IMAGE_COLUMNS = [
    ("image", {"bytes": encoded(RED), "path": None}),
    ("image", {"bytes": None, "path": "images/red.png"}),
    ("image", {"bytes": encoded(RED), "path": "gone.png"}),
    ("image", encoded(RED)),
    ("image", "images/red.png"),
    ("image", [{"bytes": encoded(RED), "path": None}]),
    ("images", [{"bytes": encoded(RED), "path": "a.png"}]),
    ("images", ["images/red.png"]),
]


@pytest.mark.parametrize("name", ["published", "parquet"])
@pytest.mark.parametrize(("column", "value"), IMAGE_COLUMNS, ids=range(len(IMAGE_COLUMNS)))
def test_each_form_of_an_image_column_is_read(
    folder: Path, name: str, column: str, value: Any
) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    rows = [{"id": str(n), "question": QUESTION, "answer": "A", column: value} for n in range(3)]
    path = folder / "rl.parquet"
    parquet.write_table(arrow.Table.from_pylist(rows), path, row_group_size=2)
    found = build_tasks(TasksConfig(name=name, path=str(path)))
    assert [found[index].input.media for index in (2, 0)] == [(image_media(RED),)] * 2


def test_processed_records_of_parquet_are_tasks(folder: Path) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    path = folder / "rl.parquet"
    parquet.write_table(arrow.Table.from_pylist([processed()]), path)
    assert tasks(path)[0].input.media == (image_media(RED),)
    assert tasks(path, question="prompt")[0].input.question == f"Solve it.\n\n{QUESTION}\n"


@pytest.mark.parametrize(
    "columns",
    [{"images": ["images/red.png"]}, {"image": "images/red.png"}, {"image_path": "images/red.png"}],
    ids=str,
)
def test_a_processed_record_without_a_hint_has_the_picture_of_its_column(
    folder: Path, columns: dict[str, Any]
) -> None:
    path = write(folder, processed(mm_hint=None, **columns))
    assert tasks(path)[0].input.media == (image_media(RED),)


def test_a_processed_table_with_pictures_in_a_column_is_read(folder: Path) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    held = {"bytes": (folder / "images" / "red.png").read_bytes(), "path": None}
    record = processed(mm_hint=None, images=[held])
    parquet.write_table(arrow.Table.from_pylist([record]), folder / "rl.parquet")
    assert tasks(folder / "rl.parquet")[0].input.media == (image_media(RED),)


def test_a_video_in_a_row_itself_is_refused(folder: Path) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    path = folder / "rl.parquet"
    rows = [{"question": "?", "answer": "A", "video": {"bytes": b"abc", "path": "a.mp4"}}]
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    with pytest.raises(TaskError, match=r"record 1 .*video.*given as bytes"):
        tasks(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=3),
    max_leaves=6,
)
KEYS = sorted({*raw(), *processed(), "video_path", "image", "images", "video", "videos"})
ODD = st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON))
CHANGED = st.builds(
    lambda whole, part: {**whole, **part}, st.sampled_from([raw(), processed()]), ODD
)


@settings(max_examples=150, deadline=None)
@given(record=ODD | CHANGED, question=st.sampled_from(["question", "prompt"]))
def test_no_record_crashes_the_reader(record: dict[str, Any], question: str) -> None:
    options = parse_options(Options, {"question": question}, "tasks.options")
    entry = entry_of(Record(3, record), Path("/none/file.json"), options)
    assert entry.row is not None
    assert all(fault.line == 3 and fault.key for fault in entry.faults)
    for text in chain.from_iterable((f.key, f.message, f.id, str(f)) for f in entry.faults):
        text.encode()  # it can be shown
    if not entry.faults:
        assert entry.row.question.strip()
        assert entry.row.answer.strip()


@settings(max_examples=30, deadline=None)
@given(records=st.lists(ODD | st.sampled_from([raw(), processed()]) | JSON, max_size=8))
def test_every_faulty_record_is_counted_once(
    tmp_path_factory: pytest.TempPathFactory, records: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("p")
    path = write(folder, *[json.loads(json.dumps(record)) for record in records])
    (folder / "images").mkdir()
    RED.save(folder / "images" / "red.png")
    try:
        good = len(tasks(path, skip_faulty=True, ids="numbered"))
    except TaskError:
        good = 0
    sound = [
        isinstance(record, dict) and not entry_of(Record(1, record), path, Options()).faults
        for record in records
    ]
    assert good == sum(sound)


def test_a_file_alone_is_read_in_the_shape_that_it_has(folder: Path) -> None:
    assert section_of(write(folder, raw())).name == "published"
    assert section_of(write(folder, processed(), name="a.jsonl")).name == "published"
    plain = {"question": "?", "answer": "1", "image": "images/red.png"}
    assert section_of(write(folder, plain, name="b.jsonl")).name == "jsonl"
    section = section_of(write(folder, plain, name="b.jsonl"), "/data")
    assert (section.name, section.options) == ("published", {"media_root": "/data"})
    assert names_records(write(folder, raw()))
    (folder / "run.json").write_text('{"a": [1]}')
    assert not names_records(folder / "run.json")
    assert not names_records(folder / "none.json")


def test_the_configs_of_the_page_on_data_load(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "data.md"
    blocks = re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        (tmp_path / "c.toml").write_text(block)
        config = load_config(tmp_path / "c.toml")
        if config.tasks is not None:
            assert config.tasks.name == "published"
            parse_options(Options, config.tasks.options, "tasks.options")
        build_rewarder(config.rewards)


def test_every_option_is_on_the_page_on_data() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert set(named) == set(Options.model_fields)
