"""TIR-Bench: 1,215 items of 13 tasks that want images turned, cut, searched and compared.

In: ``TIR-Bench.json`` beside ``data.zip`` or its folder. Out: tasks, and the mean over all items,
two of the tasks giving shares: ``jigsaw`` the pieces in place, ``spot_difference`` how much of two
sets is common. The scoring rules are in ``tirbench_rules``. Options stand in the prompts, some in
the pictures, so their order cannot be drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.rewards.base import Grade
from pyvision_rl.rewards.choices import options_of
from pyvision_rl.suites import reports, tirbench_rules
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
from pyvision_rl.suites.files import MAX_NAME, check_media, data_file, picture
from pyvision_rl.suites.protocols import OURS, paper
from pyvision_rl.suites.tables import Row, Table, is_hub, open_table
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import Fact, Gold, Media, Task

NUM_ITEMS = 1_215
WHERE = (
    "get the data set Agents-X/TIR-Bench and give its folder: TIR-Bench.json, and beside it "
    "data.zip or the folder that is in it"
)
_FILES = ("TIR-Bench.json", "*.json", "*.jsonl", "*.parquet")
_PICTURES = ("image_1", "image_2")
# The files give longer readings of these two; the authors' scorer corrects them.
_CORRECTIONS = {"60.jpg": "mobi", "62.jpg": "aires"}


class TIRBench:
    """The suite ``tirbench``."""

    name = "tirbench"
    protocols: Mapping[str, Settings] = {
        "pyvision": OURS,
        "official": Settings(
            "TIR-Bench's calculate_score.py (f79c756) on the final answer. Its first step, a "
            "language model that extracts the answer from the text, is the agent's own box here; "
            "its last, math-verify, is our comparison of numbers."
        ),
        "paper": paper(temperature=0.5, top_k=20),
    }

    def tasks(self, path: Path, protocol: str, *, shuffle: int | None = None) -> TaskSet:
        """Return the items of the file (see ``Suite.tasks``).

        Raises:
            ConfigError: ``shuffle`` is a seed.
        """
        protocol_name(self, protocol)
        if shuffle is not None:
            raise ConfigError(
                "suite 'tirbench' has its options in prompts and pictures: their order cannot be "
                "drawn; leave shuffle_options = false"
            )
        file = self._file(path)
        # Paths are short, so they are kept with the rows; a hub's pictures are not.
        table = open_table(file, media=_PICTURES if is_hub(file) else ())
        table.need("prompt", "answer", "image_1", where=WHERE)
        if not is_hub(file):
            check_media(file.parent, _paths(table), WHERE)
        names = _names(table)
        items = []
        for number in range(len(table.rows)):
            try:
                items.append(_item(table, number, names[number], file.parent))
            except TaskError as error:
                raise TaskError(f"{table.name}: item {number + 1}: {error}") from error
        return Items(self.name, items)

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the file of questions."""
        return () if is_hub(path) else (self._file(path),)

    def score(self, task: Task, final: Final, protocol: str) -> Grade | Undecided:
        """Return the score by the rules of the item's task."""
        if protocol_name(self, protocol) == "official":
            return tirbench_rules.official(task, final)
        return tirbench_rules.strict(task, final)

    def aggregate(self, items: Sequence[Scored], protocol: str) -> Report:
        """Return the mean over items, and of each task."""
        said = reports.notes(self, protocol, items, NUM_ITEMS)
        usable = reports.graded(items)
        if not usable:
            return reports.nothing("overall", items, said)
        groups = reports.grouped(usable, lambda item: item.task.input.category)
        numbers = {"overall": reports.mean(usable)}
        numbers |= {name: reports.mean(group) for name, group in groups.items()}
        return Report("overall", numbers, reports.counted(items), tuple(said))

    def _file(self, path: Path) -> Path:
        return data_file(path, _FILES, WHERE)


def _names(table: Table) -> list[str]:
    """The ids of the items: the first column of ids that tells all apart, else their places."""
    for column in ("question_id", "id"):
        names = [str(row.get(column, "")) for row in table.rows]
        if "" not in names and len(set(names)) == len(names):
            return names
    return [str(place) for place in range(len(table.rows))]


def _paths(table: Table) -> list[str]:
    """The pictures that the rows name by path."""
    values = [row.get(name) for row in table.rows for name in _PICTURES]
    return [value for value in values if isinstance(value, str) and 0 < len(value) <= MAX_NAME]


def _item(table: Table, number: int, name: str, folder: Path) -> Item:
    row = table.rows[number]
    kind = str(row.get("task") or row.get("category") or "")
    if kind not in tirbench_rules.TASKS:
        raise TaskError(f"task {kind!r} is none of {', '.join(tirbench_rules.TASKS)}")
    prompt, answer = str(row["prompt"]), str(row["answer"])
    shown = row.get("image_1")
    image = shown if isinstance(shown, str) else ""
    if kind == "ocr":
        answer = _CORRECTIONS.get(PurePosixPath(image).name, answer)
    facts: dict[str, Fact] = {"task": kind, "image_1": image}
    options, letters = options_of(prompt), tirbench_rules.is_letters(answer)
    # A list without the reference among its letters was not read to its end.
    if options and (not letters or set(answer.lower()) <= set(options)):
        facts["options"] = tuple(options.values())
    if letters:
        facts["letter"] = answer
    if kind == "jigsaw":
        facts["difficulty"] = _difficulty(row)
    gold = Gold(answer, "auto", facts)
    return Item(name, prompt, gold, kind, partial(_media, table, number, row, folder))


def _difficulty(row: Row) -> int:
    """Pieces on a side of a jigsaw puzzle."""
    facts: Any = row.get("metadata") or row.get("meta_data") or {}
    side = facts.get("difficulty") if isinstance(facts, Mapping) else None
    if not isinstance(side, int) or side < 1:
        raise TaskError(f"metadata.difficulty = {side!r}: wants the pieces on a side")
    return side


def _media(table: Table, number: int, row: Row, folder: Path) -> tuple[Media, ...]:
    there = [name for name in _PICTURES if name in table.columns]
    values = [row[n] if n in row else table.read(number, n) for n in there]
    return tuple(picture(value, folder) for value in values if value)
