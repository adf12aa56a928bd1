"""The pages about the paper name what is there, with the values it has, and leave nothing out."""

from __future__ import annotations

import ast
import re
import tomllib
import typing
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pyvision_rl.config import Config, SelectionConfig
from pyvision_rl.config.base import Section
from pyvision_rl.config_file import load_config
from pyvision_rl.errors import ConfigError
from pyvision_rl.selection import check_filters

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "pyvision_rl"
MAP = ROOT / "docs" / "paper-map.md"
FAULTS = ROOT / "docs" / "reference-faults.md"
NUM_FAULTS = 34
NUM_CONTRADICTIONS = 17

FACTS = ("fact", "file", "option (default)", "like the reference")
CONTRADICTIONS = ("no.", "what disagrees", "file", "option (default)", "the other reading")
MISSING = ("not here yet",)
FAULT = ("no.", "the reference", "here", "shown by")

_SPAN = re.compile(r"`([^`]+)`(?: \(((?:[^()]|\([^()]*\))*)\))?")
Rows = list[tuple[str, ...]]


def tables(text: str) -> dict[tuple[str, ...], Rows]:
    """The rows of a page's tables, by the words of their head."""
    found: dict[tuple[str, ...], Rows] = {}
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        lines = [tuple(c.strip() for c in line.split("|")[1:-1]) for line in block.splitlines()]
        found.setdefault(lines[0], []).extend(lines[2:])
    return found


def wrong_in_map(text: str) -> list[str]:
    """What is wrong with the map."""
    found = tables(text)
    unread = found.keys() - {FACTS, CONTRADICTIONS, MISSING}
    wrong = [f"a table with another head: {' | '.join(head)}" for head in sorted(unread)]
    for fact, file, option, reference in found.get(FACTS, []):
        told = [*wrong_files(file), *wrong_options(option), *wrong_values(reference)]
        if not reference.startswith(("same", "none")) and "`" not in reference:
            told.append(f"wants same, none or a value: {reference!r}")
        wrong += [f"{fact[:40]}: {line}" for line in told]
    rows = found.get(CONTRADICTIONS, [])
    for number, _, file, option, reading in rows:
        told = [*wrong_files(file), *wrong_options(option), *wrong_values(reading)]
        if file != "not yet" and not reading.startswith(("none", "not yet")) and "`" not in reading:
            told.append("no other reading")
        wrong += [f"contradiction {number}: {line}" for line in told]
    wrong += wrong_numbers(rows, NUM_CONTRADICTIONS)
    if not found.get(MISSING):
        wrong.append("does not say what is not here yet")
    return wrong + wrong_block(text, found.get(FACTS, []))


def wrong_in_faults(text: str) -> list[str]:
    """What is wrong with the list of faults."""
    found = tables(text)
    rows = found.get(FAULT, [])
    wrong = [f"a table with another head: {' | '.join(h)}" for h in found.keys() - {FAULT}]
    for number, _, _, shown in rows:
        names = [span for span, _ in _SPAN.findall(shown)]
        if not names and not shown.startswith("no test: "):
            wrong.append(f"fault {number}: neither a test nor why there is none")
        wrong += [f"fault {number}: no test {name}" for name in names if not is_test(name)]
    claimed = re.search(r"^Not yet answered whole: ([\d, ]+)\.$", text, flags=re.MULTILINE)
    open_rows = ", ".join(row[0] for row in rows if "not yet" in row[2].lower())
    if (claimed[1] if claimed else "") != open_rows:
        wrong.append(f"not yet answered whole are {open_rows}, the page says {claimed}")
    return wrong + wrong_numbers(rows, NUM_FAULTS)


def wrong_numbers(rows: Rows, count: int) -> list[str]:
    have = Counter(row[0] for row in rows)
    wanted = Counter(str(number + 1) for number in range(count))
    missing, surplus = wanted - have, have - wanted
    return [f"no row {n}" for n in missing] + [f"row {n} is too much" for n in surplus]


def wrong_files(cell: str) -> list[str]:
    """A cell holds files, each with a name in it or not, or says that there are none yet."""
    if cell == "not yet":
        return []
    spans = [span for span, _ in _SPAN.findall(cell)]
    return [f"no {span}" for span in spans if not is_there(span)] or (
        [] if spans else ["names no file"]
    )


def is_there(span: str) -> bool:
    file, _, name = span.partition("::")
    path = next((p for p in (SRC / file, ROOT / file) if p.is_file()), None)
    return path is not None and (not name or name in names_in(path))


def is_test(span: str) -> bool:
    file, _, name = span.partition("::")
    path = ROOT / "tests" / file
    return path.is_file() and name.startswith("test_") and name in names_in(path)


@cache
def names_in(path: Path) -> frozenset[str]:
    """What a Python file defines at its top level."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(found)


def wrong_options(cell: str) -> list[str]:
    """A cell holds keys, each with its default behind it in parentheses, as TOML."""
    wrong = []
    for key, told in _SPAN.findall(cell):
        try:
            default = default_of(field_of(key))
            if not told:
                wrong.append(f"{key} lacks its default")
            elif told != default and value_of(told) != default:
                wrong.append(f"{key} is {default!r} by default, not {told}")
        except (KeyError, tomllib.TOMLDecodeError) as error:
            wrong.append(f"{key} ({told}): {error!r}")
    return wrong


def wrong_values(cell: str) -> list[str]:
    """Of ``key = value`` and ``--set key=value``: what is no key, no value, or the default."""
    wrong = []
    for span, _ in _SPAN.findall(cell):
        try:
            key, value = assignment(span)
            field = field_of(key)
            TypeAdapter(Annotated[field.annotation, field]).validate_python(value)
            if value == default_of(field):
                wrong.append(f"{span}: that is the default")
            if key.startswith("selection."):
                check_filters(SelectionConfig.model_validate({key.split(".")[1]: value}))
        except (KeyError, tomllib.TOMLDecodeError, ValidationError, ConfigError) as error:
            wrong.append(f"{span}: {error!r}")
    return wrong


def assignment(span: str) -> tuple[str, Any]:
    key, equals, value = span.removeprefix("--set ").partition("=")
    if not equals:
        raise KeyError(f"{span} sets nothing")
    return key.strip(), value_of(value)


def value_of(text: str) -> Any:
    return tomllib.loads(f"value = {text.strip()}")["value"]


def field_of(key: str) -> FieldInfo:
    """The field of a dotted key; the entries of a list of sections share theirs."""
    sections: tuple[type[Section], ...] = (Config,)
    field: FieldInfo | None = None
    for part in key.split("."):
        field = next((s.model_fields[part] for s in sections if part in s.model_fields), None)
        if field is None:
            raise KeyError(f"no key {key}")
        sections = tuple(sections_in(field.annotation))
    assert field is not None
    return field


def sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in typing.get_args(annotation):
        yield from sections_in(part)


def default_of(field: FieldInfo) -> Any:
    """The default as TOML has it; "required" and "not set" where there is none."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "not set"
    return list(value) if isinstance(value, tuple) else value


def wrong_block(text: str, facts: Rows) -> list[str]:
    """The block of all values has those of the tables, and no other."""
    blocks = re.findall(r"^```toml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    if len(blocks) != 1:
        return [f"{len(blocks)} blocks of TOML, wants one"]
    told: dict[str, Any] = {}
    for row in facts:
        for span, _ in _SPAN.findall(row[-1]):
            if " = " in span and not span.startswith("--set"):
                told.setdefault(*assignment(span))
    given = dict(flat(tomllib.loads(blocks[0]), told))
    return [
        f"{key}: {told.get(key)!r} in the tables, {given.get(key)!r} in the block"
        for key in sorted(told.keys() | given.keys())
        if told.get(key) != given.get(key)
    ]


def flat(
    node: dict[str, Any], leaves: dict[str, Any], above: str = ""
) -> Iterator[tuple[str, Any]]:
    for part, value in node.items():
        key = f"{above}{part}"
        if isinstance(value, dict) and key not in leaves:
            yield from flat(value, leaves, f"{key}.")
        else:
            yield key, value


def test_the_map_names_what_is_there_with_the_values_it_has() -> None:
    assert not wrong_in_map(MAP.read_text(encoding="utf-8"))


def test_every_fault_has_one_row_and_tests_that_exist() -> None:
    assert not wrong_in_faults(FAULTS.read_text(encoding="utf-8"))


def test_the_config_like_the_reference_is_one(tmp_path: Path) -> None:
    [block] = re.findall(r"```toml\n(.*?)```", MAP.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "like.toml").write_text(block, encoding="utf-8")
    config = load_config(tmp_path / "like.toml")
    check_filters(config.selection)
    assert config.selection.rank_unit == "trajectory"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("`advantages.py::credit`", "`advantage.py::credit`", "no advantage.py::credit"),
        ("`advantages.py::credit`", "`advantages.py::debit`", "no advantages.py::debit"),
        ("`sandbox/pool.py`", "", "names no file"),
        ("`train.clip_low` (0.2)", "`train.clip` (0.2)", "no key train.clip"),
        ("`train.clip_low` (0.2)", "`train.clip_low` (0.3)", "is 0.2 by default, not 0.3"),
        ("`train.clip_low` (0.2)", "`train.clip_low`", "lacks its default"),
        ("`policy.min_pixels` (not set)", "`policy.min_pixels` (1)", "is 'not set' by default"),
        ("`sft.stages.data.kind` (required)", "`sft.stages.kind` (required)", "no key sft.stages"),
        ("`train.dual_clip = 3.0`", "`train.dual_clip = 0.0`", "that is the default"),
        ("`train.dual_clip = 3.0`", "`train.dual_clip = -3.0`", "greater than or equal to 0"),
        ("`train.dual_clip = 3.0`", "`train.dual_clip = 4.0`", "4.0 in the tables, 3.0 in the"),
        ("`train.dual_clip = 3.0`", "`train.dual_clip`", "sets nothing"),
        ("`train.dual_clip = 3.0`", "", "wants same, none or a value"),
        ('"no_tool_image", "over', '"no_image", "over', "'no_image'"),
        ("dual_clip = 3.0\n", "dual_clip = 3.0\nclip_low = 0.1\n", "train.clip_low: None in the"),
        ("`rollout.max_tool_calls = 3`", "", "contradiction 4: no other reading"),
        ("| 4 | Turn budget", "| 5 | Turn budget", "no row 4"),
        ("| 4 | Turn budget", "| 5 | Turn budget", "row 5 is too much"),
        ("| fact | file |", "| what | file |", "a table with another head"),
        ("| not here yet |", "| nothing |", "does not say what is not here yet"),
    ],
)  # fmt: skip
def test_a_false_map_is_told(old: str, new: str, told: str) -> None:
    text = MAP.read_text(encoding="utf-8")
    assert old in text
    assert told in "\n".join(wrong_in_map(text.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("`unit/test_judge.py::test_a_long", "`unit/test_judges.py::test_a_long", "fault 15: no"),
        ("::test_a_long_answer_gets_no_tool_bonus", "::test_a_long_answer", "fault 15: no test"),
        ("::test_a_long_answer_gets_no_tool_bonus", "::REPLY", "fault 15: no test"),
        ("`unit/test_judge.py::test_a_long_answer_gets_no_tool_bonus`", "", "fault 15: neither"),
        ("\n| 34 |", "\n| 33 |", "no row 34"),
        ("\n| 34 |", "\n| 33 |", "row 33 is too much"),
        ("whole: 20, 26,", "whole: 20,", "not yet answered whole are 20, 26, 33"),
        ("Not yet: text-only models", "", "not yet answered whole are 26, 33"),
        ("| no. | the reference |", "| no. | theirs |", "a table with another head"),
    ],
)
def test_a_false_list_of_faults_is_told(old: str, new: str, told: str) -> None:
    text = FAULTS.read_text(encoding="utf-8")
    assert old in text
    assert told in "\n".join(wrong_in_faults(text.replace(old, new)))
