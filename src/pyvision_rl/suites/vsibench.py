"""VSI-Bench: 5,130 questions on indoor videos, half with options, half with a number for an answer.

In: the JSONL or Parquet file of questions, and beside it the videos as ``{dataset}/{scene}.mp4`` or
in the published archives. ``FILE@debiased`` keeps the rows that are not pruned, ``FILE@pruned`` the
others, by the column ``pruned`` or the file ``pruned_ids.txt``. Out: tasks, and the unweighted mean
of eight task scores: accuracy for letters, mean relative accuracy (MRA) for numbers; direction is
the mean of its three levels.

MRA by protocol, for answer p and gold g, over theta = 0.5, 0.55, ..., 0.95:

| protocol | met when | numbers are |
|---|---|---|
| ``pyvision``, ``paper`` | ``|p - g| / |g| < 1 - theta``, the paper's formula | fractions |
| ``reference`` | the same | binary floating point |
| ``official``, ``lmms-eval`` | ``|p - g| / g <= 1 - theta`` | binary floating point |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.rewards.base import Grade
from pyvision_rl.rewards.relative_accuracy import read_number, relative_accuracy
from pyvision_rl.suites import choices, prompts, reports
from pyvision_rl.suites.base import (
    Final,
    Item,
    Items,
    Report,
    Scored,
    Settings,
    Undecided,
    protocol_name,
)
from pyvision_rl.suites.files import check_media, data_file, unpacked
from pyvision_rl.suites.first_number import first_number
from pyvision_rl.suites.protocols import LMMS_EVAL, OURS, paper
from pyvision_rl.suites.tables import Row, Table, is_hub, open_table
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import Fact, Gold, Media, Task
from pyvision_rl.video import file_video, require_av

NUM_ITEMS = 5_130
"""Of the whole file; how many its parts have is not stated here."""
LETTER_TYPES = (
    "object_rel_direction_easy",
    "object_rel_direction_medium",
    "object_rel_direction_hard",
    "object_rel_distance",
    "route_planning",
    "obj_appearance_order",
)
NUMBER_TYPES = (
    "object_counting",
    "object_abs_distance",
    "object_size_estimation",
    "room_size_estimation",
)
DIRECTION = "object_rel_direction"
TASKS = (
    *NUMBER_TYPES,
    "object_rel_distance",
    DIRECTION,
    "route_planning",
    "obj_appearance_order",
)
"""The eight scores that the overall one is the mean of."""
WHERE = (
    "get the data set nyu-visionx/VSI-Bench and give its folder (or one of its Parquet files): "
    "test.jsonl, and beside it arkitscenes.zip, scannet.zip, scannetpp.zip or what is in them"
)
PARTS = ("debiased", "pruned")
CORRECT_FROM = 0.5
"""MRA from which a number counts as correct, as the authors' code of PyVision-RL has it."""

_COLUMNS = ("id", "dataset", "scene_name", "question_type", "question", "ground_truth")
_FILES = ("test.jsonl", "test-*.parquet", "test.parquet", "*.parquet", "*.jsonl")
_FRAMES = "These are frames of a video."
_PHRASE = "Please answer the question using a single word or phrase."
_OPTION = re.compile(r"\s*([A-Z])[.):]\s*(.*\S)\s*", re.DOTALL)
_OFFICIAL_ERRORS = 1 - np.linspace(0.5, 0.95, 10)
_REFERENCE_ERRORS = [1.0 - (0.5 + 0.05 * k) for k in range(10)]


class VSIBench:
    """The suite ``vsibench``."""

    name = "vsibench"
    protocols: Mapping[str, Settings] = {
        "pyvision": OURS,
        "official": Settings(
            "VSI-Bench's own evaluation (thinking-in-space 51e089c): the first word of the text.",
            temperature=0.0,
        ),
        "reference": Settings(
            "The reward of PyVision-RL's code (62ca599): the first number or capital of the text."
        ),
        "lmms-eval": LMMS_EVAL,
        "paper": paper(temperature=0.01),
    }

    def tasks(self, path: Path, protocol: str, *, shuffle: int | None = None) -> TaskSet:
        """Return the questions of the file, each with its video (see ``Suite.tasks``)."""
        protocol = protocol_name(self, protocol)
        path, part = _part(path)
        file = self._file(path)
        if is_hub(file):
            raise ConfigError(f"path = {str(file)!r}: rows on the hub have no videos; {WHERE}")
        table = open_table(file, media=())
        table.need(*_COLUMNS, where=WHERE)
        parts = _parts(table, file)
        if part and not any(parts):
            raise TaskError(
                f"{file}@{part}: no row is known to be in it or not; this takes the column "
                f"'pruned', or pruned_ids.txt beside the file; {WHERE}"
            )
        part = part or (parts[0] if len(set(parts)) == 1 else "")
        require_av(f"{file}: a video")
        check_media(file.parent, [_video_name(row) for row in table.rows], WHERE)
        items = []
        for number, row in enumerate(table.rows):
            if part and parts[number] != part:
                continue
            with table.naming(number):
                found = _item(row, protocol, shuffle, file.parent)
                items.append(_of_part(found, part))
        return Items(self.name, items)

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the file of questions."""
        path, _ = _part(path)
        return (self._file(path),)

    def score(self, task: Task, final: Final, protocol: str) -> Grade | Undecided:
        """Return 1 for the right option, the mean relative accuracy of a number, else 0."""
        protocol = protocol_name(self, protocol)
        lettered = task.gold.facts.get("question_type") in LETTER_TYPES
        if protocol in ("pyvision", "paper"):
            if lettered:
                options, gold = choices.asked(task)
                return choices.grade(final.answer, gold, options)
            return _measured(final.answer, task.gold.answer)
        if lettered:
            return _kit_letter(final.said, task.gold.answer, protocol)
        return _kit_number(final.said, task.gold.answer, protocol)

    def aggregate(self, items: Sequence[Scored], protocol: str) -> Report:
        """Return the eight task scores and their mean."""
        parts = {part for item in items if (part := reports.fact(item, "part"))}
        whole = None if parts else NUM_ITEMS
        said = reports.notes(self, protocol, items, whole)
        said += [f"of the part {part!r} of the file" for part in sorted(parts)]
        usable = reports.graded(items)
        if not usable:
            return reports.nothing("overall", items, said)
        groups = reports.grouped(usable, lambda item: reports.fact(item, "question_type"))
        by_type = {name: reports.mean(group) for name, group in groups.items()}
        levels = [by_type[name] for name in by_type if name.startswith(DIRECTION)]
        by_task = {name: by_type[name] for name in TASKS if name in by_type}
        if levels:
            by_task[DIRECTION] = reports.average(levels)
        if lost := [name for name in TASKS if name not in by_task]:
            said.append(f"without {', '.join(lost)}: the mean of {len(by_task)} of 8 tasks")
        if 0 < len(levels) < 3:
            said.append(f"{DIRECTION} has {len(levels)} of 3 levels")
        overall = reports.average(list(by_task.values()))
        numbers = {"overall": overall, **by_type, **by_task}
        return Report("overall", numbers, reports.counted(items), tuple(said))

    def _file(self, path: Path) -> Path:
        return data_file(path, _FILES, WHERE)


def _part(path: Path) -> tuple[Path, str]:
    """The file, and which part of it is meant."""
    name, at, part = str(path).rpartition("@")
    return (Path(name), part) if at and part in PARTS else (path, "")


def _parts(table: Table, file: Path) -> list[str]:
    """Of which part each row is; empty where nobody can tell."""
    if "pruned" in table.columns:
        return [PARTS[bool(row["pruned"])] for row in table.rows]
    names = file.with_name("pruned_ids.txt")
    if not names.is_file():
        return [""] * len(table.rows)
    pruned = set(names.read_text(encoding="utf-8").split())
    return [PARTS[str(row["id"]) in pruned] for row in table.rows]


def _of_part(item: Item, part: str) -> Item:
    """The item, whose facts say of which part it is."""
    facts = {**item.gold.facts, "part": part} if part else item.gold.facts
    return replace(item, gold=replace(item.gold, facts=facts))


def _item(row: Row, protocol: str, shuffle: int | None, folder: Path) -> Item:
    kind, name = str(row["question_type"]), str(row["id"])
    answer = str(row["ground_truth"]).strip()
    facts: dict[str, Fact] = {"question_type": kind}
    options: tuple[str, ...] = ()
    if kind in LETTER_TYPES:
        shown = choices.drawn(_choices(row, answer), shuffle, name)
        options, answer = shown.options, shown.letter
        facts |= shown.facts
    elif kind not in NUMBER_TYPES:
        raise TaskError(f"question_type {kind!r} is not known")
    elif isinstance(why := read_number(answer), str):
        raise TaskError(f"ground_truth {answer!r}: {why}")
    text = _worded(str(row["question"]), options, protocol)
    gold = Gold(answer, "letter" if options else "float", facts)
    category = DIRECTION if kind.startswith(DIRECTION) else kind
    return Item(name, text, gold, category, partial(_video, folder, _video_name(row)))


def _choices(row: Row, answer: str) -> choices.Choices:
    """The options, which the file writes with their letters."""
    found = []
    for number, option in enumerate(row.get("options") or ()):
        parts = _OPTION.fullmatch(str(option))
        if parts is None or ord(parts[1]) - ord("A") != number:
            raise TaskError(f"option {option!r:.60} does not begin with its letter")
        found.append(parts[2])
    return choices.Choices(tuple(found), answer.upper())


def _video_name(row: Row) -> str:
    return f"{row['dataset']}/{row['scene_name']}.mp4"


def _video(folder: Path, name: str) -> tuple[Media, ...]:
    return (file_video(unpacked(folder, name)),)


def _worded(question: str, options: tuple[str, ...], protocol: str) -> str:
    if protocol in ("official", "lmms-eval"):
        if options:
            listed = f"Options:\n{choices.lines(options)}"
            return "\n".join((_FRAMES, question, listed, prompts.LETTER_DIRECTLY))
        return "\n".join((_FRAMES, question, _PHRASE))
    return prompts.listed(question, options, prompts.LETTER if options else prompts.NUMBER)


def _measured(answer: str | None, gold: str) -> Grade:
    """Our grade of a number: exactly one in the answer, compared without rounding."""
    right = read_number(gold)
    assert not isinstance(right, str), gold
    if answer is None:
        return Grade(0.0, False, "no answer")
    number = read_number(answer)
    if isinstance(number, str):
        return Grade(0.0, False, number)
    score = relative_accuracy(number, right)
    return Grade(score, score >= CORRECT_FROM, f"relative accuracy {score:g}")


def _kit_letter(text: str, gold: str, protocol: str) -> Grade:
    if protocol == "reference":
        capital = re.search("[A-Z]", text)
        right = text.strip() == gold or (capital is not None and capital[0] == gold)
        return Grade(float(right), right, "first capital")
    right = _first_word(text).lower() == gold.lower()
    return Grade(float(right), right, "first word")


def _kit_number(text: str, gold: str, protocol: str) -> Grade:
    """The grade by a kit's reading of numbers, and its rounding."""
    match protocol:
        case "reference":
            found = re.search(r"[-+]?\d*\.?\d+", text)
            number = float(found[0]) if found else None
        case "lmms-eval":
            number = first_number(text)
        case _:
            number = _as_float(_first_word(text))
    if number is None:
        return Grade(0.0, False, "no number")
    right = read_number(gold)
    assert not isinstance(right, str), gold
    score = _floating(number, float(right), protocol)
    return Grade(score, score >= CORRECT_FROM, f"relative accuracy {score:g}")


def _floating(number: float, gold: float, protocol: str) -> float:
    """MRA in binary floating point, as the two codes compute it."""
    if gold == 0:  # Where the official code divides by zero.
        return float(number == 0)
    if protocol == "reference":
        error = abs(number - gold) / abs(gold)
        return sum(error < most for most in _REFERENCE_ERRORS) / len(_REFERENCE_ERRORS)
    return float((abs(number - gold) / gold <= _OFFICIAL_ERRORS).mean())


def _first_word(text: str) -> str:
    return text.split(" ")[0].rstrip(".").strip()


def _as_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
