r"""Whole conversations as files: the layout in which cold-start data are published and exchanged.

In: a JSON array or JSONL file, or a run folder. Out: ``Conversation`` records and every ``Fault``
found; or such a file with its images. A record is::

    {"conversations": [{"from": "human", "value": "<image_clue_0><image></image_clue_0>\n\n..."},
                       {"from": "gpt", "value": "<code>...</code>"}, ...],
     "images": ["images/a.png", ...], "source_dataset": "..."}

Each ``<image>`` takes the next image. ``messages`` with ``role`` and ``content`` is read too, as
are the role names user, assistant, observation and tool. Words are kept as they stand: whether
they are those of ``[prompts]`` is for whoever joins the two. Videos are not read.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pyvision_rl.absent import no_file
from pyvision_rl.conversations import Conversation, learnable, spoken, turn_of
from pyvision_rl.errors import ConfigError, RunError, TaskError
from pyvision_rl.media import file_media, write_png
from pyvision_rl.tasks.rows import read_jsonl
from pyvision_rl.template import encodable, spelt_out
from pyvision_rl.types import Media, Message, Part, StopReason, Text

MARKER = "<image>"
FILE = "conversations.json"
IMAGES = "images"
SHOWN_FAULTS = 5

_ROLES: Mapping[Any, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "observation": "user",
    "tool": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
_WRITTEN = {"system": "system", "user": "human", "assistant": "gpt"}

Found: TypeAlias = dict[Path, Media | str]
"""Image file -> its record, or what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with one record."""

    record: int
    """Its number in the file, from 1; of a JSONL file the line."""
    key: str
    """Where in it, e.g. ``images[2]``; empty when there is no record."""
    message: str

    def __str__(self) -> str:
        """One line for people."""
        return f"record {self.record}: {f'{self.key}: ' if self.key else ''}{self.message}"


@dataclass(frozen=True, slots=True)
class Written:
    """What an export made of a run; what was left out has the first reason that holds."""

    path: Path
    written: int
    not_right: int = 0
    """Wrong, ungraded, or not kept."""
    literal_marker: int = 0
    """Their text holds a literal ``<image>``, which would be read as a picture."""
    blank: int = 0
    """A message of theirs has no words; a file that holds one is refused as a whole."""
    cut: int = 0
    """A turn met its token limit. A file cannot say so, and SFT would teach to stop in it."""
    not_utf8: int = 0
    """Half a surrogate pair: in any other spelling it would be taught as what nobody wrote."""


def scan_conversations(
    path: Path, image_root: Path | None = None
) -> tuple[list[Conversation], list[Fault]]:
    """Return the good records and all faults of a file; decodes every image once.

    Args:
        path: A JSON array, or a ``.jsonl`` file.
        image_root: What image paths are relative to; None is the file's folder.

    Raises:
        ConfigError: No such file.
        TaskError: The file as a whole is neither.
    """
    records = list(_records(path))
    root = path.parent if image_root is None else image_root
    images = _decoded({root / name for _, raw in records for name in _image_names(raw)})
    made: list[Conversation] = []
    faults: list[Fault] = []
    for number, raw in records:
        found, wrong = _conversation(raw, root, images)
        faults += [Fault(number, key, message) for key, message in wrong]
        if found is not None and not wrong:
            made.append(found)
    return made, faults


def read_conversations(path: Path, image_root: Path | None = None) -> list[Conversation]:
    """Return the records of a file without faults.

    Raises:
        ConfigError: No such file.
        TaskError: A record is faulty (the first faults are listed), or there is none.
    """
    made, faults = scan_conversations(path, image_root)
    if faults:
        lines = [f"{path}: {len(faults)} fault{'s' if len(faults) > 1 else ''}"]
        lines += [f"  {fault}" for fault in faults[:SHOWN_FAULTS]]
        more = len(faults) - SHOWN_FAULTS
        raise TaskError("\n".join(lines + ([f"  ... and {more} more"] if more > 0 else [])))
    if not made:
        raise TaskError(f"{path}: holds no conversations")
    return made


def write_conversations(run: Path, out: Path) -> Written:
    """Write what can be learnt from a run as ``out/conversations.json`` and ``out/images/``.

    Args:
        run: A run folder or rollouts file.
        out: A new or empty folder.

    Raises:
        RunError: ``out`` holds something, the run cannot be read, or lacks an image. Nothing of
            the export is left then.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is there already and not an empty folder; name another")
    lines: list[str] = []
    left_out: Counter[str] = Counter()
    partial = out / f"{FILE}.part"
    try:
        for saved, good in learnable(run):
            said = spoken(saved.trajectory, saved.task.input.data_source)
            if why := _unfit(said) if good else "not_right":
                left_out[why] += 1
            else:
                lines.append(json.dumps(_record(said, out), ensure_ascii=False))
        out.mkdir(parents=True, exist_ok=True)
        partial.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
        partial.replace(out / FILE)
    except BaseException:
        # The next attempt wants an empty folder.
        shutil.rmtree(out / IMAGES, ignore_errors=True)
        partial.unlink(missing_ok=True)
        raise
    return Written(out / FILE, len(lines), **left_out)


def _messages(said: Conversation) -> list[Message]:
    messages = list(said.prompt)
    for turn in said.turns:
        messages.append(Message("assistant", (Text(turn.text),)))
        messages += [] if turn.reply is None else [turn.reply]
    return messages


def _unfit(said: Conversation) -> str:
    """The count of ``Written`` for what the layout cannot hold as it is; empty if it can."""
    messages = _messages(said)
    values = [_value(message.parts) for message in messages]
    if any(v.count(MARKER) != len(m.media) for v, m in zip(values, messages, strict=True)):
        return "literal_marker"
    if not all(value.strip() for value in values):
        return "blank"
    if any(turn.stop is StopReason.LENGTH for turn in said.turns):
        return "cut"
    return "" if all(encodable(value) == value for value in values) else "not_utf8"


def _record(said: Conversation, out: Path) -> dict[str, Any]:
    """The JSON of a conversation, its images written."""
    messages = _messages(said)
    images = []
    for media in (media for message in messages for media in message.media):
        try:
            images.append(write_png(media, out / IMAGES).relative_to(out).as_posix())
        except TaskError as error:
            raise RunError(
                f"{error}; write the images of every step with run.media_every = 1"
            ) from error
    rows = [{"from": _WRITTEN[m.role], "value": _value(m.parts)} for m in messages]
    return {"conversations": rows, "images": images, "source_dataset": spelt_out(said.source)}


def _value(parts: Sequence[Part]) -> str:
    return "".join(part.text if isinstance(part, Text) else MARKER for part in parts)


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (number, record), or (number, what is wrong) where a line holds none."""
    if not path.is_file():
        raise ConfigError(no_file(path))
    if path.suffix == ".jsonl":
        yield from read_jsonl(path)
        return
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, list):
        raise TaskError(f"{path}: holds a {type(found).__name__}, wants an array of records")
    for number, raw in enumerate(found, 1):
        wrong = f"a {type(raw).__name__}, wants an object"
        yield number, raw if isinstance(raw, dict) else wrong


def _image_names(raw: Any) -> list[str]:
    names = raw.get("images") if isinstance(raw, dict) else None
    return [n for n in names if isinstance(n, str) and n] if isinstance(names, list) else []


def _decoded(paths: Iterable[Path]) -> Found:
    """Each file's record, whose pixels are read again when they are needed."""

    def decode(path: Path) -> Media | str:
        try:
            return replace(file_media(path), source=path)
        except TaskError as error:
            return str(error)

    ordered = sorted(paths)
    with ThreadPoolExecutor() as pool:
        return dict(zip(ordered, pool.map(decode, ordered), strict=True))


def _conversation(
    raw: Any, root: Path, images: Found
) -> tuple[Conversation | None, list[tuple[str, str]]]:
    """One record, and (key, message) of everything wrong with it."""
    if isinstance(raw, str):
        return None, [("", raw)]
    wrong: list[tuple[str, str]] = []
    key = "messages" if "messages" in raw and "conversations" not in raw else "conversations"
    said = _said(raw.get(key), key, wrong)
    if isinstance(told := raw.get("system"), str) and told.strip() and said:
        if said[0][0] == "system":
            wrong.append(("system", f"stands beside the system message in {key}; use one"))
        said.insert(0, ("system", told))
    if raw.get("tools"):
        wrong.append(("tools", "are not read"))
    media = _media(raw, root, images, wrong)
    markers = sum(text.count(MARKER) for _, text in said)
    if not wrong and markers != len(media):
        wrong.append(("images", f"{len(media)} for {markers} {MARKER} in the text"))
    if wrong:
        return None, wrong
    waiting = iter(media)
    messages = [Message(role, _parts(text, waiting)) for role, text in said]
    first = next(i for i, m in enumerate(messages) if m.role == "assistant")
    turns = []
    for index in range(first, len(messages), 2):
        reply = messages[index + 1] if index + 1 < len(messages) else None
        turns.append(turn_of(said[index][1], StopReason.END, reply))
    source = raw.get("source_dataset")
    source = source if isinstance(source, str) else ""
    return Conversation(tuple(messages[:first]), tuple(turns), source), []


def _said(
    rows: Any, key: str, wrong: list[tuple[str, str]]
) -> list[tuple[Literal["system", "user", "assistant"], str]]:
    """The (role, text) of each message; faults go to ``wrong``."""
    if not isinstance(rows, list) or not rows:
        wrong.append((key, "is missing or empty, wants a list of messages"))
        return []
    said = []
    for index, row in enumerate(rows):
        place = f"{key}[{index}]"
        if not isinstance(row, dict):
            wrong.append((place, f"a {type(row).__name__}, wants an object"))
            continue
        name, body = ("from", "value") if "from" in row else ("role", "content")
        role, text = row.get(name), row.get(body)
        if not isinstance(role, str) or role not in _ROLES:
            wrong.append((f"{place}.{name}", f"is {role!r:.40}; known: {', '.join(_ROLES)}"))
        elif not isinstance(text, str) or not text.strip():
            wrong.append((f"{place}.{body}", f"is {text!r:.40}, wants text that is not empty"))
        else:
            said.append((_ROLES[role], text))
            if _ROLES[role] == "assistant" and MARKER in text:
                wrong.append((f"{place}.{body}", f"an assistant cannot write {MARKER}"))
    if not wrong:
        _check_order([role for role, _ in said], key, wrong)
    return said


def _check_order(roles: Sequence[str], key: str, wrong: list[tuple[str, str]]) -> None:
    """After a system message, if any, user and assistant take turns, and the assistant ends."""
    start = 1 if roles[0] == "system" else 0
    for index, role in enumerate(roles[start:], start):
        wanted = ("user", "assistant")[(index - start) % 2]
        if role != wanted:
            wrong.append((f"{key}[{index}]", f"is of the {role}, wants one of the {wanted}"))
            return
    if roles[-1] != "assistant":
        wrong.append((key, "does not end with a message of the assistant"))


def _media(
    raw: Mapping[str, Any], root: Path, images: Found, wrong: list[tuple[str, str]]
) -> list[Media]:
    if raw.get("videos"):
        wrong.append(("videos", "are not read"))
    names = raw.get("images") or []
    if not isinstance(names, list):
        wrong.append(("images", f"is a {type(names).__name__}, wants a list of paths"))
        return []
    media: list[Media] = []
    for index, name in enumerate(names):
        usable = isinstance(name, str) and name
        found = images[root / name] if usable else f"is {name!r:.40}, wants a path"
        if isinstance(found, Media):
            media.append(found)
        else:
            wrong.append((f"images[{index}]", found))
    return media


def _parts(text: str, media: Iterator[Media]) -> tuple[Part, ...]:
    """Text and images in the order in which the model reads them."""
    first, *rest = text.split(MARKER)
    parts: list[Part] = [Text(first)] if first else []
    for piece in rest:
        parts += [next(media), *([Text(piece)] if piece else [])]
    return tuple(parts)
