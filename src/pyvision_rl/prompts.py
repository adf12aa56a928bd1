r"""All the words around a task: its question, what code gave back, what was wrong with a turn.

In: ``TaskInput`` and ``Execution``. Out: ``Prompt`` and ``Observation``, as chat messages in which
images stand where the model sees them. Knows no tokens; the renderer keeps text that looks like a
control token harmless.

A template is a UTF-8 text file, or the name of a built-in one: ``question`` tells what the paper's
prompt tells, ``minimal`` holds the images and the question only. In it
``{name}`` is a placeholder when ``name`` is a lower-case word:

    question      {query} and {images}, once each; {image_info}, if wanted, once
    observation   {text} and {images}, once each

Any other such word is an error; ``{{name}}`` stands for a literal ``{name}``, and the argument of
a LaTeX command (``\boxed{answer}``) is left alone, as are all other braces. A line that holds
nothing but placeholders is left out when all of them are empty. Newlines around the text are
dropped.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path

from pyvision_rl.config import PromptsConfig
from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.images import MAX_ASPECT_RATIO, too_long
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

BUILT_IN = ("question", "minimal", "observation")
IMAGE_NAME = "image_clue_{}"
"""Tag around an image in the context, and its variable in the sandbox (paper section 3.1)."""
NO_OUTPUT = "(no output)"
NO_IMAGES = "(there are no images)"
STATE_LOST = "The interpreter was started anew: your variables are lost; the images are loaded."
ALLOWED_FORMS = (
    "End a reply either with one <code> block that holds a ```python fence, or with one <answer> "
    "block that holds \\boxed{...}."
)

_PLACEHOLDER = re.compile(
    r"\{\{(?P<literal>[a-z][a-z0-9_]*)\}\}"
    r"|\\[A-Za-z]+\{[a-z][a-z0-9_]*\}"
    r"|\{(?P<name>[a-z][a-z0-9_]*)\}"
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
        self._question = _load(
            "prompts.template",
            config.template or "question",
            ("query", "images"),
            ("image_info",),
        )
        self._observation = _load(
            "prompts.observation", config.observation or "observation", ("text", "images")
        )
        if config.system is not None:
            _check_characters(config.system, "prompts.system")
        self._system = config.system

    def prompt(self, task: TaskInput) -> Prompt:
        """Return the first messages of an episode and what the sandbox holds from the start.

        Raises:
            TaskError: A medium of the task cannot be shown.
        """
        for media in task.media:
            if media.kind != "image":
                raise TaskError(f"task {task.id!r} has a {media.kind}; prompts hold images only")
            if too_long(media.width, media.height):
                raise TaskError(
                    f"task {task.id!r} has an image of {media.width} x {media.height} pixels; "
                    f"the sides must be within a factor of {MAX_ASPECT_RATIO}"
                )
        bindings = {IMAGE_NAME.format(k): media for k, media in enumerate(task.media)}
        sizes = [f"{k}: {m.width} x {m.height} pixels" for k, m in bindings.items()]
        parts = self._question.fill(
            {
                "query": _text(task.question),
                "images": _tagged(bindings.items()),
                "image_info": _text("\n".join(sizes) or NO_IMAGES),
            }
        )
        system = () if self._system is None else (Message("system", (Text(self._system),)),)
        return Prompt((*system, Message("user", parts)), bindings)

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
            f"{name} ({m.width} x {m.height} pixels) is too long and narrow to be shown."
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
        images = (Text("Image Result:\n"), *_tagged(shown)) if shown else ()
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


def _tagged(images: Iterable[tuple[str, Media]]) -> tuple[Part, ...]:
    """Every image between tags of its name, one a line."""
    parts: list[Part] = []
    for name, media in images:
        parts += [Text("\n")] if parts else []
        parts += [Text(f"<{name}>"), media, Text(f"</{name}>")]
    return tuple(parts)


@dataclass(frozen=True, slots=True)
class _Slot:
    """A placeholder in a template."""

    name: str


@dataclass(frozen=True, slots=True)
class _Template:
    """A checked template: each line is a run of literal texts and slots."""

    lines: tuple[tuple[str | _Slot, ...], ...]

    def fill(self, values: Mapping[str, tuple[Part, ...]]) -> tuple[Part, ...]:
        """Return the text with ``values`` in place of the slots, neighbouring texts joined."""
        lines = [line for line in self.lines if not _is_dropped(line, values)]
        # A dropped first or last line leaves its blank neighbours at the border.
        while lines and not lines[0]:
            del lines[0]
        while lines and not lines[-1]:
            del lines[-1]
        parts: list[Part] = []
        for number, line in enumerate(lines):
            parts += [Text("\n")] if number else []
            for piece in line:
                parts += values[piece.name] if isinstance(piece, _Slot) else (Text(piece),)
        return tuple(_joined(parts))


def _is_dropped(line: tuple[str | _Slot, ...], values: Mapping[str, tuple[Part, ...]]) -> bool:
    """Whether the line has slots, all of them empty, and nothing else."""
    slots = [piece for piece in line if isinstance(piece, _Slot)]
    literal = "".join(piece for piece in line if isinstance(piece, str))
    return bool(slots) and not literal.strip() and not any(values[slot.name] for slot in slots)


def _joined(parts: Iterable[Part]) -> Iterator[Part]:
    """The parts, with texts that stand side by side made one."""
    for is_text, run in groupby(parts, lambda part: isinstance(part, Text)):
        if is_text:
            yield Text("".join(part.text for part in run if isinstance(part, Text)))
        else:
            yield from run


def _load(
    key: str, name: str, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> _Template:
    """The template of a config key: a built-in one or, for any other name, a file."""
    where = f"{key} = {name!r}"
    try:
        if name in BUILT_IN:
            data = (resources.files("pyvision_rl") / "templates" / f"{name}.txt").read_bytes()
        else:
            data = Path(name).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{where}: {error.strerror or error}; built-in templates: {', '.join(BUILT_IN)}"
        ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not UTF-8 text (byte {error.start})") from error
    text = text.replace("\r\n", "\n").strip("\n")
    _check_characters(text, where)
    template = _Template(tuple(tuple(_pieces(line)) for line in text.split("\n")))
    _check_placeholders(template, where, required, optional)
    return template


def _pieces(line: str) -> Iterator[str | _Slot]:
    """The literal texts and slots of one line."""
    done = 0
    for match in _PLACEHOLDER.finditer(line):
        if not match["name"] and not match["literal"]:
            continue
        if before := line[done : match.start()]:
            yield before
        yield _Slot(match["name"]) if match["name"] else f"{{{match['literal']}}}"
        done = match.end()
    if rest := line[done:]:
        yield rest


def _check_characters(text: str, where: str) -> None:
    r"""Refuse control characters: a ``\b`` unescaped on the way here turns \boxed to nonsense."""
    for number, line in enumerate(text.split("\n"), start=1):
        for character in line:
            if unicodedata.category(character) in ("Cc", "Cs") and character != "\t":
                raise ConfigError(
                    f"{where}: line {number} holds the control character U+{ord(character):04X}; "
                    "only newlines and tabs are allowed"
                )


def _check_placeholders(
    template: _Template, where: str, required: tuple[str, ...], optional: tuple[str, ...]
) -> None:
    """Refuse unknown, repeated and missing placeholders."""
    known = (*required, *optional)
    allowed = ", ".join(f"{{{name}}}" for name in known)
    seen: set[str] = set()
    for number, line in enumerate(template.lines, start=1):
        for piece in line:
            if not isinstance(piece, _Slot):
                continue
            if piece.name not in known:
                near = difflib.get_close_matches(piece.name, known, n=1, cutoff=0.5)
                hint = f"; did you mean {{{near[0]}}}?" if near else ""
                raise ConfigError(
                    f"{where}: line {number}: unknown placeholder {{{piece.name}}}{hint} "
                    f"Known: {allowed}; write {{{{{piece.name}}}}} for the plain text"
                )
            if piece.name in seen:
                raise ConfigError(f"{where}: line {number}: {{{piece.name}}} stands there twice")
            seen.add(piece.name)
    for name in required:
        if name not in seen:
            raise ConfigError(f"{where}: the placeholder {{{name}}} is missing; known: {allowed}")
