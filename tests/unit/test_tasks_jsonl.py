"""Task files are read whole or refused with every fault named by its line."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pyvision_rl.config import TasksConfig
from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.media import image_media, open_image
from pyvision_rl.tasks import rows
from pyvision_rl.tasks.jsonl import JsonlTasks, scan
from pyvision_rl.tasks.pairs import read_pairs
from pyvision_rl.tasks.parquet import ParquetRows
from pyvision_rl.types import Media, Text, VideoFacts
from tests.clips import counting, write_clip

RED = Image.new("RGB", (4, 3), (255, 0, 0))
BLUE = Image.new("RGB", (2, 5), (0, 0, 255))

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes lines (objects as JSON, text as it is) beside ``red.png`` and ``sub/blue.png``."""
    RED.save(tmp_path / "red.png")
    (tmp_path / "sub").mkdir()
    BLUE.save(tmp_path / "sub" / "blue.png")

    def lines(*items: Any, name: str = "tasks.jsonl") -> Path:
        texts = [item if isinstance(item, str) else json.dumps(item) for item in items]
        path = tmp_path / name
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        return path

    return lines


def row(**fields: Any) -> dict[str, Any]:
    return {"question": "what colour?", "answer": "red", **fields}


def tasks(path: Path, **config: Any) -> JsonlTasks:
    return JsonlTasks(TasksConfig(path=str(path), **config))


def faults(path: Path) -> list[tuple[int, str]]:
    return [(fault.line, fault.message) for fault in scan(path)]


def encoded(image: Image.Image) -> bytes:
    stream = BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def test_a_full_row_becomes_a_task_with_its_gold_apart(write: Write) -> None:
    path = write(
        row(
            id="q1",
            images=["red.png", "sub/blue.png"],
            answer_type="letter",
            category="colour",
            data_source="unit",
        )
    )
    task = tasks(path)[0]
    assert (task.id, task.input.question) == ("q1", "what colour?")
    assert (task.input.category, task.input.data_source) == ("colour", "unit")
    assert task.input.media == (image_media(RED), image_media(BLUE))
    assert open_image(task.input.media[1]).tobytes() == BLUE.tobytes()
    assert (task.gold.answer, task.gold.answer_type) == ("red", "letter")


def test_optional_fields_have_their_defaults(write: Write) -> None:
    task = tasks(write("", row(image="red.png", anything=[1, 2])))[0]
    assert task.id == "2"
    assert (task.input.category, task.input.data_source) == ("", "")
    assert task.input.media == (image_media(RED),)
    assert task.gold.answer_type == "auto"


@pytest.mark.parametrize("key", ["image_path", "video_path", "mm_hint"])
def test_media_of_a_published_record_are_not_passed_over(write: Write, key: str) -> None:
    path = write("", row(**{key: "red.png"}), row(**{key: None}))
    assert faults(path) == [
        (2, f'{key}: is of a published record, which tasks.name = "published" reads')
    ]
    with pytest.raises(TaskError, match=key):
        tasks(path)
    # Beside media of its own it is a column like any other.
    assert not faults(write(row(image="red.png", **{key: "elsewhere.png"})))


@pytest.mark.parametrize(("answer", "text"), [(7, "7"), (-0.5, "-0.5"), ("07", "07"), (0, "0")])
def test_numbers_are_answers_too(write: Write, answer: Any, text: str) -> None:
    assert tasks(write(row(answer=answer)))[0].gold.answer == text


def test_the_same_index_gives_the_same_task(write: Write) -> None:
    found = tasks(write(row(image="red.png"), row(image="sub/blue.png")))
    assert len(found) == 2
    assert found[1] == found[1]
    assert [found[i].id for i in range(len(found))] == ["1", "2"]


@pytest.mark.parametrize("index", [-1, 1])
def test_there_is_no_task_beyond_the_end(write: Write, index: int) -> None:
    with pytest.raises(IndexError):
        tasks(write(row()))[index]


def test_limit_keeps_the_first_rows_and_reads_no_further(write: Write) -> None:
    found = tasks(write(row(id="a"), row(id="b"), "not json"), limit=2)
    assert [found[i].id for i in range(len(found))] == ["a", "b"]


def test_every_fault_is_listed_with_its_line(write: Write) -> None:
    path = write(
        row(id="ok", image="red.png"),
        "{not json",
        "[1, 2]",
        row(question="  "),
        {"question": "q"},
        row(id="ok"),
        row(image="gone.png", answer_type="choice"),
        row(image="tasks.jsonl"),
        row(answer=True),
        row(id=["x"]),
        row(image=3),
        row(image="red.png", images=["red.png"]),
        row(video="a.mp4", image="red.png"),
        row(images=["red.png", "gone.png"]),
        '{"question": "q", "answer": NaN}',
        '{"question": "\\ud800", "answer": "a"}',
        row(id="7"),
    )
    found = faults(path)
    wanted = [
        (2, "not JSON"),
        (3, "a list, wants an object"),
        (4, "question is empty"),
        (5, "answer is missing"),
        (6, "id is already used on line 1"),
        (7, "answer_type is 'choice'; allowed: auto, text"),
        (7, "gone.png: no such file"),
        (8, "tasks.jsonl: not a readable image"),
        (9, "answer is True, wants text or a number"),
        (10, "id is ['x'], wants text or a number"),
        (11, "image 3 is neither a path nor encoded bytes"),
        (12, "both image and images"),
        (13, "a.mp4: no such file"),
        (14, "gone.png: no such file"),
        (15, "answer is nan, wants a finite number"),
        (16, "question holds half of a surrogate pair"),
        (17, "id is already used on line 7"),
    ]
    assert [line for line, _ in found] == [line for line, _ in wanted]
    for (_, message), (_, part) in zip(found, wanted, strict=True):
        assert part in message


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A folder with ``whole.mp4``, ``cut.mp4`` and ``bad.mp4``."""
    whole = write_clip(tmp_path / "whole.mp4", counting(50), index_first=True)
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:2400])
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    return tmp_path


def test_videos_stand_behind_the_images_with_their_facts(write: Write, films: Path) -> None:
    path = write(
        row(video="whole.mp4"),
        row(videos=["whole.mp4", "cut.mp4"], image="red.png"),
        row(videos=[]),
    )
    one, several, none = (tasks(path)[i].input.media for i in range(3))
    (film,) = one
    assert film.video == VideoFacts(50, 8.0, 6.25)
    assert (film.width, film.height, film.source) == (64, 48, films / "whole.mp4")
    assert several[:2] == (image_media(RED), film)
    assert [m.kind for m in several] == ["image", "video", "video"]
    assert none == ()


def test_every_faulty_video_is_listed_with_its_line(write: Write, films: Path) -> None:
    path = write(
        row(video="whole.mp4"),
        row(videos=["whole.mp4", "gone.mp4", "bad.mp4"]),
        row(video="cut.mp4"),
        row(video=7),
        row(video="whole.mp4", videos=["whole.mp4"]),
        row(video="."),
    )
    found = faults(path)
    wanted = [
        (2, "gone.mp4: no such file"),
        (2, "bad.mp4: it is not a video"),
        (3, "cut.mp4: it is cut short"),
        (4, "video 7 is not a path"),
        (5, "both video and videos are given"),
        (6, "not a regular file"),
    ]
    assert [line for line, _ in found] == [line for line, _ in wanted]
    for (_, message), (_, part) in zip(found, wanted, strict=True):
        assert part in message


def test_a_bad_video_is_named_with_its_line_when_its_task_is_made(
    write: Write, films: Path
) -> None:
    found = tasks(write(row(), row(id="x", video="bad.mp4")))
    assert found[0].input.media == ()
    with pytest.raises(TaskError, match=r"line 2 \(id x\): .*bad\.mp4: it is not a video"):
        found[1]


def test_without_av_videos_are_refused_before_work(
    write: Write, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert len(tasks(write(row()))) == 1
    with pytest.raises(ConfigError, match=r"pyvision-rl\[video\]"):
        tasks(write(row(video="whole.mp4")))


def test_a_clean_file_has_no_faults(write: Write) -> None:
    assert scan(write(row(image="red.png"), row(images=[]), row(image=None))) == []


def test_a_file_that_is_not_utf8_is_a_fault_of_that_line(write: Write) -> None:
    path = write(row())
    path.write_bytes(path.read_bytes() + b'{"question": "\xff"}\n')
    assert faults(path)[0][0] == 2
    assert "not UTF-8" in faults(path)[0][1]


def test_a_byte_order_mark_is_ignored(write: Write) -> None:
    path = write(row())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert scan(path) == []


def test_a_faulty_file_gives_no_tasks_and_counts_its_faults(write: Write) -> None:
    path = write(*(row(question="") for _ in range(9)))
    with pytest.raises(TaskError) as error:
        tasks(path)
    assert "9 faults" in str(error.value)
    assert "line 1 (id 1): question is empty" in str(error.value)
    assert "and 4 more" in str(error.value)


def test_missing_images_are_found_at_the_start_and_broken_ones_when_opened(write: Write) -> None:
    with pytest.raises(TaskError, match=r"gone\.png"):
        tasks(write(row(image="gone.png")))
    path = write(row(id="q"), row(id="x", image="tasks.jsonl"))
    with pytest.raises(TaskError, match=r"line 2 \(id x\): .*not a readable image"):
        tasks(path)[1]


def test_an_empty_file_is_refused(write: Write) -> None:
    with pytest.raises(TaskError, match="no tasks"):
        tasks(write(""))


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({"path": ""}, "tasks.path is empty"),
        ({"path": "gone.jsonl"}, "no such file"),
        ({"path": "tasks.csv"}, "allowed: .jsonl, .parquet"),
        ({"path": "gone.jsonl", "options": {"shuffle": True}}, "tasks.options.shuffle"),
    ],
)
def test_a_wrong_config_is_named(config: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as error:
        JsonlTasks(TasksConfig(**config))
    assert part in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(st.dictionaries(st.sampled_from(rows.FIELDS), JSON), min_size=1, max_size=4))
@example([{"question": "q", "answer": "a", "videos": ["\x00"]}])
@example([{"question": "q", "answer": "a", "videos": ["\ud800"]}])
@example([{"question": "q", "answer": "a", "images": ["\x00"]}])
@example([{"question": "q", "answer": "a", "images": ["\ud800"]}])
def test_any_rows_give_tasks_or_faults(write: Write, items: list[dict[str, Any]]) -> None:
    path = write(*items, name="any.jsonl")
    if scan(path):
        with pytest.raises(TaskError):
            tasks(path)
    else:
        found = tasks(path)
        assert [found[i].input.question for i in range(len(found))] == [
            item["question"] for item in items
        ]


def parquet(path: Path, items: Sequence[dict[str, Any]], group: int = 2) -> Path:
    arrow = pytest.importorskip("pyarrow")
    writer = pytest.importorskip("pyarrow.parquet")
    writer.write_table(arrow.Table.from_pylist(list(items)), path, row_group_size=group)
    return path


def test_parquet_images_may_be_structs_in_the_file(tmp_path: Path) -> None:
    images = [RED, BLUE, RED, BLUE, BLUE]
    path = parquet(
        tmp_path / "a.parquet",
        [row(id=i, image={"bytes": encoded(im), "path": None}) for i, im in enumerate(images)],
    )
    found = tasks(path)
    # Out of order, so that row groups are left and entered again.
    for index in (4, 0, 3, 1, 2):
        assert found[index].id == str(index)
        assert found[index].input.media == (image_media(images[index]),)


def test_one_picture_costs_the_memory_of_one_row(tmp_path: Path) -> None:
    size = 100_000
    rows = [row(id=i, image=bytes([i]) * size) for i in range(200)]
    found = ParquetRows(parquet(tmp_path / "a.parquet", rows, group=200))
    tracemalloc.start()
    assert found.fields(151)["image"] == bytes([150]) * size
    # Python's objects only: Arrow keeps the row group outside.
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * size


@pytest.mark.parametrize(("kept_bytes", "kept"), [(1_000_000, True), (150_000, False), (0, False)])
def test_row_groups_stay_in_memory_within_a_bound(
    tmp_path: Path, kept_bytes: int, kept: bool
) -> None:
    noise = np.random.default_rng(0)
    rows = [row(id=i, image=noise.bytes(100_000)) for i in range(4)]
    path = parquet(tmp_path / "a.parquet", rows, group=1)
    found = ParquetRows(path, kept_bytes)
    for line in (1, 2, 3, 4):
        assert found.fields(line)["image"] == rows[line - 1]["image"]
    path.write_bytes(b"")  # what is not in memory cannot be read again
    if kept:
        assert found.fields(1)["image"] == rows[0]["image"]
    else:
        with pytest.raises(TaskError, match="row group 0 cannot be read"):
            found.fields(1)


def test_a_row_group_above_the_bound_is_not_read_for_every_row(tmp_path: Path) -> None:
    rows = [row(id=i, image=bytes(100) * i) for i in range(4)]
    path = parquet(tmp_path / "a.parquet", rows, group=4)
    found = ParquetRows(path, kept_bytes=10)
    assert found.fields(1)["image"] == b""
    path.write_bytes(b"")
    assert found.fields(4)["image"] == bytes(300)


def test_parquet_images_may_be_bytes_or_paths_in_lists(write: Write, tmp_path: Path) -> None:
    write()
    inside = parquet(tmp_path / "a.parquet", [row(images=[encoded(RED), encoded(BLUE)]), row()])
    outside = parquet(tmp_path / "b.parquet", [row(images=["red.png", "sub/blue.png"])])
    for path in (inside, outside):
        assert tasks(path)[0].input.media == (image_media(RED), image_media(BLUE))
    assert tasks(inside)[1].input.media == ()


def test_parquet_faults_name_the_row(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet",
        [row(image=encoded(RED)), row(image=encoded(RED), answer=" "), row(image=b"junk")],
    )
    found = faults(path)
    assert [line for line, _ in found] == [2, 3]
    assert "not a readable image" in found[1][1]


def test_parquet_videos_are_paths(tmp_path: Path, films: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet",
        [
            row(videos=[{"bytes": None, "path": "whole.mp4"}]),
            row(videos=[{"bytes": b"....ftyp", "path": "whole.mp4"}]),
            row(videos=None),
        ],
    )
    assert faults(path) == [(2, "a video is given as bytes; write it to a file and give its path")]
    good = parquet(tmp_path / "b.parquet", [row(video="whole.mp4"), row(video=None)])
    assert tasks(good)[0].input.media[0].source == films / "whole.mp4"
    assert tasks(good)[1].input.media == ()


def test_a_file_that_only_claims_to_be_parquet_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(ConfigError, match="not a Parquet file"):
        tasks(tmp_path / "a.parquet")


def test_pairs_put_each_image_at_its_marker(write: Write) -> None:
    path = write(
        {"prompt": "a <image> b<image>", "images": ["red.png", "sub/blue.png"], "target": "t"},
        {"prompt": "c?", "images": ["red.png"], "target": "u", "raw": True},
        {"prompt": "d?", "target": "v"},
    )
    first, second, third = read_pairs(path)
    red, blue = image_media(RED), image_media(BLUE)
    assert first.parts == (Text("a "), red, Text(" b"), blue)
    assert (second.parts, second.target, second.raw) == ((red, Text("c?")), "u", True)
    assert (third.parts, third.raw) == ((Text("d?"),), False)
    media = first.parts[1]
    assert isinstance(media, Media)
    assert open_image(media).tobytes() == RED.tobytes()


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"prompt": "<image><image>", "images": ["red.png"]}, "2 <image> for 1 images"),
        ({"prompt": "q", "images": ["gone.png"]}, "gone.png: no such file"),
        ({"prompt": "q", "target": ""}, "target is ''"),
        ({"prompt": 3}, "prompt is 3"),
        ({"prompt": "q", "raw": "yes"}, "raw is 'yes'"),
        ({"prompt": "q", "images": "red.png"}, "wants a list of paths"),
        ({"prompt": "q", "image": "red.png"}, "unknown field 'image'"),
        ({"prompt": ""}, "prompt is empty"),
    ],
)
def test_a_faulty_pair_is_named_by_its_line(
    write: Write, fields: dict[str, Any], part: str
) -> None:
    path = write({"prompt": "q", "target": "t"}, {"target": "t", **fields})
    with pytest.raises(TaskError) as error:
        read_pairs(path)
    assert "line 2" in str(error.value)
    assert part in str(error.value)


def test_pair_files_must_be_there_and_hold_pairs(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_pairs(tmp_path / "gone.jsonl")
    with pytest.raises(TaskError, match="no pairs"):
        read_pairs(write(""))
