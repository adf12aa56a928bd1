"""DynaMath: 501 problems, each drawn ten times with other numbers, pictures or words.

In: the ten Parquet files ``sample_variant1`` to ``sample_variant10`` (a folder, or one of them), or
VLMEvalKit's TSV. Out: tasks; accuracy on average, and in the worst case, where a problem is right
only if all ten variants are. In the published files ``id`` names the problem and repeats; ours
ends with the variant. The published scorer, in ``dynamath_kit``, takes a text answer as right if it
occurs in the reference, an empty one included; ours does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from pyvision_rl.errors import TaskError
from pyvision_rl.rewards.answers import match
from pyvision_rl.rewards.base import Grade
from pyvision_rl.suites import arithmetic, choices, dynamath_kit, lmms_reasoning, prompts, reports
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
from pyvision_rl.suites.dynamath_kit import CHOICE
from pyvision_rl.suites.files import Pictures, data_file
from pyvision_rl.suites.listed_options import options_of, relisted
from pyvision_rl.suites.protocols import OURS, paper
from pyvision_rl.suites.tables import HUB, Row, Table, is_hub, open_table
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import Fact, Gold, Media, Task

Load: TypeAlias = Callable[[], tuple[Media, ...]]

NUM_PROBLEMS = 501
NUM_VARIANTS = 10
NUM_ITEMS = NUM_PROBLEMS * NUM_VARIANTS
TOLERANCE = 0.001
"""Allowed distance of a number, absolute, as in the published scorer."""
WHERE = (
    "get the data set DynaMath/DynaMath_Sample and give the folder of its ten Parquet files "
    "(sample_variant1 to sample_variant10), or VLMEvalKit's DynaMath.tsv"
)
_FILES = ("DynaMath.tsv", "*.tsv", "*.parquet", "*.jsonl")
_VARIANT = re.compile(r"sample_variant([0-9]+)")
_TYPES = {"float": "float", "multiple choice": "letter", "text": "text"}
_CHOICES = re.compile(r"\s*[Cc]hoices?:\s*$")


class DynaMath:
    """The suite ``dynamath``."""

    name = "dynamath"
    protocols: Mapping[str, Settings] = {
        "pyvision": OURS,
        "official": Settings(
            "The authors' prompt and scorer, which they published in VLMEvalKit (e8e78f0) as "
            "DynaMath: an answer in JSON, and rules; a language model where they cannot read it."
        ),
        "vlmevalkit": Settings(
            "VLMEvalKit (e8e78f0), DynaMath_noprompt: as official, but the bare question."
        ),
        "lmms-eval": Settings("lmms-eval (75571cf), dynamath_reasoning without a judge."),
        "paper": paper(temperature=0.5, top_k=20),
    }

    def tasks(self, path: Path, protocol: str, *, shuffle: int | None = None) -> TaskSet:
        """Return the questions of all variants (see ``Suite.tasks``)."""
        protocol = protocol_name(self, protocol)
        items: list[Item] = []
        num_rows = 0
        for variant, table in _tables(path):
            table.need("question", "answer_type", "subject", "knowledge_level")
            column = "image" if "qid" in table.columns else "decoded_image"
            pictures = Pictures(table, column if column in table.columns else "image")
            num_rows += len(table.rows)
            for number, row in enumerate(table.rows):
                if not pictures.has(number):
                    continue
                load = partial(pictures.media, number)
                with table.naming(number, KeyError, ValueError):
                    items.append(_item(row, variant, protocol, shuffle, load))
            pictures.check(WHERE)
        return Items(self.name, items, dropped=num_rows - len(items))

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the files of questions."""
        return () if is_hub(path) else tuple(file for _, file in _files(path))

    def score(self, task: Task, final: Final, protocol: str) -> Grade | Undecided:
        """Return 1 for a right answer, else 0."""
        gold, kind = task.gold.answer, str(task.gold.facts.get("kind"))
        match protocol_name(self, protocol):
            case "official" | "vlmevalkit":
                return dynamath_kit.score(final.said, gold, kind)
            case "lmms-eval":
                return lmms_reasoning.score(final, gold)
            case _:
                return _strict(task, final.answer)

    def aggregate(self, items: Sequence[Scored], protocol: str) -> Report:
        """Return accuracy on average and in the worst case, also by subject and level."""
        said = reports.notes(self, protocol, items, NUM_ITEMS)
        usable = reports.graded(items)
        if not usable:
            return reports.nothing("average", items, said)
        numbers = {"average": reports.mean(usable)}
        problems = _problems(usable)
        counts = reports.counted(items)
        counts["problems"] = len(problems)
        if problems:
            numbers["worst_case"] = _worst(problems)
        if len(problems) != NUM_PROBLEMS:
            said.append(
                f"worst_case is over the {len(problems)} of {NUM_PROBLEMS} problems of which all "
                f"{NUM_VARIANTS} variants were graded"
            )
        for fact in ("subject", "level"):
            for name, group in reports.grouped(usable, partial(reports.fact, name=fact)).items():
                numbers[name] = reports.mean(group)
                if whole := _problems(group):
                    numbers[f"{name} (worst case)"] = _worst(whole)
        said.append("VLMEvalKit's leaderboard shows worst_case, papers mostly average")
        return Report("average", numbers, counts, tuple(said))


def _strict(task: Task, answer: str | None) -> Grade | Undecided:
    """The grade of the final answer alone."""
    gold = task.gold
    if answer is None or not answer.strip():
        return Grade(0.0, False, "no answer")
    if gold.facts.get("kind") == CHOICE:
        options, letter = choices.asked(task)
        if options:
            return choices.grade(answer, letter, options)
        right = match(answer, letter, "letter").correct
        return Grade(float(right), right, "letter")
    want, found = arithmetic.value(gold.answer), arithmetic.value(answer)
    if want is not None and found is not None:
        right = abs(found - want) <= TOLERANCE
        return Grade(float(right), right, f"within {TOLERANCE}" if right else "another number")
    return _text(answer, gold.answer, numeric=want is not None)


def _text(answer: str, gold: str, *, numeric: bool) -> Grade | Undecided:
    if match(answer, gold, "text").correct:
        return Grade(1.0, True, "same text")
    mine, theirs = arithmetic.members(answer), arithmetic.members(gold)
    if mine and theirs:
        right = len(mine) == len(theirs) and all(
            abs(one - other) <= TOLERANCE for one, other in zip(mine, theirs, strict=True)
        )
        return Grade(float(right), right, "numbers of a list")
    what = "a number" if numeric else "a text"
    return Undecided(f"the answer is not the reference word for word, which is {what}")


def _problems(items: Sequence[Scored]) -> list[list[Scored]]:
    """The items of each problem of which every variant is there."""
    groups = reports.grouped(items, partial(reports.fact, name="problem")).values()
    return [group for group in groups if len(group) == NUM_VARIANTS]


def _worst(problems: Sequence[Sequence[Scored]]) -> float:
    """The share of problems whose variants are all right, averaged over samples."""
    shares = []
    for group in problems:
        num_samples = min(len(item.scores) for item in group)
        worst = (min(item.scores[sample] for item in group) for sample in range(num_samples))
        shares.append(sum(worst) / num_samples)
    return reports.average(shares)


def _files(path: Path) -> list[tuple[int | None, Path]]:
    """(variant, file), variants in order; the variant is None where the rows name it."""
    folder = path if path.is_dir() else None
    found = sorted(folder.glob("**/sample_variant*.parquet")) if folder else []
    named = [(_named(file), file) for file in found]
    if named:
        return sorted(named, key=lambda pair: (pair[0] or 0, pair[1]))
    file = data_file(path, _FILES, WHERE)
    return [(_named(file), file)]


def _named(path: Path) -> int | None:
    found = _VARIANT.search(path.name)
    return int(found[1]) if found else None


def _tables(path: Path) -> Iterator[tuple[int | None, Table]]:
    """The variant and table of each file, or of each split on the hub."""
    media = ("image", "decoded_image")
    if is_hub(path) and "@" not in str(path) and "DynaMath_Sample" in str(path):
        name = str(path).removeprefix(HUB)
        for variant in range(1, NUM_VARIANTS + 1):
            split = Path(f"{HUB}{name}@sample_variant{variant}")
            yield variant, open_table(split, media)
    else:
        files = [(_named(path), path)] if is_hub(path) else _files(path)
        for found, file in files:
            yield found, open_table(file, media)


def _item(row: Row, variant: int | None, protocol: str, shuffle: int | None, load: Load) -> Item:
    problem, number = _identity(row, variant)
    name = f"{problem}/v{number}"
    kind, answer = str(row["answer_type"]).strip(), _answer(row)
    question = str(row["question"]).strip()
    facts: dict[str, Fact] = {
        "problem": problem,
        "variant": number,
        "kind": kind,
        "subject": str(row["subject"]),
        "level": str(row["knowledge_level"]),
    }
    category = str(row["subject"])
    inline = choices.split(question)[1] if kind == CHOICE else ()
    options = inline or (options_of(question) if kind == CHOICE else ())
    if not options or answer not in choices.letters(options):
        gold = Gold(answer, _TYPES.get(kind, "auto"), facts)
        return Item(name, _worded(question, kind, protocol), gold, category, load)
    given = choices.Choices(options, answer)
    shown = choices.drawn(given, shuffle, name)
    ours = protocol in ("pyvision", "paper")
    asked = (
        _asked(question, given, shown, ours=ours) if inline else relisted(question, given, shown)
    )
    text = prompts.listed(asked, (), prompts.LETTER) if ours else _worded(asked, kind, protocol)
    facts |= {"options": shown.options, "letter": shown.letter}
    return Item(name, text, Gold(shown.letter, "letter", facts), category, load)


def _asked(question: str, given: choices.Choices, shown: choices.Choices, *, ours: bool) -> str:
    """A question with its options inside: one a line in ours, in one line as published."""
    stem, _, rest = choices.split(question)
    if ours:
        stem = "\n".join(part for part in (_CHOICES.sub("", stem), rest) if part)
        return prompts.listed(stem, shown.options)
    if shown == given:
        return question
    marked = (f"({line[0]}) {line[3:]}" for line in choices.lines(shown.options).split("\n"))
    return f"{stem} {' '.join(marked)}\n{rest}".strip()


def _identity(row: Row, variant: int | None) -> tuple[str, int]:
    """Problem and variant of a row."""
    if "varid" in row:
        return str(row["qid"]), int(row["varid"])
    if variant is None:
        raise TaskError(
            f"which variant is it? Neither a column varid nor a file name says; {WHERE}"
        )
    return str(row["id"]), variant


def _answer(row: Row) -> str:
    value = row.get("ground_truth", row.get("answer"))
    if value is None or not str(value).strip():
        raise TaskError("has no ground_truth")
    return str(value).strip()


def _worded(question: str, kind: str, protocol: str) -> str:
    match protocol:
        case "official":
            return f"## Question\n {question}{dynamath_kit.guide(kind)}"
        case "vlmevalkit":
            return f"## Question\n {question}"
        case "lmms-eval":
            return question
        case _:
            ends = {"float": "Answer with one number, to three decimals."}
            return prompts.listed(question, (), ends.get(kind, ""))
