r"""VLMsAreBlind: drawn lines, circles, squares and grids, and what is to be counted in them.

In: the Parquet file of the split valid, or VLMEvalKit's TSV. Out: tasks; the mean over eight kinds
of question, the two of grids being one, and accuracy of each kind. Prompts ask for the answer in
curly brackets; a ``\boxed{3}`` is one. VLMEvalKit looks for the reference anywhere in some answers,
so that "15" is 5 and "I know" is no; ours reads the whole answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from pyvision_rl.errors import TaskError
from pyvision_rl.rewards.answers import match
from pyvision_rl.rewards.base import Grade
from pyvision_rl.suites import reports
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
from pyvision_rl.suites.protocols import LMMS_EVAL, OURS, VLMEVALKIT
from pyvision_rl.suites.tables import is_hub, open_table
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import Fact, Gold, Task

HEADLINE = "task_mean"
GRID = "counting grid"
IN_BRACKETS = ("subway connections", "nested squares", "line plot intersections", "circled letter")
ANYWHERE = ("olympic counting - pentagons", "olympic counting - circles")
TOUCHING = "touching circles"
TASKS = (GRID, *IN_BRACKETS, *ANYWHERE, TOUCHING)
"""The kinds of question; of grids there are blank ones and ones with words."""
WHERE = (
    "get the data set XAI/vlmsareblind and give its Parquet file (split valid), or VLMEvalKit's "
    "VLMBlind.tsv"
)
_FILES = ("**/valid*.parquet", "*.parquet", "VLMBlind.tsv", "*.tsv", "*.jsonl")
_LMMS_SUFFIX = "\nAnswer only in the required format."
_BRACKETS = re.compile(r"\{(.*?)\}")
_PAIRS = (
    re.compile(r"\{(\d+)\}\s*\{(\d+)\}"),
    re.compile(r"\((\d+)\s*,\s*(\d+)\)"),
    re.compile(r"rows=\{(\d+)\}\scolumns=\{(\d+)\}"),
)
_PAIR = _PAIRS[1]
_ROWS = re.compile(r"[Rr]ows?[^{}]*\{(\d+)\}")
_COLUMNS = re.compile(r"[Cc]olumns?[^{}]*\{(\d+)\}")
_GRID_WORDS = frozenset(("row", "rows", "column", "columns", "and", "by", "x", "times"))


class VLMsAreBlind:
    """The suite ``vlmsareblind``."""

    name = "vlmsareblind"
    protocols: Mapping[str, Settings] = {
        "pyvision": OURS,
        "vlmevalkit": VLMEVALKIT,
        "lmms-eval": LMMS_EVAL,
    }

    def tasks(self, path: Path, protocol: str, *, shuffle: int | None = None) -> TaskSet:
        """Return the questions of the file (see ``Suite.tasks``); none has options."""
        protocol = protocol_name(self, protocol)
        table = open_table(self._file(path), media=("image",))
        table.need("image", "task")
        words = next((name for name in ("prompt", "question") if name in table.columns), "prompt")
        gold = next((name for name in ("groundtruth", "answers") if name in table.columns), "")
        table.need(words, gold or "groundtruth")
        pictures = Pictures(table, "image")
        items = []
        for number, row in enumerate(table.rows):
            if not pictures.has(number):
                continue
            kind, answer = str(row["task"]).strip(), str(row[gold]).strip()
            if task_of(kind) not in TASKS:
                known = ", ".join(TASKS)
                raise TaskError(f"{table.name}: row {number + 1}: task {kind!r} is none of {known}")
            suffix = _LMMS_SUFFIX if protocol == "lmms-eval" else ""
            facts: dict[str, Fact] = {"kind": kind, "answer": answer}
            name = f"{kind.lower().replace(' ', '-')}/{number}"
            text = f"{str(row[words]).strip()}{suffix}"
            load = partial(pictures.media, number)
            items.append(Item(name, text, Gold(answer, "auto", facts), task_of(kind), load))
        pictures.check(WHERE)
        return Items(self.name, items, dropped=len(table.rows) - len(items))

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the file of questions."""
        return () if is_hub(path) else (self._file(path),)

    def score(self, task: Task, final: Final, protocol: str) -> Grade | Undecided:
        """Return 1 for a right answer, else 0."""
        kind, gold = str(task.gold.facts.get("kind")), str(task.gold.facts.get("answer"))
        match protocol_name(self, protocol):
            case "vlmevalkit":
                right = vlmevalkit(_in_brackets(final), gold, kind)
            case "lmms-eval":
                right = lmms_eval(final.said, kind) == gold.strip().lower()
            case _:
                return _strict(final.answer, gold, task_of(kind))
        return Grade(float(right), right, "as the kit reads it")

    def aggregate(self, items: Sequence[Scored], protocol: str) -> Report:
        """Return the mean over kinds of question, each kind, and plain accuracy."""
        said = reports.notes(self, protocol, items, None)
        usable = reports.graded(items)
        if not usable:
            return reports.nothing(HEADLINE, items, said)
        groups = reports.grouped(usable, lambda item: item.task.input.category)
        numbers = {name: reports.mean(group) for name, group in groups.items()}
        if len(groups) != len(TASKS):
            said.append(f"{len(groups)} of {len(TASKS)} kinds of question: not comparable")
        # lmms-eval leaves kinds out of this mean of which nothing is right.
        numbers |= {HEADLINE: reports.average(list(numbers.values()))}
        numbers["accuracy"] = reports.mean(usable)
        return Report(HEADLINE, numbers, reports.counted(items), tuple(said))

    def _file(self, path: Path) -> Path:
        return data_file(path, _FILES, WHERE)


def task_of(kind: str) -> str:
    """Return the kind of question in small letters, grids as one."""
    small = kind.lower()
    return GRID if small.startswith(GRID) else small


def lmms_eval(text: str, kind: str) -> str | None:
    """Return what lmms-eval (75571cf) reads in an answer, None if nothing."""
    said, small = text.strip().lower(), task_of(kind)
    if small == TOUCHING:
        return said if said in ("yes", "no") else None
    if small == GRID:
        found = next((pair for rule in _PAIRS if (pair := rule.search(said))), None)
        return f"{found[1]},{found[2]}" if found else None
    rule = r"\{?([a-z])\}?" if small == "circled letter" else r"\{?(\d+)\}?"
    found = re.search(rule, said)
    return found[1] if found else None


def vlmevalkit(text: str, gold: str, kind: str) -> bool:
    """Return whether VLMEvalKit (e8e78f0) finds an answer right."""
    small = task_of(kind)
    if small == GRID:
        return _pair(text) is not None and _pair(text) == _numbers(gold)
    if small in IN_BRACKETS:
        found = _BRACKETS.search(text)
        return (found[1] if found else "") == gold
    if small in ANYWHERE:
        return gold in text
    return gold.lower() in text.lower()


def _in_brackets(final: Final) -> str:
    """What a kit that looks for brackets is given: the box around an answer is a pair of them."""
    answer = final.answer
    return final.text if answer is None else answer if "{" in answer else f"{{{answer}}}"


def _pair(text: str) -> tuple[int, ...] | None:
    rows, columns = _ROWS.search(text), _COLUMNS.search(text)
    if rows and columns:
        return _whole(rows[1], columns[1])
    found = _PAIR.search(text)
    return _whole(found[1], found[2]) if found else None


def _whole(*digits: str) -> tuple[int, ...] | None:
    return tuple(map(int, digits)) if all(len(d) < 100 for d in digits) else None


def _numbers(gold: str) -> tuple[int, ...] | None:
    found = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", gold)
    return _whole(found[1], found[2]) if found else None


def _strict(answer: str | None, gold: str, kind: str) -> Grade:
    """The grade of the whole final answer, with or without brackets."""
    if answer is None or not answer.strip():
        return Grade(0.0, False, "no answer")
    if kind == GRID:
        right = _grid(answer) is not None and _grid(answer) == _numbers(gold)
        return Grade(float(right), right, "rows and columns")
    bare = answer.strip().removeprefix("{").removesuffix("}").strip()
    found = match(bare, gold, "text" if kind == "circled letter" else "auto", rel_tol=0.0)
    return Grade(float(found.correct), found.correct, found.why)


def _grid(answer: str) -> tuple[int, ...] | None:
    """Rows and columns of an answer that holds nothing else."""
    words = re.findall("[a-z]+", answer.lower())
    digits = re.findall(r"\d+", answer)
    if len(digits) != 2 or not set(words) <= _GRID_WORDS:
        return None
    numbers = _whole(*digits)
    named = [word[0] for word in words if word[0] in "rc"]
    return tuple(reversed(numbers)) if numbers and named == ["c", "r"] else numbers
