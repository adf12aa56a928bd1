"""HR-Bench 4K and 8K: 200 questions on very large photos, each asked with four option orders.

In: the TSV or Parquet file of one of the two; pictures are base64 text in both. Out: tasks, and
accuracy as the benchmark has it: of each cycle of option orders, then the mean over cycles, for
one object (``single``), several (``cross``) and both (``all``). A question counts in each of its
four orders, not only if all four are right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from string import ascii_uppercase

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
from pyvision_rl.suites.tables import Row, is_hub, open_table
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import Gold, Task

NUM_ITEMS = 800
CATEGORIES = ("single", "cross")
WHERE = (
    "get hr_bench_4k.tsv or hr_bench_8k.tsv (or the Parquet file) of the data set "
    "DreamMr/HR-Bench and give the file"
)
_FILES = ("hr_bench_*.tsv", "*.tsv", "*.parquet", "*.jsonl")
_COLUMNS = ("index", "question", "A", "B", "answer", "category", "cycle_category", "image")


class HRBench:
    """The suite ``hrbench``."""

    name = "hrbench"
    protocols: Mapping[str, Settings] = {
        "pyvision": OURS,
        "vlmevalkit": VLMEVALKIT,
        "lmms-eval": LMMS_EVAL,
        "paper": paper(temperature=0.5, top_k=20),
    }

    def tasks(self, path: Path, protocol: str, *, shuffle: int | None = None) -> TaskSet:
        """Return the questions of the file, every option order an item (see ``Suite.tasks``)."""
        protocol = protocol_name(self, protocol)
        table = open_table(self._file(path), media=("image",))
        table.need(*_COLUMNS, where=WHERE)
        pictures = Pictures(table, "image")
        pictures.check(WHERE)
        items = []
        for number, row in enumerate(table.rows):
            if not pictures.has(number):
                continue
            with table.naming(number):
                given = _choices(row)
            shown = choices.drawn(given, shuffle, str(row["index"]))
            text = _worded(str(row["question"]), shown.options, protocol)
            category, cycle = str(row["category"]), str(row["cycle_category"])
            gold = Gold(shown.letter, "letter", {**shown.facts, "cycle": cycle})
            load = partial(pictures.media, number)
            items.append(Item(str(row["index"]), text, gold, category, load))
        return Items(self.name, items, dropped=len(table.rows) - len(items))

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the file of questions and pictures."""
        return () if is_hub(path) else (self._file(path),)

    def score(self, task: Task, final: Final, protocol: str) -> Grade | Undecided:
        """Return 1 for the right option, else 0."""
        options, gold = choices.asked(task)
        match protocol_name(self, protocol):
            case "vlmevalkit":
                return choices.kit_grade(kit_choices.vlmevalkit(final.said, options), gold)
            case "lmms-eval":
                named = kit_choices.lmms_eval(final.said, options)
                if named is None:
                    return Undecided("lmms-eval asks a model which option this text means")
                return choices.kit_grade(named, gold)
            case _:
                return choices.grade(final.answer, gold, options)

    def aggregate(self, items: Sequence[Scored], protocol: str) -> Report:
        """Return the means over cycles of ``all``, ``single`` and ``cross``, and each cycle's."""
        said = reports.notes(self, protocol, items, NUM_ITEMS)
        usable = reports.graded(items)
        if not usable:
            return reports.nothing("all", items, said)
        groups = {"all": usable} | reports.grouped(usable, lambda i: i.task.input.category)
        numbers: dict[str, float] = {}
        sizes = set()
        for name, group in groups.items():
            cycles = reports.grouped(group, lambda item: reports.fact(item, "cycle"))
            means = {cycle: reports.mean(found) for cycle, found in cycles.items()}
            numbers[name] = reports.average(list(means.values()))
            numbers |= {f"{name}_cycle_{cycle}": value for cycle, value in means.items()}
            sizes |= {len(found) for found in cycles.values()} if name == "all" else set()
        if len(sizes) > 1:
            said.append(f"cycles have {min(sizes)} to {max(sizes)} items; each counts the same")
        return Report("all", numbers, reports.counted(items), tuple(said))

    def _file(self, path: Path) -> Path:
        return data_file(path, _FILES, WHERE)


def _choices(row: Row) -> choices.Choices:
    """The options of a row: the columns A, B, ... as far as they hold something."""
    found = []
    for letter in ascii_uppercase:
        text = row.get(letter)
        if text is None or not str(text).strip():
            break
        found.append(str(text).strip())
    return choices.Choices(tuple(found), str(row["answer"]).strip().upper())


def _worded(question: str, options: tuple[str, ...], protocol: str) -> str:
    match protocol:
        case "vlmevalkit":
            return prompts.vlmevalkit(question, options)
        case "lmms-eval":
            return prompts.listed(question, options, "Answer the option letter directly.")
        case _:
            return prompts.listed(question, options, prompts.LETTER)
