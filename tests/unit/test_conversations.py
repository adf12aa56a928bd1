"""Conversations keep their words and masks on the way to tokens, to files and back."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from pyvision_rl.checks.sft import check_conversations
from pyvision_rl.cli.main import app
from pyvision_rl.collect import run_rollout
from pyvision_rl.config import Config
from pyvision_rl.conversations import Conversation, learnable, render, spoken, turn_of
from pyvision_rl.errors import ConfigError, RunError, TaskError
from pyvision_rl.media import image_media
from pyvision_rl.rendering.chars import CharsRenderer
from pyvision_rl.runs import RunReader, RunWriter
from pyvision_rl.sft_format import (
    read_conversations,
    scan_conversations,
    write_conversations,
)
from pyvision_rl.types import Message, Segment, StopReason, Text

RENDERER = CharsRenderer()
CODE = "<code>\n```python\nplt.show()\n```\n</code>"
SHOWN = "<interpreter>\nImage Result:\n<image_clue_1><image></image_clue_1>\n</interpreter>"
ANSWER = "<answer>\n\\boxed{7}\n</answer>"


def user(text: str) -> Message:
    return Message("user", (Text(text),))


def record(**changes: Any) -> dict[str, Any]:
    return {
        "conversations": [
            {"from": "human", "value": "<image_clue_0><image></image_clue_0>\n\nWhich digit?"},
            {"from": "gpt", "value": f"I look. {CODE}"},
            {"from": "human", "value": SHOWN},
            {"from": "gpt", "value": ANSWER},
        ],
        "images": ["a.png", "b.png"],
        "source_dataset": "mmpr",
        **changes,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (28, 28), colour).save(tmp_path / name)
    return tmp_path


def written(folder: Path, *records: Any) -> Path:
    path = folder / "set.json"
    path.write_text(json.dumps(records))
    return path


def text_of(segments: tuple[Segment, ...], *, sampled: bool) -> list[str]:
    return [RENDERER.decode(s.token_ids) for s in segments if s.sampled is sampled]


def test_only_the_assistants_words_carry_a_loss(folder: Path) -> None:
    (said,) = read_conversations(written(folder, record()))
    segments = render(RENDERER, said)
    # The end of a code turn is given: our policies are stopped there. That of an answer is learnt.
    assert text_of(segments, sampled=True) == [f"I look. {CODE}", f"{ANSWER}<|im_end|>"]
    head = "<|im_start|>assistant\n"
    shown = SHOWN.replace("<image>", "<|image_pad|>")
    assert text_of(segments, sampled=False) == [
        "<|im_start|>user\n<image_clue_0><|image_pad|></image_clue_0>\n\nWhich digit?<|im_end|>\n"
        + head,
        f"<|im_end|>\n<|im_start|>user\n{shown}<|im_end|>\n{head}",
    ]
    red, blue = (image_media(Image.new("RGB", (28, 28), c)) for c in ("red", "blue"))
    assert [s.media for s in segments] == [(red,), (), (blue,), ()]
    assert said.source == "mmpr"


def test_both_ways_of_naming_roles_mean_the_same(folder: Path) -> None:
    names = {"human": "user", "gpt": "assistant"}
    plain = record()
    rows = [{"role": names[m["from"]], "content": m["value"]} for m in plain.pop("conversations")]
    rows[2]["role"] = "observation"
    path = folder / "set.jsonl"
    path.write_text(json.dumps({**plain, "messages": rows}) + "\n")
    assert read_conversations(path) == read_conversations(written(folder, record()))


def test_a_system_text_of_the_whole_record_is_read(folder: Path) -> None:
    (said,) = read_conversations(written(folder, record(system="Be brief.")))
    assert [m.role for m in said.prompt] == ["system", "user"]
    assert said.prompt[0].parts == (Text("Be brief."),)
    both = [{"from": "system", "value": "x"}, *record()["conversations"]]
    for more, why in (
        ({"system": "y", "conversations": both}, "system: stands beside the system message"),
        ({"tools": "[]"}, "tools: are not read"),
    ):
        with pytest.raises(TaskError, match=why):
            read_conversations(written(folder, record(**more)))


def test_a_system_message_stands_before_the_first_turn(folder: Path) -> None:
    rows = [{"from": "system", "value": "Be brief."}, *record()["conversations"]]
    (said,) = read_conversations(written(folder, record(conversations=rows)))
    assert [m.role for m in said.prompt] == ["system", "user"]
    assert len(said.turns) == 2


def test_images_lie_below_the_root_that_is_named(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    path = written(folder / "elsewhere", record())
    with pytest.raises(TaskError, match=r"elsewhere.a\.png: no such file"):
        read_conversations(path)
    assert len(read_conversations(path, folder)) == 1


ROWS = record()["conversations"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"conversations": []}, "conversations: is missing or empty"),
        ({"conversations": None}, "conversations: is missing or empty"),
        ({"conversations": [ROWS[0], "x"]}, r"conversations[1]: a str, wants an object"),
        ({"conversations": ROWS[1:]}, "conversations[0]: is of the assistant, wants one of the us"),
        ({"conversations": [*ROWS, ROWS[3]]}, "conversations[4]: is of the assistant, wants"),
        ({"conversations": ROWS[:3]}, "conversations: does not end with a message of the assist"),
        ({"conversations": [{"from": "system", "value": "x"}]}, "conversations: does not end"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "conversations[0].from: is 'bot'"),
        ({"conversations": [{"value": "x"}]}, "conversations[0].role: is None; known: system"),
        ({"conversations": [{"from": "human"}]}, "conversations[0].value: is None, wants text"),
        (
            {"conversations": [*ROWS[:3], {"from": "gpt", "value": "<image>"}]},
            "conversations[3].value: an assistant cannot write <image>",
        ),
        ({"images": ["a.png"]}, "images: 1 for 2 <image> in the text"),
        ({"images": "a.png"}, "images: is a str, wants a list of paths"),
        ({"images": ["a.png", 3]}, "images[1]: is 3, wants a path"),
        ({"images": ["a.png", "none.png"]}, "none.png: no such file"),
        ({"images": ["a.png", "broken.png"]}, "broken.png: not a readable image"),
        ({"videos": ["a.mp4"]}, "videos: are not read"),
    ],
)
def test_every_fault_is_named_with_its_record_and_place(
    folder: Path, changes: dict[str, Any], fault: str
) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    path = written(folder, record(), record(**changes))
    good, faults = scan_conversations(path)
    assert len(good) == 1
    assert any(str(f).startswith("record 2: ") and fault in str(f) for f in faults), faults
    with pytest.raises(TaskError, match=re.escape(f"{path}: {len(faults)} fault")):
        read_conversations(path)


def test_all_faults_are_found_at_once_and_the_first_are_listed(folder: Path) -> None:
    path = written(folder, *[record(images=[]) for _ in range(7)], 3)
    _, faults = scan_conversations(path)
    assert [f.record for f in faults] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert faults[7].message == "a int, wants an object"
    with pytest.raises(TaskError, match=r"8 faults(\n.*){5}\n  \.\.\. and 3 more"):
        read_conversations(path)


def test_a_file_that_is_none_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_conversations(folder / "none.json")
    (folder / "x.json").write_text("{")
    with pytest.raises(TaskError, match="not JSON"):
        read_conversations(folder / "x.json")
    (folder / "x.json").write_text("{}")
    with pytest.raises(TaskError, match="holds a dict, wants an array"):
        read_conversations(folder / "x.json")
    (folder / "x.jsonl").write_text('{"conversations": \n')
    assert "not JSON" in str(scan_conversations(folder / "x.jsonl")[1][0])
    with pytest.raises(TaskError, match="holds no conversations"):
        read_conversations(written(folder))


SCRIPTED = Config.model_validate(
    {
        "tasks": {"name": "tests.fakes:Colours"},
        "prompts": {"system": "Look."},
        "policy": {"name": "scripted"},
        "sandbox": {"name": "scripted", "options": {"outputs": ["done"]}},
        "rollout": {"group_size": 1},
    }
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_rollout(SCRIPTED, tmp_path_factory.mktemp("rollout") / "run")


def test_what_is_written_is_read_to_the_same_tokens(run: Path, tmp_path: Path) -> None:
    done = write_conversations(run, tmp_path / "out")
    assert (done.written, done.not_right, done.literal_marker) == (8, 0, 0)
    saved = [s.trajectory for s in RunReader(run).trajectories()]
    read = read_conversations(done.path)
    assert [render(RENDERER, said) for said in read] == [t.segments for t in saved]
    values = json.loads(done.path.read_text())
    assert values[0]["images"] == [f"images/{saved[0].media[0].sha256}.png"]
    assert set(values[0]) == {"conversations", "images", "source_dataset"}


def test_wrong_answers_and_texts_that_would_feign_a_picture_are_left_out_and_counted(
    run: Path, tmp_path: Path
) -> None:
    saved = list(RunReader(run).trajectories())[:3]
    reward = saved[0].trajectory.reward
    assert reward is not None
    wrong = replace(saved[0].trajectory, reward=replace(reward, correct=False))
    prompt = (user("Is there an <image> here?"),)
    literal = replace(saved[1].trajectory, prompt=prompt)
    with RunWriter(tmp_path / "run", Config(), verb="rl") as writer:
        kept = [(s.task, t, None, None) for s, t in zip(saved[:2], (wrong, literal), strict=True)]
        # Of a run that is no synthesis, what was not used in an update is right all the same.
        unused = (saved[2].task, saved[2].trajectory, None, "zero_std")
        writer.rollouts(1, [*kept, unused])
    done = write_conversations(tmp_path / "run", tmp_path / "out")
    assert (done.written, done.not_right, done.literal_marker) == (1, 1, 1)


def with_first_turn(run: Path, folder: Path, **changes: Any) -> Path:
    """Return a run of two right episodes; the first one's first turn is another."""
    first, second = list(RunReader(run).trajectories())[:2]
    turn, *turns = first.trajectory.turns
    changed = replace(first.trajectory, turns=(replace(turn, **changes), *turns))
    with RunWriter(folder, Config(), verb="rl") as writer:
        rows = [(first.task, changed, None, None), (second.task, second.trajectory, None, None)]
        writer.rollouts(1, rows)
    return folder


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "blank"),
        (" \n", "blank"),
        ("\ud83d I look.", "not_utf8"),
        ("<image>", "literal_marker"),
    ],
)
def test_a_turn_that_a_file_cannot_hold_is_left_out_and_the_rest_can_be_read(
    text: str, reason: str, run: Path, tmp_path: Path
) -> None:
    done = write_conversations(with_first_turn(run, tmp_path / "run", text=text), tmp_path / "out")
    assert (done.written, getattr(done, reason)) == (1, 1)
    assert done.not_right + done.literal_marker + done.blank + done.not_utf8 == 1
    assert len(read_conversations(done.path)) == 1
    # No picture of the one that was left out is there either.
    assert len(list((tmp_path / "out" / "images").iterdir())) == 1


def test_a_turn_cut_at_its_limit_is_not_written_as_one_that_ends_there(
    run: Path, tmp_path: Path
) -> None:
    cut = with_first_turn(run, tmp_path / "run", text="I think that", stop=StopReason.LENGTH)
    done = write_conversations(cut, tmp_path / "out")
    assert (done.written, done.cut, len(read_conversations(done.path))) == (1, 1, 1)
    # Behind a whole block of code nothing was to be learnt.
    whole = with_first_turn(run, tmp_path / "whole", text=CODE, stop=StopReason.LENGTH)
    assert write_conversations(whole, tmp_path / "more").written == 2


def test_a_literal_marker_that_two_parts_make_together_is_found(run: Path, tmp_path: Path) -> None:
    (saved, *_) = RunReader(run).trajectories()
    prompt = (Message("user", (Text("Is there an <ima"), Text("ge> here?"))),)
    with RunWriter(tmp_path / "run", Config(), verb="rl") as writer:
        trajectory = replace(saved.trajectory, prompt=prompt)
        writer.rollouts(1, [(saved.task, trajectory, None, None)])
    done = write_conversations(tmp_path / "run", tmp_path / "out")
    assert (done.written, done.literal_marker) == (0, 1)


def test_half_a_surrogate_pair_in_the_name_of_a_source_is_spelt_out(
    run: Path, tmp_path: Path
) -> None:
    (saved, *_) = RunReader(run).trajectories()
    public = replace(saved.task.input, data_source="half \ud800")
    with RunWriter(tmp_path / "run", Config(), verb="rl") as writer:
        task = replace(saved.task, input=public)
        writer.rollouts(1, [(task, saved.trajectory, None, None)])
    done = write_conversations(tmp_path / "run", tmp_path / "out")
    assert [said.source for said in read_conversations(done.path)] == ["half \\ud800"]


def test_an_export_that_failed_can_be_tried_again(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    *_, last = RunReader(run).trajectories()
    (picture,) = (tmp_path / "run").rglob(f"{last.trajectory.media[0].sha256}.png")
    kept = picture.read_bytes()
    picture.unlink()
    with pytest.raises(RunError, match=r"run\.media_every = 1"):
        write_conversations(tmp_path / "run", tmp_path / "out")
    picture.write_bytes(kept)
    assert write_conversations(tmp_path / "run", tmp_path / "out").written == 8


def test_a_trajectory_that_was_carried_is_learnt_from_once(run: Path, tmp_path: Path) -> None:
    saved = list(RunReader(run).trajectories())[:3]
    used, waiting, late = ((s.task, s.trajectory, 0.5) for s in saved)
    with RunWriter(tmp_path / "run", Config(), verb="rl") as writer:
        writer.rollouts(1, [(*used, None), (*waiting, "carried")])
        # It is used in the second step; the run ends before another one is.
        writer.rollouts(2, [(*waiting, None), (*late, "carried")])
    found = [(s.task.id, s.reason) for s, good in learnable(tmp_path / "run") if good]
    a, b, c = (s.task.id for s in saved)
    assert found == [(a, None), (b, None), (c, "carried")]
    assert write_conversations(tmp_path / "run", tmp_path / "out").written == 3


def test_nothing_is_written_over(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(RunError, match="not an empty folder"):
        write_conversations(run, tmp_path)


WORDS = st.text("ab\n<>{}é", min_size=1, max_size=12)


@given(
    question=WORDS,
    turns=st.lists(
        st.tuples(WORDS, st.sampled_from(["", "</code>", "</code>\n"]), WORDS), max_size=3
    ),
    answer=WORDS,
)
def test_the_given_and_the_sampled_tokens_are_what_a_chat_template_writes(
    question: str, turns: list[tuple[str, str, str]], answer: str
) -> None:
    said = Conversation(
        (user(question),),
        (
            *(turn_of(text + end, StopReason.END, user(reply)) for text, end, reply in turns),
            turn_of(answer, StopReason.END, None),
        ),
    )
    messages = [("user", question)]
    for text, end, reply in turns:
        messages += [("assistant", text + end.strip()), ("user", reply)]
    messages.append(("assistant", answer))
    want = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in messages)
    segments = render(RENDERER, said)
    assert "".join(RENDERER.decode(s.token_ids) for s in segments) == want.removesuffix("\n")
    ends = [s.token_ids[-1] == RENDERER.end_of_turn for s in segments if s.sampled]
    assert ends == [not end for _, end, _ in turns] + [True]


def test_a_turn_cut_at_its_limit_is_not_taught_to_end() -> None:
    cut = turn_of("so", StopReason.LENGTH, user("too long"))
    segments = render(
        RENDERER, Conversation((user("?"),), (cut, turn_of("a", StopReason.END, None)))
    )
    assert text_of(segments, sampled=True) == ["so", "a<|im_end|>"]


def test_a_trajectory_of_any_tokenizer_is_rendered_for_ours(run: Path) -> None:
    trajectory = next(RunReader(run).trajectories()).trajectory
    assert render(RENDERER, spoken(trajectory)) == trajectory.segments


def test_the_check_lists_faults_or_says_what_is_there(folder: Path) -> None:
    path = written(folder, record(), record(images=[]), record(images=["a.png"]))
    findings = check_conversations(path, None)
    assert [f.name for f in findings] == [f"{path}:2", f"{path}:3"]
    assert not any(f.ok for f in findings)
    unsure = [*ROWS[:3], {"from": "gpt", "value": "I do not know."}]
    path = written(folder, record(), record(conversations=unsure))
    records, ends = check_conversations(path, None)
    assert (records.detail, ends.status, ends.detail) == ("2, with 4 turns", "note", "1")
    assert not check_conversations(written(folder), None)[0].ok


def test_the_command_line_exports_a_run_and_checks_what_it_wrote(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["export-sft", str(run), str(out)])
    assert done.exit_code == 0, done.output
    assert (
        done.stdout.splitlines()[-1] == f"next: pvrl check conversations {out}/conversations.json"
    )
    checked = CliRunner().invoke(app, ["check", "conversations", f"{out}/conversations.json"])
    assert checked.exit_code == 0, checked.output
    assert "2 checks, 0 failed" in checked.stdout
    (out / "images").rename(tmp_path / "images")
    broken = CliRunner().invoke(app, ["check", "conversations", f"{out}/conversations.json"])
    assert broken.exit_code == 1
    assert "8 failed" in broken.stdout
    there = ["check", "conversations", f"{out}/conversations.json", "--image-root", str(tmp_path)]
    assert CliRunner().invoke(app, there).exit_code == 0
