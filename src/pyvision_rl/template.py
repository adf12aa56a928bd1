r"""Text templates: read them, check them, fill them with texts and images.

In: a UTF-8 text file, or the name of a built-in one, and what its placeholders stand for. Out:
parts of a message. In a template ``{name}`` is a placeholder when ``name`` is a lower-case word.
Any other such word is an error; ``{{name}}`` stands for a literal ``{name}``, and the argument of a
LaTeX command (``\boxed{answer}``) is left alone, as are all other braces. Newlines around the text
are dropped.

A line that holds nothing but placeholders is left out when all of them are empty; one that begins
with ``{name?}`` stands only where the condition of that name holds. Knows no task.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path

from pyvision_rl.errors import ConfigError
from pyvision_rl.types import Part, Text

BUILT_IN = (
    *("question", "minimal", "observation", "pyvision", "pyvision_error"),
    *("direct", "reason"),
)

_PLACEHOLDER = re.compile(
    r"\{\{(?P<literal>[a-z][a-z0-9_]*)\}\}"
    r"|\\[A-Za-z]+\{[a-z][a-z0-9_]*\}"
    r"|\{(?P<name>[a-z][a-z0-9_]*)\}"
)
_CONDITION = re.compile(r"\{([a-z][a-z0-9_]*)\?\}")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class _Slot:
    """A placeholder in a template."""

    name: str


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a template: a run of literal texts and slots, perhaps under a condition."""

    pieces: tuple[str | _Slot, ...]
    condition: str | None = None

    def is_dropped(self, values: Mapping[str, tuple[Part, ...]], true: Collection[str]) -> bool:
        """Return whether its condition fails, or it has slots, all of them empty, and no more."""
        if self.condition is not None and self.condition not in true:
            return True
        slots = [piece for piece in self.pieces if isinstance(piece, _Slot)]
        literal = "".join(piece for piece in self.pieces if isinstance(piece, str))
        return bool(slots) and not literal.strip() and not any(values[s.name] for s in slots)


@dataclass(frozen=True, slots=True)
class Template:
    """A checked template."""

    lines: tuple[_Line, ...]

    def fill(
        self, values: Mapping[str, tuple[Part, ...]], true: Collection[str] = ()
    ) -> tuple[Part, ...]:
        """Return the text with ``values`` in place of the slots, neighbouring texts joined.

        Args:
            values: For every placeholder what stands in its place.
            true: The conditions that hold.
        """
        lines = [line.pieces for line in self.lines if not line.is_dropped(values, true)]
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


def _joined(parts: Iterable[Part]) -> Iterator[Part]:
    """The parts, with texts that stand side by side made one."""
    for is_text, run in groupby(parts, lambda part: isinstance(part, Text)):
        if is_text:
            yield Text("".join(part.text for part in run if isinstance(part, Text)))
        else:
            yield from run


def load_template(
    key: str,
    name: str,
    required: tuple[str, ...],
    optional: tuple[str, ...] = (),
    conditions: tuple[str, ...] = (),
) -> Template:
    """Return the template of a config key: a built-in one or, for any other name, a file.

    Args:
        key: For error messages.
        name: One of ``BUILT_IN``, or a path.
        required: Placeholders that must stand in it, once each.
        optional: Placeholders that may.
        conditions: What lines may begin with.

    Raises:
        ConfigError: The file is missing, is not UTF-8 or holds a control character, or its
            placeholders are wrong.
    """
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
    check_characters(text, where)
    template = Template(tuple(_line(line) for line in text.split("\n")))
    _check_placeholders(template, where, required, optional)
    for number, line in enumerate(template.lines, start=1):
        if line.condition is not None and line.condition not in conditions:
            known = ", ".join(f"{{{c}?}}" for c in conditions) or "none"
            raise ConfigError(
                f"{where}: line {number}: unknown condition {{{line.condition}?}}; known: {known}"
            )
        text = "".join(piece for piece in line.pieces if isinstance(piece, str))
        if not set(_CONDITION.findall(text)).isdisjoint(conditions):
            raise ConfigError(f"{where}: line {number}: a condition stands first, and alone")
    return template


def _line(text: str) -> _Line:
    """One line: its condition, if it begins with one, and its pieces."""
    found = _CONDITION.match(text)
    return _Line(tuple(_pieces(text[found.end() if found else 0 :])), found and found[1])


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


def check_characters(text: str, where: str) -> None:
    r"""Refuse control characters: a ``\b`` unescaped on the way here turns \boxed to nonsense.

    Raises:
        ConfigError: There is one.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        for character in line:
            if unicodedata.category(character) in ("Cc", "Cs") and character != "\t":
                raise ConfigError(
                    f"{where}: line {number} holds the control character U+{ord(character):04X}; "
                    "only newlines and tabs are allowed"
                )


def encodable(text: str) -> str:
    """Return text with U+FFFD for lone surrogates: UTF-8 has none, and tokenizers refuse them."""
    return _SURROGATE.sub("\ufffd", text)


def spelt_out(text: str) -> str:
    r"""Return text with lone surrogates as ``\ud800``: for files and people, who can tell which."""
    return text.encode("utf-8", "backslashreplace").decode()


def _check_placeholders(
    template: Template, where: str, required: tuple[str, ...], optional: tuple[str, ...]
) -> None:
    """Refuse unknown, repeated and missing placeholders."""
    known = (*required, *optional)
    allowed = ", ".join(f"{{{name}}}" for name in known)
    seen: set[str] = set()
    for number, line in enumerate(template.lines, start=1):
        for piece in line.pieces:
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
