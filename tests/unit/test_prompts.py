"""What the policy reads: the first question, observations and refusals."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvision_rl.assemble import assemble
from pyvision_rl.checks.sections import check_config
from pyvision_rl.config import SCHEMA, Config, PromptsConfig
from pyvision_rl.config_file import load_config
from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.types import (
    ExecStatus,
    Execution,
    Media,
    Message,
    Observation,
    Prompt,
    TaskInput,
    Text,
    VideoFacts,
)
from pyvision_rl.video import file_video
from pyvision_rl.video_prompt import check_room
from tests.clips import counting, write_clip
from tests.fakes import a_video


def image(name: str, width: int = 448, height: int = 336) -> Media:
    return Media("image", name, width, height)


A, B, C = image("a"), image("b", 20, 30), image("c")


def shown(prompt: Prompt | Observation | Message) -> str:
    """The last message as text, images as [sha256]."""
    if isinstance(prompt, Observation):
        prompt = prompt.message
    message = prompt.messages[-1] if isinstance(prompt, Prompt) else prompt
    assert message.role == "user"
    texts = [isinstance(part, Text) for part in message.parts]
    assert not any(a and b for a, b in pairwise(texts)), "texts not joined"
    return "".join(p.text if isinstance(p, Text) else f"[{p.sha256}]" for p in message.parts)


def built(folder: Path, *, template: str = "", observation: str = "") -> PromptBuilder:
    """A builder with the given templates in files."""
    paths = {}
    for key, text in (("template", template), ("observation", observation)):
        if text:
            path = folder / f"{key}.txt"
            path.write_bytes(text.encode())
            paths[key] = str(path)
    return PromptBuilder(PromptsConfig(**paths))


def test_built_in_question_tells_what_the_paper_tells() -> None:
    text = shown(PromptBuilder(PromptsConfig()).prompt(TaskInput("t", "What is it?", (A, B))))
    assert text.startswith(
        "<image_clue_0>[a]</image_clue_0>\n<image_clue_1>[b]</image_clue_1>\n\nWhat is it?\n\n"
    )
    assert "\nimage_clue_0: 448 x 336 pixels\nimage_clue_1: 20 x 30 pixels\n" in text
    assert "<code>\n```python\nyour code\n```\n</code>" in text
    assert "<answer>\n\\boxed{your answer}\n</answer>" in text
    for word in ("step by step", "loaded already", "plt.show()", "never save", "Print", "complete"):
        assert word in text, word


def test_images_are_bound_under_the_names_they_are_shown_with() -> None:
    prompt = PromptBuilder(PromptsConfig()).prompt(TaskInput("t", "q", (A, B, A)))
    assert prompt.bindings == {"image_clue_0": A, "image_clue_1": B, "image_clue_2": A}
    assert prompt.messages[-1].media == (A, B, A)


IMAGE_PROMPT = """\
<image_clue_0>[a]</image_clue_0>

What is it?

Solve the task step by step. Keep going until you are sure of the answer.

You may write Python. It is run for you, and you see what it printed and showed before you go on. \
What you define stays defined for your later code. To run code, end your reply with one block of \
exactly this form, holding one complete snippet:
<code>
```python
your code
```
</code>

About the code:
- The images are loaded already, as PIL images under the names of their tags; do not read any \
file. You may see them scaled down: in code they have their original size.
image_clue_0: 448 x 336 pixels
- np, plt and Image are imported.
- Use code to look closer: crop, enlarge, rotate, change the contrast, measure, mark.
- Show a picture with matplotlib and plt.show(); never save one. Print every value you want to see.
- Before you write code, say what you expect from it; afterwards, say what it told you.

When you are sure, give the final answer, and nothing else, in a block of exactly this form:
<answer>
\\boxed{your answer}
</answer>"""


def test_the_prompt_of_an_image_stays_word_for_word() -> None:
    text = shown(PromptBuilder(PromptsConfig()).prompt(TaskInput("t", "What is it?", (A,))))
    assert text == IMAGE_PROMPT


VIDEO_LINES = """\
- The videos are loaded already, under the names below; do not read any file. Of a video you \
see only frames that are shown: show those you need.
video_clue_0: 56 x 56 pixels, number of frames: 64 (numbered 0 to 63), frames per second: 8, \
duration: 8 seconds
- A video is a decord VideoReader: len(video_clue_0) is its number of frames, \
video_clue_0[i].asnumpy() is frame i as an array [height, width, 3], and \
video_clue_0.get_batch([i, j]).asnumpy() is an array [2, height, width, 3].
"""


def test_a_video_is_told_in_numbers_and_units_and_only_code_has_it() -> None:
    prompt = PromptBuilder(PromptsConfig()).prompt(TaskInput("t", "What is it?", (a_video(),)))
    head, rest = IMAGE_PROMPT.split("- The images are loaded already")
    tail = rest.partition("pixels\n")[2]
    assert shown(prompt) == head.partition("\n\n")[2] + VIDEO_LINES + tail
    assert prompt.bindings == {"video_clue_0": a_video()}
    assert prompt.messages[-1].media == ()


def test_images_and_videos_each_bring_their_own_advice() -> None:
    media = (A, a_video("one"), B, a_video("two"))
    prompt = PromptBuilder(PromptsConfig()).prompt(TaskInput("t", "q", media))
    text = shown(prompt)
    assert [*prompt.bindings] == ["image_clue_0", "image_clue_1", "video_clue_0", "video_clue_1"]
    assert "image_clue_1: 20 x 30 pixels\n- The videos are loaded" in text
    assert "\nvideo_clue_1: 56 x 56 pixels, number of frames: 64" in text
    assert prompt.messages[-1].media == (A, B)


def test_numbers_of_a_video_are_short() -> None:
    odd = Media("video", "v", 4, 2, None, VideoFacts(1_078_920, 30000 / 1001, 36_000.0345))
    still = Media("video", "w", 4, 2, None, VideoFacts(1, 0.0123456, 81.0))
    text = shown(PromptBuilder(PromptsConfig()).prompt(TaskInput("t", "q", (odd, still))))
    assert (
        "number of frames: 1078920 (numbered 0 to 1078919), frames per second: 29.97, "
        "duration: 36000.03 seconds\n"
    ) in text
    assert "1 (numbered 0 to 0), frames per second: 0.0123, duration: 81 seconds\n" in text


def test_in_the_runtime_context_nothing_is_shown_and_the_prompt_says_so() -> None:
    builder = PromptBuilder(PromptsConfig(context="runtime"))
    strip = image("strip", 5000, 2)
    prompt = builder.prompt(TaskInput("t", "q", (A, strip, a_video())))
    text = shown(prompt)
    assert prompt.messages[-1].media == ()
    assert [*prompt.bindings.values()] == [A, strip, a_video()]
    assert "[a]" not in text
    assert text.startswith("q\n")
    assert "under the names below; do not read any file. You do not see them before you" in text
    assert "image_clue_0: 448 x 336 pixels\nimage_clue_1: 5000 x 2 pixels\n" in text
    assert "names of their tags" not in text


def test_a_prompt_without_media_speaks_of_none() -> None:
    text = shown(PromptBuilder(PromptsConfig()).prompt(TaskInput("t", "q")))
    assert text.startswith("q\n")
    for word in ("images", "video", "look closer"):
        assert word not in text
    assert "About the code:\n- np, plt and Image are imported.\n- Show a picture" in text


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Media:
    """50 frames of 64 x 48 pixels, 8 a second."""
    return file_video(write_clip(tmp_path_factory.mktemp("film") / "film.mp4", counting(50)))


def test_initial_frames_are_labelled_with_number_and_time(film: Media) -> None:
    config = PromptsConfig(context="initial_frames", num_frames=2, frame_pixels=800)
    prompt = PromptBuilder(config).prompt(TaskInput("t", "q", (A, film)))
    first, second = (m for name, m in prompt.bindings.items() if name in FRAMES)
    assert (first.width, first.height) == (32, 24)
    text = shown(prompt)
    # Pieces of 25 frames, centres at 12.5 and 37.5; 12 / 8 = 1.5, 37 / 8 = 4.625.
    assert text.startswith(
        "<image_clue_0>[a]</image_clue_0>\n"
        f"video_clue_0, frame 12, 1.5 seconds: <image_clue_1>[{first.sha256}]</image_clue_1>\n"
        f"video_clue_0, frame 37, 4.62 seconds: <image_clue_2>[{second.sha256}]</image_clue_2>\n"
        "\nq\n"
    )
    assert (
        "image_clue_0: 448 x 336 pixels\n"
        "image_clue_1 to image_clue_2: frames of video_clue_0, 32 x 24 pixels\n"
        "- The labelled images are frames"
    ) in text
    assert "video_clue_0: 64 x 48 pixels, number of frames: 50" in text
    assert "video_clue_0.get_batch" in text
    assert prompt.bindings == {
        "image_clue_0": A,
        "image_clue_1": first,
        "image_clue_2": second,
        "video_clue_0": film,
    }


FRAMES = ("image_clue_1", "image_clue_2")


def test_frames_only_leave_the_video_out_of_the_sandbox(film: Media) -> None:
    config = PromptsConfig(context="frames", frames_fps=0.2)
    prompt = PromptBuilder(config).prompt(TaskInput("t", "q", (film,)))
    assert [*prompt.bindings] == ["image_clue_0"]
    text = shown(prompt)
    assert text.startswith("video 0, frame 25, 3.12 seconds: <image_clue_0>[")
    assert "\nvideo 0 (not loaded; you have its frames only): 64 x 48 pixels, number of" in text
    assert "The labelled images are frames" in text
    assert "video_clue" not in text
    assert "decord" not in text


def test_frames_without_labels_stand_bare_and_in_order(film: Media) -> None:
    config = PromptsConfig(context="frames", num_frames=2, frame_labels=False)
    prompt = PromptBuilder(config).prompt(TaskInput("t", "q", (A, film)))
    first, second = (prompt.bindings[name] for name in FRAMES)
    text = shown(prompt)
    assert text.startswith(
        f"<image_clue_0>[a]</image_clue_0>[{first.sha256}][{second.sha256}]\n\nq\n"
    )
    assert "labelled" not in text
    # They are images of the sandbox all the same, and said to be.
    assert "image_clue_1 to image_clue_2: frames of video 0, 64 x 48 pixels" in text


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"frame_labels": False}, "frame_labels is for context initial_frames and frames only"),
        ({"context": "frames"}, "context frames wants one of num_frames and frames_fps"),
        (
            {"context": "initial_frames", "num_frames": 4, "frames_fps": 1},
            "context initial_frames wants one of num_frames and frames_fps",
        ),
        ({"num_frames": 4}, "num_frames is for context initial_frames and frames only"),
        ({"context": "runtime", "frames_fps": 1}, "frames_fps is for context"),
        ({"frame_pixels": 100}, "frame_pixels is for context"),
        ({"max_frames": 8}, "max_frames is for context"),
        (
            {"context": "frames", "num_frames": 4, "max_frames": 8},
            "max_frames is for frames_fps only",
        ),
        ({"context": "on demand"}, "'on_demand', 'runtime', 'initial_frames' or 'frames'"),
        ({"context": "frames", "num_frames": 0}, "greater than 0"),
    ],
)
def test_contexts_that_make_no_sense_are_refused_before_work(
    tmp_path: Path, section: dict[str, object], message: str
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"schema": SCHEMA, "config": {"prompts": section}}))
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert "prompts" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"num_frames": 9}, r"prompts\.num_frames = 9 is above rollout\.max_images = 8"),
        ({"frames_fps": 1.0}, r"prompts\.max_frames = 32 is above rollout\.max_images = 8"),
    ],
)
def test_more_frames_than_a_context_holds_are_refused_before_work(
    section: dict[str, object], message: str
) -> None:
    made = {"prompts": {"context": "frames", **section}, "rollout": {"max_images": 8}}
    config = Config.model_validate(made)
    with pytest.raises(ConfigError, match=message):
        assemble(config)
    (found,) = (f for f in check_config(config) if f.name == "[rollout]")
    assert not found.ok
    enough = made["prompts"] | {"num_frames": 8, "frames_fps": None}
    check_room(PromptsConfig.model_validate(enough), config.rollout)


@pytest.mark.parametrize(
    ("context", "count"),
    [("on_demand", {}), ("runtime", {})]
    + [(name, {"num_frames": 2}) for name in ("initial_frames", "frames")],
)
def test_the_page_about_videos_shows_the_very_prompts(
    tmp_path: Path, context: str, count: dict[str, int]
) -> None:
    film = file_video(write_clip(tmp_path / "film.mp4", counting(64, 56, 56)))
    config = PromptsConfig.model_validate({"context": context, **count})
    prompt = PromptBuilder(config).prompt(TaskInput("t", "What is it?", (A, film)))
    parts = prompt.messages[-1].parts
    text = "".join(
        p.text if isinstance(p, Text) else f"[image {p.width} x {p.height}]" for p in parts
    )
    head, _, rest = text.partition("\n\nSolve the task step by step.")
    lines = rest.partition("About the code:\n")[2].partition("- np, plt")[0]
    page = (Path(__file__).parents[2] / "docs" / "videos.md").read_text(encoding="utf-8")
    assert f"```text\n{head}\n...\nAbout the code:\n{lines}```" in page
    names = ", ".join(f"`{name}`" for name in prompt.bindings)
    assert f"Code has {names}." in page


def test_frames_that_no_model_takes_are_refused(tmp_path: Path) -> None:
    strip = file_video(write_clip(tmp_path / "strip.mp4", counting(2, 3240, 16)))
    task = TaskInput("strip", "q", (strip,))
    PromptBuilder(PromptsConfig()).prompt(task)
    with pytest.raises(TaskError, match=r"task 'strip'.*3240 x 16 pixels"):
        PromptBuilder(PromptsConfig(context="frames", num_frames=1)).prompt(task)


@settings(max_examples=30)
@given(
    media=st.lists(st.sampled_from("iv"), max_size=4),
    context=st.sampled_from(["on_demand", "runtime", "initial_frames", "frames"]),
    num_frames=st.integers(1, 3),
)
def test_what_is_shown_is_bound_under_its_label(
    film: Media, media: list[str], context: str, num_frames: int
) -> None:
    count = {"num_frames": num_frames} if "frames" in context else {}
    config = PromptsConfig.model_validate({"context": context, **count})
    task = TaskInput("t", "q", tuple(A if kind == "i" else film for kind in media))
    prompt = PromptBuilder(config).prompt(task)
    parts = prompt.messages[-1].parts
    for before, part, after in zip(parts, parts[1:], parts[2:], strict=False):
        if isinstance(part, Media):
            assert isinstance(before, Text)
            assert isinstance(after, Text)
            name = before.text.rpartition("<")[2].rstrip(">")
            assert after.text.startswith(f"</{name}>")
            assert prompt.bindings[name] is part
    images, videos = media.count("i"), media.count("v")
    frames = num_frames * videos if "frames" in context else 0
    assert len(prompt.messages[-1].media) == frames + (images if context != "runtime" else 0)
    names = [f"image_clue_{k}" for k in range(images + frames)]
    names += [f"video_clue_{k}" for k in range(videos)] if context != "frames" else []
    assert [*prompt.bindings] == names


def test_lines_stand_under_conditions(tmp_path: Path) -> None:
    builder = built(tmp_path, template="{images?}pictures: {images}\n{videos?}films\n{query} {x?}")
    assert shown(builder.prompt(TaskInput("t", "q"))) == "q {x?}"
    text = shown(builder.prompt(TaskInput("t", "q", (A, a_video()))))
    assert text == "pictures: <image_clue_0>[a]</image_clue_0>\nfilms\nq {x?}"


def test_a_template_without_images_leaves_out_their_line(tmp_path: Path) -> None:
    custom = built(tmp_path, template="Q: {query}\n\n{images}\n")
    assert shown(custom.prompt(TaskInput("t", "q"))) == "Q: q"


def test_minimal_template_is_built_in() -> None:
    builder = PromptBuilder(PromptsConfig(template="minimal"))
    text = shown(builder.prompt(TaskInput("t", "red digit:", (A,))))
    assert text == "<image_clue_0>[a]</image_clue_0>\nred digit:"


def test_system_message_only_when_the_config_has_one() -> None:
    task = TaskInput("t", "q")
    (message,) = PromptBuilder(PromptsConfig()).prompt(task).messages
    assert message.role == "user"
    system, user = PromptBuilder(PromptsConfig(system="Be brief.")).prompt(task).messages
    assert system == Message("system", (Text("Be brief."),))
    assert user == message


def test_only_known_placeholders_are_replaced(tmp_path: Path) -> None:
    template = (
        "{images}{query}|{image_info}|\\boxed{answer} \\text{query} {{query}} {{other}} "
        'd = {"a": {1: 2}} {} { query } {Query} {1}'
    )
    text = shown(built(tmp_path, template=template).prompt(TaskInput("t", "{images}{query}", (A,))))
    assert text == (
        "<image_clue_0>[a]</image_clue_0>{images}{query}|image_clue_0: 448 x 336 pixels|"
        "\\boxed{answer} \\text{query} {query} {other} "
        'd = {"a": {1: 2}} {} { query } {Query} {1}'
    )


@given(st.text(min_size=1), st.text())
def test_question_and_output_stand_in_the_text_as_they_are(question: str, output: str) -> None:
    builder = PromptBuilder(PromptsConfig())
    assert f"\n\n{question}\n\nSolve" in shown(builder.prompt(TaskInput("t", question, (A,))))
    text = shown(builder.observation(Execution(ExecStatus.OK, output), 1))
    assert text.startswith("<interpreter>\n")
    assert text.endswith("\n</interpreter>")
    assert output.strip("\n") in text


def test_lone_surrogates_are_replaced() -> None:
    builder = PromptBuilder(PromptsConfig())
    text = shown(builder.prompt(TaskInput("t", "a\ud800b")))
    text += shown(builder.observation(Execution(ExecStatus.OK, "c\udfffd"), 1))
    assert "a\ufffdb" in text
    assert "c\ufffdd" in text
    text.encode()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{query}", "{images} is missing"),
        ("{images}", "{query} is missing"),
        ("{query}{images}\n{query}", "line 2: {query} stands there twice"),
        ("{query}\n{imags}", "line 2: unknown placeholder {imags}; did you mean {images}?"),
        ("{query}{images}{width}", "unknown placeholder {width}"),
        ("{query}{images}\nput it in \x08oxed{}", "line 2 holds the control character U+0008"),
        ("{query}\n{image?}{images}", "line 2: unknown condition {image?}; known: {images?}, {hid"),
        ("{query}\n{images?}{videos?}{images}", "line 2: a condition stands first, and alone"),
        ("{query}{images}\n  {images?}- look", "line 2: a condition stands first, and alone"),
        ("{query}{images}\r", "line 1 holds the control character U+000D"),
        ("{query}{images}\x85", "U+0085"),
    ],
)
def test_faulty_templates_are_refused_at_construction(
    tmp_path: Path, template: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        built(tmp_path, template=template)
    assert message in str(caught.value)
    assert "prompts.template" in str(caught.value)
    assert "template.txt" in str(caught.value)


def test_unreadable_templates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.txt.*No such file.*question, minimal"):
        PromptBuilder(PromptsConfig(template=str(tmp_path / "absent.txt")))
    latin = tmp_path / "latin.txt"
    latin.write_bytes("{query}{images} Grüße".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        PromptBuilder(PromptsConfig(template=str(latin)))
    with pytest.raises(ConfigError, match=r"prompts\.observation.*\{text\} is missing"):
        built(tmp_path, observation="{images}")
    with pytest.raises(ConfigError, match=r"prompts\.system: line 1"):
        PromptBuilder(PromptsConfig(system="a\x00"))


def test_windows_newlines_and_byte_order_mark_are_accepted(tmp_path: Path) -> None:
    custom = built(tmp_path, template="\ufeff{images}\r\n\r\n{query}\r\n")
    text = shown(custom.prompt(TaskInput("t", "q", (A,))))
    assert text == "<image_clue_0>[a]</image_clue_0>\n\nq"


def test_media_that_no_model_takes_are_refused() -> None:
    builder = PromptBuilder(PromptsConfig())
    with pytest.raises(TaskError, match=r"task 'strip'.*2001 x 10 pixels"):
        builder.prompt(TaskInput("strip", "q", (image("x", 2001, 10),)))


@pytest.mark.parametrize(
    ("execution", "text"),
    [
        (
            Execution(ExecStatus.OK, "1\n2\n", images=(B, C)),
            "Text Result:\n1\n2\nImage Result:\n<image_clue_3>[b]</image_clue_3>\n"
            "<image_clue_4>[c]</image_clue_4>",
        ),
        (Execution(ExecStatus.OK, "1\n"), "Text Result:\n1"),
        (
            Execution(ExecStatus.OK, "", images=(B,)),
            "Image Result:\n<image_clue_3>[b]</image_clue_3>",
        ),
        (Execution(ExecStatus.OK, "\n"), "(no output)"),
        (
            Execution(ExecStatus.RAISED, "1\n", "Traceback ...\nNameError: x\n"),
            "Text Result:\n1\nTraceback ...\nNameError: x",
        ),
        (Execution(ExecStatus.TIMEOUT, ""), "Text Result:\nThe code was stopped: timeout."),
        (
            Execution(ExecStatus.DIED, "", "The interpreter exited.", state_lost=True),
            "Text Result:\nThe interpreter exited.\nThe interpreter was started anew: "
            "your variables are lost; what was given or shown is loaded.",
        ),
    ],
)
def test_observation_has_only_the_sections_it_needs(execution: Execution, text: str) -> None:
    observation = PromptBuilder(PromptsConfig()).observation(execution, 3)
    assert shown(observation) == f"<interpreter>\n{text}\n</interpreter>"
    assert observation.execution is execution
    assert observation.message.media == execution.images


def test_a_picture_of_impossible_shape_is_named_but_not_shown() -> None:
    strip = image("strip", 5000, 2)
    execution = Execution(ExecStatus.OK, "", images=(strip, B))
    observation = PromptBuilder(PromptsConfig()).observation(execution, 1)
    text = shown(observation)
    assert "image_clue_1 (5000 x 2 pixels) is too long and narrow to be shown." in text
    assert "<image_clue_2>[b]</image_clue_2>" in text
    assert observation.message.media == (B,)


def test_observation_template_from_a_file(tmp_path: Path) -> None:
    builder = built(tmp_path, observation="<out>{images} {text}</out>\n\n")
    text = shown(builder.observation(Execution(ExecStatus.OK, "5", images=(B,)), 1))
    assert text == ("<out>Image Result:\n<image_clue_1>[b]</image_clue_1> Text Result:\n5</out>")


def test_refusal_names_the_fault_and_both_allowed_forms_in_one_line() -> None:
    observation = PromptBuilder(PromptsConfig()).refusal("the code block is empty")
    assert observation.execution is None
    first, line, last = shown(observation).split("\n")
    assert (first, last) == ("<interpreter>", "</interpreter>")
    for word in ("the code block is empty", "<code>", "```python", "<answer>", "\\boxed{...}"):
        assert word in line
