r"""All the words around a task: its question, what code gave back, what was wrong with a turn.

In: ``TaskInput`` and ``Execution``. Out: ``Prompt`` and ``Observation``, as chat messages in which
images stand where the model sees them. ``prompts.context`` says which of a task's media stand in
the message, and which only its code finds (paper section 3.1: images both, videos code only). Knows
no tokens; the renderer keeps text that looks like a control token harmless.

The words are in template files (``template`` says how they are read): ``question`` tells what the
paper's prompt tells, ``minimal`` holds the images and the question only. Their placeholders:

    question      {query} and {images}, once each; {image_info} and {video_info}, if wanted, once;
                  lines may begin with the conditions of ``CONDITIONS``
    observation   {text} and {images}, once each
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pyvision_rl.config import PromptsConfig
from pyvision_rl.context import IMAGE_NAME, Placed, place
from pyvision_rl.images import too_long
from pyvision_rl.template import check_characters, load_template
from pyvision_rl.types import (
    ExecStatus,
    Execution,
    Media,
    Message,
    Observation,
    Part,
    Prompt,
    TaskInput,
    Text,
)

CONDITIONS = ("images", "hidden_images", "frames", "videos", "media")
"""What may stand before a line of a question template: the context holds images; images are in the
sandbox only; the context holds frames of videos; videos are in the sandbox; the task has media."""
NO_OUTPUT = "(no output)"
STATE_LOST = "The interpreter was started anew: your variables are lost; the images are loaded."
ALLOWED_FORMS = (
    "End a reply either with one <code> block that holds a ```python fence, or with one <answer> "
    "block that holds \\boxed{...}."
)

_SURROGATE = re.compile("[\ud800-\udfff]")


class PromptBuilder:
    """Writes prompts and observations; templates are checked once, at construction."""

    def __init__(self, config: PromptsConfig) -> None:
        """Read and check the templates.

        Raises:
            ConfigError: A file is missing, is not UTF-8 or holds a control character, or its
                placeholders are wrong.
        """
        self._question = load_template(
            "prompts.template",
            config.template or "question",
            ("query", "images"),
            ("image_info", "video_info"),
            CONDITIONS,
        )
        self._observation = load_template(
            "prompts.observation", config.observation or "observation", ("text", "images")
        )
        if config.system is not None:
            check_characters(config.system, "prompts.system")
        self._config = config

    def prompt(self, task: TaskInput) -> Prompt:
        """Return the first messages of an episode and what the sandbox holds from the start.

        Raises:
            TaskError: A medium of the task cannot be shown, or a frame cannot be decoded.
        """
        placed = place(task, self._config)
        parts = self._question.fill(
            {
                "query": _text(task.question),
                "images": _tagged(_shown(placed)),
                "image_info": _text("\n".join(_image_lines(placed))),
                "video_info": _text("\n".join(_video_lines(placed))),
            },
            _conditions(placed),
        )
        said = self._config.system
        system = () if said is None else (Message("system", (Text(said),)),)
        return Prompt((*system, Message("user", parts)), placed.bindings)

    def observation(self, execution: Execution, first_image: int) -> Observation:
        """Return what one code block gave, as the policy will read it.

        Args:
            execution: What happened.
            first_image: k of the first shown image's name ``image_clue_k``.
        """
        named = [(IMAGE_NAME.format(first_image + i), m) for i, m in enumerate(execution.images)]
        # The shape is the model's doing: a crash here would let model code end the run.
        shown = [(name, m) for name, m in named if not too_long(m.width, m.height)]
        hidden = [
            f"{name} ({_pixels(m)}) is too long and narrow to be shown."
            for name, m in named
            if too_long(m.width, m.height)
        ]
        lines = [execution.output.strip("\n"), _error(execution), *hidden]
        if execution.state_lost:
            lines.append(STATE_LOST)
        text = "\n".join(line for line in lines if line)
        if text:
            text = f"Text Result:\n{text}"
        elif not shown:
            text = NO_OUTPUT
        tagged = _tagged((name, media, "") for name, media in shown)
        images = (Text("Image Result:\n"), *tagged) if shown else ()
        parts = self._observation.fill({"text": _text(text), "images": images})
        return Observation(Message("user", parts), execution)

    def refusal(self, why: str) -> Observation:
        """Return the answer to a malformed turn: what is wrong with it, and what is allowed."""
        text = f"The reply was not used: {why}. {ALLOWED_FORMS}"
        parts = self._observation.fill({"text": _text(text), "images": ()})
        return Observation(Message("user", parts), None)


def _error(execution: Execution) -> str:
    """Why the code did not run to its end; empty when it did."""
    if execution.status is ExecStatus.OK:
        return ""
    return execution.error.strip("\n") or f"The code was stopped: {execution.status}."


def _text(text: str) -> tuple[Part, ...]:
    """The text as parts: none when empty. Lone surrogates cannot be encoded and are replaced."""
    return (Text(_SURROGATE.sub("\ufffd", text)),) if text else ()


def _tagged(images: Iterable[tuple[str, Media, str]]) -> tuple[Part, ...]:
    """Every (name, image, label) between tags of its name, the label before them, one a line."""
    parts: list[Part] = []
    for name, media, label in images:
        parts += [Text("\n")] if parts else []
        parts += [Text(f"{label}<{name}>"), media, Text(f"</{name}>")]
    return tuple(parts)


def _shown(placed: Placed) -> Iterator[tuple[str, Media, str]]:
    """What the model sees from the start: name, image, and of a frame which it is."""
    if placed.images_shown:
        yield from ((name, media, "") for name, media in placed.images.items())
    for video, frames in placed.frames.items():
        for f in frames:
            label = f"{_called(video, placed)}, frame {f.number}, at {_number(f.time_s)} s: "
            yield f.name, f.media, label


def _image_lines(placed: Placed) -> Iterator[str]:
    """A line per image, and one per video for its frames in the context."""
    yield from (f"{name}: {_pixels(media)}" for name, media in placed.images.items())
    for video, frames in placed.frames.items():
        names = " to ".join(dict.fromkeys((frames[0].name, frames[-1].name)))
        yield f"{names}, from {_called(video, placed)}: {_pixels(frames[0].media)}"


def _video_lines(placed: Placed) -> Iterator[str]:
    """A line per video, in or out of the sandbox."""
    for name, media in placed.videos.items():
        assert media.video is not None
        facts, last = media.video, media.video.num_frames - 1
        yield (
            f"{_called(name, placed)}: {_pixels(media)}, number of frames: {facts.num_frames} "
            f"(numbered 0 to {last}), frames per second: {_number(facts.fps)}, "
            f"duration: {_number(facts.duration_s)} seconds"
        )


def _conditions(placed: Placed) -> set[str]:
    """Those of ``CONDITIONS`` that hold."""
    holds = {
        "images": bool(placed.frames or (placed.images and placed.images_shown)),
        "hidden_images": bool(placed.images) and not placed.images_shown,
        "frames": bool(placed.frames),
        "videos": bool(placed.videos) and placed.videos_bound,
        "media": bool(placed.images or placed.videos),
    }
    return {name for name in CONDITIONS if holds[name]}


def _called(video: str, placed: Placed) -> str:
    """What a video is called: its variable, or a plain name where there is none."""
    return video if placed.videos_bound else video.replace("_clue_", " ")


def _pixels(media: Media) -> str:
    return f"{media.width} x {media.height} pixels"


def _number(value: float) -> str:
    """At most two decimals; three digits below one."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value >= 1 else f"{value:.3g}"
