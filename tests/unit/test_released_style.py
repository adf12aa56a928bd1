"""A released checkpoint meets the tags, labels and line breaks that it was trained with.

The goldens in ``tests/golden`` are whole episodes as the model reads them: written down once, and
compared line by line with what the authors' code builds (its two environments and its data sets).
The words of the question are ours; nothing else in them is.
"""

from __future__ import annotations

import json
import re
from itertools import chain
from pathlib import Path

import pytest

from pyvision_rl.assemble import assemble
from pyvision_rl.config import Config, PromptsConfig
from pyvision_rl.config_file import load_config
from pyvision_rl.conversations import render, spoken
from pyvision_rl.errors import ConfigError
from pyvision_rl.media import image_media
from pyvision_rl.parsing import CODE_CLOSE, parse
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.released_style import facts_of
from pyvision_rl.rendering.qwen_vl import QwenRenderer
from pyvision_rl.sft_format import read_conversations
from pyvision_rl.types import (
    Action,
    EndReason,
    ExecStatus,
    Execution,
    GiveAnswer,
    Gold,
    Media,
    Observation,
    RunCode,
    StopReason,
    Task,
    TaskInput,
    Text,
    Trajectory,
)
from pyvision_rl.video import file_video
from tests.chat_tokenizers import make_tokenizer
from tests.clips import counting, write_clip
from tests.fakes import a_video

GOLDEN = Path(__file__).parents[1] / "golden"
A, B = Media("image", "a", 448, 336), Media("image", "b", 20, 30)


def code(source: str) -> str:
    return f"<code>\n```python\n{source}\n```\n</code>"


IMAGE_SCRIPT = (
    "I crop the corner first.\n"
    + code(
        "crop = image_clue_0.crop((0, 0, 20, 10))\nprint(crop.size)\nplt.imshow(crop)\nplt.show()"
    ),
    # The names that the authors' environment holds without an import.
    "Its size as a file.\n"
    + code(
        "buffer = io.BytesIO()\nimage_clue_0.save(buffer, format='PNG')\n"
        "print(base64.b64encode(buffer.getvalue())[:4], matplotlib.__name__, np.__name__)"
    ),
    "Two views.\n"
    + code("for angle in (0, 90):\n    plt.imshow(image_clue_0.rotate(angle))\n    plt.show()"),
    "Once more.\n" + code("image_clue_9.size"),
    "It is red.\n\n<answer>\n\\boxed{'A'}\n</answer>",
)
VIDEO_SCRIPT = (
    "I look at one frame.\n"
    + code("frame = video_clue_0[3].asnumpy()\nprint(frame.shape)\nplt.imshow(frame)\nplt.show()"),
    "How long is it?\n" + code("print(len(video_clue_0), VideoReader.__name__, callable(cpu))"),
    "<answer>\n\\boxed{'7'}\n</answer>",
)


def episode(task: Task, script: tuple[str, ...], **prompts: str) -> Trajectory:
    """The script of a task, run in a real sandbox."""
    config = Config.model_validate(
        {"prompts": {"style": "pyvision", **prompts}, "rollout": {"group_size": 1}}
    )
    with assemble(config, scripts={task.id: script}) as assembly:
        (group,) = assembly.rollout([task], seed=1)
    return group.trajectories[0]


def as_read(trajectory: Trajectory) -> str:
    """What the model reads and writes, in the chat format of Qwen2.5-VL."""
    renderer = QwenRenderer(make_tokenizer(), None)
    segments = render(renderer, spoken(trajectory))
    ids = tuple(chain.from_iterable(segment.token_ids for segment in segments))
    return renderer.decode(ids)


def compare(found: str, name: str) -> None:
    assert found == (GOLDEN / name).read_text(encoding="utf-8").removesuffix("\n")


def test_an_image_episode_is_word_for_word_the_golden_one() -> None:
    from PIL import Image

    picture = image_media(Image.new("RGB", (448, 336), "red"))
    question = "What colour is it?\n(A) red\n(B) blue"
    task = Task(TaskInput("t", question, (picture,)), Gold("A"))
    made = episode(task, IMAGE_SCRIPT)
    assert (made.end, made.answer) == (EndReason.ANSWERED, "A")
    assert made.reward is not None
    assert made.reward.parts == {"accuracy": 1.0, "tool_use": pytest.approx(0.3)}
    compare(as_read(made), "released_image.txt")


def test_a_video_episode_is_word_for_word_the_golden_one(tmp_path: Path) -> None:
    film = file_video(write_clip(tmp_path / "film.mp4", counting(50), 8))
    task = Task(TaskInput("t", "Which level has frame 3?", (film,)), Gold("7"))
    made = episode(task, VIDEO_SCRIPT)
    assert (made.end, made.answer) == (EndReason.ANSWERED, "7")
    compare(as_read(made), "released_video.txt")


def test_a_cold_start_record_of_the_same_layout_is_read_to_the_same_words(tmp_path: Path) -> None:
    """The published set: human and gpt in turn, markers for images, and their paths beside."""
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    golden = (GOLDEN / "released_image.txt").read_text(encoding="utf-8").removesuffix("\n")
    said = golden.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>")
    turns = [turn.removesuffix("<|im_end|>") for turn in re.split(r"\n?<\|im_start\|>", said)[2:]]
    names = {"user": "human", "assistant": "gpt"}
    rows = [
        {"from": names[role], "value": text}
        for role, _, text in (turn.partition("\n") for turn in turns)
    ]
    record = {"conversations": rows, "images": ["a.png"] * 4, "source_dataset": "mmpr"}
    (tmp_path / "sft.json").write_text(json.dumps([record]))
    (read,) = read_conversations(tmp_path / "sft.json")
    assert (len(rows), read.source) == (10, "mmpr")
    renderer = QwenRenderer(make_tokenizer(), None)
    segments = render(renderer, read)
    assert renderer.decode([i for segment in segments for i in segment.token_ids]) == golden
    # Every code turn ends where our policies are stopped, and only the answer ends by itself.
    stops = [turn.stop for turn in read.turns]
    assert stops == [StopReason.STOP_STRING] * 4 + [StopReason.END]


def shown(observation: Observation) -> str:
    parts = observation.message.parts
    return "".join(p.text if isinstance(p, Text) else f"[{p.sha256}]" for p in parts)


OPEN, CLOSE = "<tool_response>\n<interpreter>", "</interpreter>\n\n</tool_response>"


@pytest.mark.parametrize(
    ("execution", "image", "video"),
    [
        (Execution(ExecStatus.OK, "5\n"), "\nText Result:\n5", "\nText Result:\n5\n"),
        (Execution(ExecStatus.OK, ""), "\nText Result:\n", "\nText Result:\n\n"),
        (
            Execution(ExecStatus.OK, "", images=(B,)),
            "Text Result:\n\nImage Result:\n<image_clue_1>[b]</image_clue_1>",
            "\nText Result:\n\nImage Result:\n<image_clue_1>[b]</image_clue_1>",
        ),
        (
            Execution(ExecStatus.OK, "5\n", images=(B, B)),
            "Text Result:\n5\nImage Result:\n"
            "<image_clue_1>[b]</image_clue_1><image_clue_2>[b]</image_clue_2>",
            "\nText Result:\n5\nImage Result:\n"
            "<image_clue_1>[b]</image_clue_1><image_clue_2>[b]</image_clue_2>",
        ),
        (
            Execution(ExecStatus.RAISED, "", error="NameError: x"),
            "Execution error: NameError: x",
            "Execution error: NameError: x",
        ),
    ],
    ids=["text", "nothing", "picture", "both", "error"],
)
def test_each_observation_has_its_line_breaks_in_both_modes(
    execution: Execution, image: str, video: str
) -> None:
    builder = PromptBuilder(PromptsConfig(style="pyvision"))
    assert shown(builder.observation(execution, 1, (A,))) == OPEN + image + CLOSE
    assert shown(builder.observation(execution, 1, (a_video(),))) == OPEN + video + CLOSE


def test_nothing_that_code_gave_is_lost_beside_an_error() -> None:
    builder = PromptBuilder(PromptsConfig(style="pyvision"))
    long = Media("image", "l", 10_000, 4)
    ran = Execution(ExecStatus.DIED, "5\n", error="it died", images=(B, long), state_lost=True)
    text = shown(builder.observation(ran, 3, (A,)))
    assert text.startswith(f"{OPEN}Text Result:\n5\nimage_clue_4 (10000 x 4 pixels) is too long")
    assert "your variables are lost" in text
    assert text.endswith(
        f"\nExecution error: it died\nImage Result:\n<image_clue_3>[b]</image_clue_3>{CLOSE}"
    )


def test_a_refusal_stands_where_their_format_error_does() -> None:
    text = shown(PromptBuilder(PromptsConfig(style="pyvision")).refusal("it is empty"))
    assert text.startswith(f"{OPEN}Error: The reply was not used: it is empty. ")
    assert text.endswith(CLOSE)


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("<answer>\n\\boxed{'A'}\n</answer>", GiveAnswer("A")),
        ("<answer>\n\\boxed{12.5}\n</answer>", GiveAnswer("12.5")),
        (code("a = 1") + "\n<answer>\\boxed{B}</answer>", GiveAnswer("B")),
        ("<answer></answer>\n" + code("a = 1"), RunCode("a = 1")),
        ("Plan.\n<code>\n```python\na = 1\n```\n</code>", RunCode("a = 1")),
        ("<code>\n\n```python\n\na = 1\n\n```\n\n</code>", RunCode("a = 1")),
        ("Plan.\n```python\na = 1\n```", RunCode("a = 1")),
        (code("a = 1") + " and " + code("b = 2"), RunCode("b = 2")),
        ("`<code>\n```python\na = 1\n```\n</code>`", RunCode("a = 1")),
    ],
)
def test_the_grammar_of_the_released_models_is_read(text: str, action: Action) -> None:
    stop = StopReason.STOP_STRING if text.endswith(CODE_CLOSE) else StopReason.END
    assert parse(text, stop) == action


AUTHORS = "{images}\nAn agent.\n\nWidth: {width}; Height: {height}\n\n{query}\n\\boxed{answer}"


def test_a_template_of_the_authors_fits_with_its_width_and_height(tmp_path: Path) -> None:
    file = tmp_path / "theirs.txt"
    file.write_text(AUTHORS)
    builder = PromptBuilder(PromptsConfig(style="pyvision", template=str(file)))
    (message,) = builder.prompt(TaskInput("t", "Which?", (A,))).messages
    first, picture, rest = message.parts
    assert (first, picture) == (Text("<image_clue_0>"), A)
    assert rest == Text(
        "</image_clue_0>\nAn agent.\n\nWidth: 448; Height: 336\n\nWhich?\n\\boxed{answer}"
    )


def test_a_video_that_code_does_not_have_is_not_called_loaded() -> None:
    film = a_video()
    line = "Frame Width: 56; Frame Height: 56;\nVideo Length: 64; Sample FPS: 8.00"
    alone = f"{line}\nThis video is not loaded; there are its frames only."
    told = {"image_info": "", "video_info": alone, "width": "56", "height": "56"}
    assert facts_of((film,), {}) == told
    loaded = facts_of((film,), {"video_clue_0": film})["video_info"]
    assert loaded == f"{line}\nThis video is loaded as the global variable `video_clue_0`."


@pytest.mark.parametrize("context", ["initial_frames", "frames"])
def test_frames_in_the_prompt_have_their_sizes_and_their_video_its_heading(
    context: str, tmp_path: Path
) -> None:
    film = file_video(write_clip(tmp_path / "film.mp4", counting(8, 56, 56)))
    config = PromptsConfig.model_validate(
        {"style": "pyvision", "context": context, "num_frames": 2}
    )
    (message,) = PromptBuilder(config).prompt(TaskInput("t", "?", (film,))).messages
    text = "".join(part.text for part in message.parts if isinstance(part, Text))
    lines = [line for line in text.split("\n") if line]
    of = "video_clue_0" if context == "initial_frames" else "video 0"
    sizes = lines[lines.index("*image resolution:*") + 1]
    assert sizes == f"image_clue_0 to image_clue_1: frames of {of}, 56 x 56 pixels"
    facts = lines[lines.index("*Video Information:*") + 1 :][:3]
    assert facts[0] == "Frame Width: 56; Frame Height: 56;"
    loaded = "This video is loaded as the global variable `video_clue_0`."
    hidden = "This video is not loaded; there are its frames only."
    assert facts[2] == (loaded if context == "initial_frames" else hidden)
    assert lines.count("*Video Information:*") == 1


def test_words_alone_are_asked_without_a_word_on_pictures() -> None:
    (message,) = PromptBuilder(PromptsConfig(style="pyvision")).prompt(TaskInput("t", "?")).messages
    (part,) = message.parts
    assert isinstance(part, Text)
    assert "image_clue" not in part.text
    assert "resolution" not in part.text
    assert "\n\n\n" not in part.text


def test_the_style_and_an_observation_template_exclude_each_other(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[prompts]\nstyle = "pyvision"\nobservation = "observation"\n')
    with pytest.raises(ConfigError, match="leave observation empty"):
        load_config(file)
