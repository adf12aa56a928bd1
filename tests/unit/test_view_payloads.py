"""What the page is given is what the records hold, and can act on nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.types import (
    ExecStatus,
    Execution,
    ImageSource,
    Media,
    Message,
    Reward,
    Task,
    Text,
    Trajectory,
    VideoFrames,
)
from pyvision_rl.view.crops import first_names
from pyvision_rl.view.payloads import Shelf, Writer
from pyvision_rl.view.scripts import literal, script
from tests.view_example import HOSTILE, looking, scene, watching

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def payload_of(made: bytes, name: str) -> Any:
    """What a data file gives, read as a JSON parser reads it."""
    text = made.decode("ascii")
    head = f"window.PVRL.give({literal(name)}, "
    assert text.startswith(head)
    assert text.endswith(");\n")
    return json.loads(text.removeprefix(head).removesuffix(");\n"))


@given(st.text() | JSON)
def test_any_value_comes_through_a_script_element_unchanged(value: Any) -> None:
    made = script("c000001-00", value)
    # Infinities are no JSON: they come as texts, which is tested below.
    if "inf" not in repr(value):
        assert payload_of(made, "c000001-00") == value
    assert not set(b"<>&") & set(made)


@given(st.text(alphabet="</scriptSCRIPT!->\u2028\u2029\ud800\x00\"'\\", max_size=40))
def test_no_text_ends_its_script_or_opens_a_comment(text: str) -> None:
    made = script(text, {text: text}).decode("ascii")
    assert "</script" not in made.lower()
    assert "<!--" not in made
    assert "\u2028" not in made
    assert payload_of(made.encode(), text) == {text: text}


def test_numbers_that_are_not_finite_come_as_texts() -> None:
    value = {"a": [math.nan, math.inf, (-math.inf, 1.5)], "b": "x"}
    assert json.loads(literal(value)) == {"a": ["nan", "inf", ["-inf", 1.5]], "b": "x"}


@pytest.fixture
def writer(tmp_path) -> Writer:
    return Writer(Shelf(tmp_path), {})


def saved(task: Task, trajectory: Trajectory, **more: Any) -> SavedRollout:
    return SavedRollout(task, trajectory, **more)


def test_a_trajectory_is_given_whole(writer: Writer) -> None:
    task, trajectories = looking(11)
    [group] = writer.chunk(
        3,
        [(7, saved(task, trajectories[0], advantage=0.25, reason="surplus"))],
        stds=[None] * 7 + [0.5],
        ranks=[None] * 7 + [2],
    )["groups"]
    [t] = group.pop("trajectories")
    [picture] = task.input.media
    whole = {
        "sha": picture.sha256,
        "kind": "image",
        "width": 640,
        "height": 420,
        "here": False,
        "video": None,
    }
    assert group == {
        "group": 7,
        "task": {
            "id": "needle-11",
            "question": "Which digit is on the white card?",
            "category": "hard",
            "source": "needle",
            "gold": "1",
            "answer_type": "integer",
            "facts": {},
            "media": [whole],
        },
        "std": 0.5,
        "std_rank": 2,
    }
    assert (t["rollout"], t["end"], t["answer"], t["error"]) == (0, "answered", "1", "")
    assert (t["reward"], t["advantage"], t["kept"], t["reason"]) == (None, 0.25, False, "surplus")
    # One visual token per 28 x 28 pixels: 640 x 420 is 23 x 15 of them.
    assert t["prompted"]["visual"] == 23 * 15
    assert {"image": whole} in t["prompt"][0]["parts"]
    first, _, third = t["turns"]
    assert first["text"] == trajectories[0].turns[0].text
    assert first["action"]["kind"] == "code"
    assert first["execution"]["output"] == "(60, 40)\n"
    assert first["execution"]["parts"] == ["(60, 40)\n", 0]
    assert third["action"] == {"kind": "answer", "answer": "1"}
    assert third["execution"] is None
    assert third["observation"] is None
    # Whatever a page does with it, it can be written down.
    assert json.loads(literal(t)) == json.loads(json.dumps(t))


def test_a_crop_is_placed_on_the_picture_it_was_cut_from(writer: Writer) -> None:
    task, trajectories = looking(11)
    _, box = scene(11)
    turns = writer.trajectory(saved(task, trajectories[0]))["turns"]
    [first], [second] = (turns[k]["execution"]["images"] for k in (0, 1))
    assert first["name"] == "image_clue_1"
    assert first["crop"]["name"] == "image_clue_0"
    assert (first["crop"]["of"], first["crop"]["verified"]) == (0, True)
    assert first["crop"]["box"] == list(box)
    # Of the picture shown before, which is no medium of the task.
    assert second["name"] == "image_clue_2"
    assert (second["crop"]["of"], second["crop"]["verified"]) == (None, False)
    assert second["crop"]["media"]["sha"] == first["sha"]
    assert second["crop"]["box"] == [60, 30, 180, 130]


@pytest.mark.parametrize(
    "source",
    [
        ImageSource("image_clue_0", (0, 0, 641, 10)),
        ImageSource("image_clue_0", (-1, 0, 10, 10)),
        ImageSource("image_clue_0", (10, 10, 10, 20)),
        ImageSource("image_clue_1", (0, 0, 5, 5)),
        ImageSource("nothing", (0, 0, 5, 5)),
        ImageSource("video_clue_0", (0, 0, 5, 5)),
        None,
    ],
)
def test_a_box_that_lies_nowhere_is_not_drawn(writer: Writer, source: ImageSource | None) -> None:
    task, trajectories = looking(11)
    turn = trajectories[0].turns[0]
    assert turn.execution is not None
    ran = replace(turn.execution, sources=(source,))
    changed = replace(trajectories[0], turns=(replace(turn, execution=ran),))
    [told] = writer.trajectory(saved(task, changed))["turns"]
    assert told["execution"]["images"][0]["crop"] is None


def test_frames_name_the_video_among_the_media_of_the_task(writer: Writer) -> None:
    task, trajectories = watching("door")
    record = writer.trajectory(saved(task, trajectories[0]))
    ran = record["turns"][1]["execution"]
    frames = list(range(112, 124))
    # An image comes first: the video is the second medium.
    more = {"name": "video_clue_0", "of": 1}
    assert ran["images"][0]["frames"] == {**more, "numbers": frames, "num_left_out": 0}
    assert ran["fetched"] == [{**more, "numbers": frames, "num_left_out": 3}]
    group = writer.chunk(1, [(0, saved(task, trajectories[0]))], [None], [None])["groups"][0]
    video = group["task"]["media"][1]
    assert video["video"] == {"frames": 240, "fps": 24.0, "seconds": 10.0, "file": None}
    assert not video["here"]


def picture(seed: int) -> Media:
    return scene(seed, 80, 60)[0]


def test_names_follow_the_order_in_which_prompts_bind() -> None:
    task = watching("door")[0].input
    image, _ = task.media
    frames = (picture(1), picture(2))
    prompt = (Message("user", (Text("look"), image, *frames)),)
    names = first_names(task, prompt)
    assert [names[f"image_clue_{k}"].media for k in range(3)] == [image, *frames]
    assert [names[f"image_clue_{k}"].place for k in range(3)] == [0, None, None]
    assert names["video_clue_0"].place == 1
    # Images that only code sees are bound all the same.
    hidden = first_names(task, (Message("user", (Text("look"),)),))
    assert list(hidden) == ["image_clue_0", "video_clue_0"]


def test_failed_and_ungraded_are_no_zeros(writer: Writer) -> None:
    task, trajectories = watching("door")
    failed = writer.trajectory(saved(task, trajectories[3], reason="infra"))
    assert (failed["reward"], failed["advantage"], failed["weights_step"]) == (None, None, None)
    assert failed["error"] == "SandboxError: the zygote ended"
    assert failed["turns"] == []


def test_a_grade_says_what_decided_it(writer: Writer) -> None:
    task, trajectories = looking(11)
    grade = Reward({"accuracy": 1.0, "tool_use": 0.5}, True, "equal integers", "judge")
    gold = replace(task.gold, facts={"options": ("a", "b")})
    known = replace(task, gold=gold)
    chunk = writer.chunk(1, [(0, saved(known, replace(trajectories[2], reward=grade)))], [0], [1])
    [group] = chunk["groups"]
    assert group["task"]["facts"] == {"options": ("a", "b")}
    assert group["trajectories"][0]["reward"] == {
        "total": 1.5,
        "parts": {"accuracy": 1.0, "tool_use": 0.5},
        "correct": True,
        "why": "equal integers",
        "rung": "judge",
    }


def test_hostile_text_stays_as_it_was_written(writer: Writer) -> None:
    task, trajectories = looking(11)
    ran = Execution(ExecStatus.RAISED, HOSTILE, HOSTILE)
    turn = replace(trajectories[0].turns[0], text=HOSTILE, execution=ran)
    record = writer.trajectory(saved(task, replace(trajectories[0], turns=(turn,))))
    made = script("c000001-00", record)
    [told] = payload_of(made, "c000001-00")["turns"]
    assert told["text"] == told["execution"]["output"] == told["execution"]["error"] == HOSTILE


def test_a_picture_says_whether_its_file_is_there(tmp_path) -> None:
    media = picture(3)
    writer = Writer(Shelf(tmp_path), {})
    assert not writer.media(media)["here"]
    (tmp_path / f"{media.sha256}.png").write_bytes(b"")
    assert writer.media(media)["here"]


def test_frames_of_a_name_that_is_not_known_are_told_without_a_place(writer: Writer) -> None:
    task, trajectories = watching("door")
    turn = trajectories[0].turns[0]
    assert turn.execution is not None
    ran = replace(turn.execution, fetched=(VideoFrames("other", (1, 2)),))
    changed = replace(trajectories[0], turns=(replace(turn, execution=ran),))
    [told] = writer.trajectory(saved(task, changed))["turns"]
    assert told["execution"]["fetched"][0]["of"] is None
