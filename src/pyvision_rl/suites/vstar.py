"""V* Bench: 191 questions on details of large photos, each with two or four options.

In: ``test_questions.jsonl`` beside its picture folders, the same as Parquet, or VLMEvalKit's TSV.
Out: tasks, and accuracy overall and by category. Published results on it differ by which scorer
was used, by 5 points and more. The authors themselves compare the likelihoods of the options,
which cannot be done with an agent: ``official`` is their prompt with a strict letter.

Not read: the raw files with one JSON per picture. There the right option always comes first, and a
scorer that asks it so finds "A" right 191 times.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pyvision_rl.rewards.base import Grade
from pyvision_rl.suites import choices, kit_choices, prompts, reports
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
from pyvision_rl.suites.files import Pictures, data_file
from pyvision_rl.suites.protocols import LMMS_EVAL, OURS, VLMEVALKIT, paper
from pyvision_rl.suites.tables import Row, Table, is_hub, open_table
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import Gold, Task

NUM_ITEMS = 191
CATEGORIES = ("direct_attributes", "relative_position")
WHERE = (
    "get the data set craigwu/vstar_bench and give its folder (test_questions.jsonl with the "
    "picture folders beside it), the Parquet file of lmms-lab-encoder/vstar-bench, or "
    "VStarBench.tsv of xjtupanda/VStar_Bench"
)
_COLUMNS = ("image", "text", "category", "label", "question_id")
_TSV_COLUMNS = ("index", "image", "question", "A", "B", "answer", "category")
_FILES = ("test_questions.jsonl", "*.jsonl", "*.parquet", "VStarBench.tsv", "*.tsv")

# lmms-eval's rules, in the order in which they are tried, for a text in capitals.
_LMMS_EVAL = tuple(
    re.compile(rule)
    for rule in (
        r"^([A-D])",
        r"(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D])",
        r"\(([A-D])\)",
        r"([A-D])\s*[.)\]]",
        r"(?<!\S)([A-D])(?!\S)",
    )
)


@dataclass(frozen=True, slots=True)
class _Question:
    """One row, whichever file it came from."""

    id: str
    question: str
    text: str
    """As the data set words it, options and instruction included; empty in a TSV."""
    category: str
    choices: choices.Choices


class VStar:
    """The suite ``vstar``."""

    name = "vstar"
    protocols: Mapping[str, Settings] = {
        "pyvision": OURS,
        "official": Settings("The data set's own prompt; the answer must be the letter."),
        "vlmevalkit": VLMEVALKIT,
        "lmms-eval": LMMS_EVAL,
        "paper": paper(temperature=0.01, samples=32),
    }

    def tasks(self, path: Path, protocol: str, *, shuffle: int | None = None) -> TaskSet:
        """Return the questions of the file (see ``Suite.tasks``)."""
        protocol = protocol_name(self, protocol)
        table = open_table(self._file(path), media=("image",))
        columns = _COLUMNS if "text" in table.columns else _TSV_COLUMNS
        table.need(*columns, where=WHERE)
        pictures = Pictures(table, "image")
        pictures.check(WHERE)
        items = []
        for number, row in enumerate(table.rows):
            if not pictures.has(number):
                continue
            with table.naming(number):
                asked = _question(table, row)
            shown = choices.drawn(asked.choices, shuffle, asked.id)
            gold = Gold(shown.letter, "letter", shown.facts)
            text = _worded(asked, shown.options, protocol)
            load = partial(pictures.media, number)
            items.append(Item(asked.id, text, gold, asked.category, load))
        return Items(self.name, items, dropped=len(table.rows) - len(items))

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the file of questions."""
        return () if is_hub(path) else (self._file(path),)

    def score(self, task: Task, final: Final, protocol: str) -> Grade | Undecided:
        """Return 1 for the right option, else 0."""
        options, gold = choices.asked(task)
        match protocol_name(self, protocol):
            case "vlmevalkit":
                return choices.kit_grade(kit_choices.vlmevalkit(final.said, options), gold)
            case "lmms-eval":
                return choices.kit_grade(_lmms_eval(final.said), gold)
            case _:
                return choices.grade(final.answer, gold, options)

    def aggregate(self, items: Sequence[Scored], protocol: str) -> Report:
        """Return accuracy over all items, and of each category."""
        said = reports.notes(self, protocol, items, NUM_ITEMS)
        usable = reports.graded(items)
        if not usable:
            return reports.nothing("overall", items, said)
        numbers = {"overall": reports.mean(usable)}
        groups = reports.grouped(usable, lambda item: item.task.input.category)
        numbers |= {name: reports.mean(group) for name, group in groups.items()}
        return Report("overall", numbers, reports.counted(items), tuple(said))

    def _file(self, path: Path) -> Path:
        return data_file(path, _FILES, WHERE)


def _question(table: Table, row: Row) -> _Question:
    """One row of a TSV, or of the data set's own columns."""
    if "text" not in table.columns:
        options = tuple(o for letter in "ABCD" if (o := (row.get(letter) or "").strip()))
        found = choices.Choices(options, str(row["answer"]).strip().upper())
        category = str(row["category"])
        name = f"{category}/{row['index']}"
        return _Question(name, str(row["question"]).strip(), "", category, found)
    text = str(row["text"])
    question, options, _ = choices.split(text)
    found = choices.Choices(options, str(row["label"]).strip().upper())
    category = str(row["category"])
    return _Question(f"{category}/{row['question_id']}", question, text, category, found)


def _worded(asked: _Question, options: tuple[str, ...], protocol: str) -> str:
    match protocol:
        case "vlmevalkit":
            return prompts.vlmevalkit(asked.question, options)
        case "lmms-eval":
            return prompts.listed(asked.question, options, prompts.LETTER_DIRECTLY)
        case "official":
            if asked.text and options == asked.choices.options:
                return asked.text
            marked = (f"({o[0]}) {o[3:]}" for o in choices.lines(options).splitlines())
            return "\n".join((asked.question, *marked, prompts.LETTER_DIRECTLY))
        case _:
            return prompts.listed(asked.question, options, prompts.LETTER)


def _lmms_eval(text: str) -> str | None:
    said = text.strip().upper()
    for rule in _LMMS_EVAL:
        if found := rule.search(said):
            return found[1]
    alone = re.findall("[A-D]", said)
    return alone[0] if len(alone) == 1 else None
