"""What the policy reads: the first question, observations and refusals."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvision_rl.config import PromptsConfig
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
)
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


def test_a_task_without_images_says_so(tmp_path: Path) -> None:
    text = shown(PromptBuilder(PromptsConfig()).prompt(TaskInput("t", "q")))
    assert text.startswith("q\n")
    assert "(there are no images)" in text
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
    with pytest.raises(TaskError, match="has a video"):
        builder.prompt(TaskInput("film", "q", (a_video(),)))


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
            "your variables are lost; the images are loaded.",
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
