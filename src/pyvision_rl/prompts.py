r"""All the words around a task: its question, what code gave back, what was wrong with a turn.

In: ``TaskInput`` and ``Execution``. Out: ``Prompt`` and ``Observation``, as chat messages in which
images stand where the model sees them. ``prompts.context`` says which of a task's media stand in
the message, and which only its code finds (paper section 3.1: images both, videos code only); what
is said of videos is in ``video_prompt``. Knows no tokens; the renderer keeps text that looks like a
control token harmless.

The words are in template files (``template`` says how they are read): ``question`` tells what the
paper's prompt tells, ``minimal`` holds the images and the question only. Their placeholders:

    question      {query} and {images}, once each; {image_info} and {video_info}, if wanted, once;
                  lines may begin with the conditions of ``CONDITIONS``
    observation   {text} and {images}, once each

``prompts.style = "pyvision"`` is the layout of the released models: more than templates, as their
line breaks go by what code gave, which no placeholder can (``released_style``). It adds {width} and
{height} of the first medium to what a question may hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pyvision_rl.config import PromptsConfig
from pyvision_rl.errors import TaskError
from pyvision_rl.images import MAX_ASPECT_RATIO, too_long
from pyvision_rl.template import check_characters, encodable, load_template
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
    VideoFrames,
)

IMAGE_NAME = "image_clue_{}"
"""Tag around an image in the context, and its variable in the sandbox (paper section 3.1)."""
CONDITIONS = ("images", "hidden_images", "frames", "videos", "hidden_videos", "media")
"""What may stand before a line of a question template: the context holds images; images are in the
sandbox only; the context holds labelled frames of videos; videos are in the sandbox; the task has
videos and the sandbox none; the task has media."""
NO_OUTPUT = "(no output)"
STATE_LOST = (
    "The interpreter was started anew: your variables are lost; what was given or shown is loaded."
)
ALLOWED_FORMS = (
    "End a reply either with one <code> block that holds a ```python fence, or with one <answer> "
    "block that holds \\boxed{...}."
)


def template_names(config: PromptsConfig) -> tuple[str, str]:
    """Return the question's template and the observation's: those named, else the style's own."""
    released = config.style == "pyvision"
    own = ("pyvision", "pyvision_error") if released else ("question", "observation")
    return config.template or own[0], config.observation or own[1]


class PromptBuilder:
    """Writes prompts and observations; templates are checked once, at construction."""

    def __init__(self, config: PromptsConfig) -> None:
        """Read and check the templates.

        Raises:
            ConfigError: A file is missing, is not UTF-8 or holds a control character, or its
                placeholders are wrong.
        """
        question, observation = template_names(config)
        sizes = ("width", "height") if config.style == "pyvision" else ()
        self._question = load_template(
            "prompts.template",
            question,
            ("query", "images"),
            ("image_info", "video_info", *sizes),
            CONDITIONS,
        )
        self._observation = load_template("prompts.observation", observation, ("text", "images"))
        if config.system is not None:
            check_characters(config.system, "prompts.system")
        self._config = config

    def prompt(self, task: TaskInput) -> Prompt:
        """Return the first messages of an episode and what the sandbox holds from the start.

        Raises:
            TaskError: A medium of the task cannot be shown, or a frame cannot be decoded.
        """
        images = [media for media in task.media if media.kind == "image"]
        bindings = {IMAGE_NAME.format(k): media for k, media in enumerate(images)}
        sizes = [f"{name}: {m.width} x {m.height} pixels" for name, m in bindings.items()]
        hidden = self._config.context == "runtime"
        shown: list[tuple[str, Media, str | None]] = []
        if not hidden:
            shown += [(name, media, "") for name, media in bindings.items()]
        holds = {"hidden_images": hidden and bool(images), "media": bool(task.media)}
        facts: tuple[str, ...] = ()
        frames: tuple[VideoFrames, ...] = ()
        if len(images) < len(task.media):
            # Most tasks have none.
            from pyvision_rl.video_prompt import video_part

            videos = [media for media in task.media if media.kind == "video"]
            part = video_part(videos, self._config, IMAGE_NAME, len(images))
            facts, frames = part.facts, part.frames
            sizes += part.sizes
            shown += part.shown
            bindings |= {**{name: media for name, media, _ in part.shown}, **part.videos}
            labelled = bool(part.shown) and self._config.frame_labels
            holds |= {"frames": labelled, "videos": bool(part.videos)}
            holds["hidden_videos"] = not part.videos
        holds["images"] = bool(shown)
        for _, media, _ in shown:
            _refuse_long(task, media)
        told = {"image_info": "\n".join(sizes), "video_info": "\n".join(facts)}
        if self._config.style == "pyvision":
            from pyvision_rl.released_style import facts_of

            told = facts_of(task.media, bindings, sizes[len(images) :])
        parts = self._question.fill(
            {
                "query": _text(task.question),
                "images": _tagged(shown),
                **{name: _text(text) for name, text in told.items()},
            },
            {name for name in CONDITIONS if holds.get(name)},
        )
        said = self._config.system
        system = () if said is None else (Message("system", (Text(said),)),)
        return Prompt((*system, Message("user", parts)), bindings, frames)

    def observation(
        self, execution: Execution, first_image: int, media: Sequence[Media] = ()
    ) -> Observation:
        """Return what one code block gave, as the policy will read it.

        Args:
            execution: What happened.
            first_image: k of the first shown image's name ``image_clue_k``.
            media: Of the task; style pyvision goes by whether there is a video.
        """
        named = [(IMAGE_NAME.format(first_image + i), m) for i, m in enumerate(execution.images)]
        # The shape is the model's doing: a crash here would let model code end the run.
        shown = [(name, m) for name, m in named if not too_long(m.width, m.height)]
        remarks = [
            f"{name} ({m.width} x {m.height} pixels) is too long and narrow to be shown."
            for name, m in named
            if too_long(m.width, m.height)
        ]
        if execution.state_lost:
            remarks.append(STATE_LOST)
        if self._config.style == "pyvision":
            from pyvision_rl.released_style import observed

            return observed(execution, _error(execution), remarks, shown, media)
        lines = [execution.output.strip("\n"), _error(execution), *remarks]
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
    return (Text(encodable(text)),) if text else ()


def _tagged(images: Iterable[tuple[str, Media, str | None]]) -> tuple[Part, ...]:
    """Every (name, image, label) between tags of its name, the label before them, one a line.

    Those without a label stand bare, one after the other.
    """
    parts: list[Part] = []
    for name, media, label in images:
        if label is None:
            parts.append(media)
            continue
        parts += [Text("\n")] if parts else []
        parts += [Text(f"{label}<{name}>"), media, Text(f"</{name}>")]
    return tuple(parts)


def _refuse_long(task: TaskInput, media: Media) -> None:
    if too_long(media.width, media.height):
        raise TaskError(
            f"task {task.id!r} has an image of {media.width} x {media.height} pixels; "
            f"the sides must be within a factor of {MAX_ASPECT_RATIO}"
        )
