"""MathVerse: 788 problems, each told in five ways between text and picture, and in text alone.

In: ``testmini.parquet`` (3,940 rows), that of the text-only version, ``testmini.json`` beside its
pictures, or VLMEvalKit's TSV. Out: tasks; accuracy of each version, and as headline the mean over
the five that have a picture. Text-only problems are told apart and stay out of it.

The benchmark is judged: its authors have a language model extract the answer of a response, and
another call compare that with the reference. Here the final answer needs no extraction, and what
rules cannot tell is ``Undecided``: one call of the judge, with ``question_for_eval``, because the
question of the version "Vision Only" is empty. Without a judge those answers stay ungraded.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from pyvision_rl.errors import TaskError
from pyvision_rl.rewards.answers import match, normalise
from pyvision_rl.rewards.base import Grade
from pyvision_rl.rewards.letters import option_letter
from pyvision_rl.suites import arithmetic, choices, prompts, reports
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
from pyvision_rl.suites.listed_options import options_of, relisted
from pyvision_rl.suites.protocols import paper
from pyvision_rl.suites.tables import Row, is_hub, open_table
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import Fact, Gold, Media, Task

NUM_PROBLEMS = 788
VERSIONS = (
    "Text Dominant",
    "Text Lite",
    "Vision Intensive",
    "Vision Dominant",
    "Vision Only",
)
"""The five with a picture; the headline is over them."""
TEXT_ONLY = "Text Only"
NUM_ITEMS = NUM_PROBLEMS * len(VERSIONS)
HEADLINE = "mean_of_versions"
WHERE = (
    "get the data set AI4Math/MathVerse and give testmini.parquet, or a folder with testmini.json "
    "and the pictures of its images.zip, or one of VLMEvalKit's MathVerse_MINI*.tsv"
)
_FILES = ("testmini.parquet", "**/testmini*.parquet", "*.parquet", "testmini.json", "*.tsv")
_COLUMNS = ("problem_index", "problem_version", "question", "answer", "question_type", "metadata")
_CHOICE = "multi-choice"
_IN_PICTURE = "Answer the question that the picture shows."
_DECIMALS = re.compile(r"-?[0-9]+(?:\.([0-9]+))?")
_JUDGED = "an agent's final answer is not extracted again, and one call of the judge compares it"
Load: TypeAlias = Callable[[], tuple[Media, ...]]


class MathVerse:
    """The suite ``mathverse``."""

    name = "mathverse"
    protocols: Mapping[str, Settings] = {
        "pyvision": Settings(
            "Ours: rules decide letters and numbers, strictly; the judge decides the rest."
        ),
        "official": Settings(
            "MathVerse's direct query (query_wo, the 'w/o' score; ZrrSkywalker/MathVerse, "
            f"937b090). Its two calls of a language model are one here: {_JUDGED}."
        ),
        "quick-match": Settings(
            "MathVerse's own option --quick_match (937b090): the answer is the reference, sign by "
            "sign, or wrong. Needs no judge; its authors call it not accurate enough."
        ),
        "vlmevalkit": Settings(
            f"VLMEvalKit (e8e78f0): the bare question; of its two calls one is left: {_JUDGED}."
        ),
        "lmms-eval": Settings(
            "lmms-eval (75571cf), mathverse_testmini: query_wo, and one binary judge.",
            temperature=0.0,
        ),
        "paper": paper(temperature=0.5, top_k=20),
    }

    def tasks(self, path: Path, protocol: str, *, shuffle: int | None = None) -> TaskSet:
        """Return the problems of the file, every version an item (see ``Suite.tasks``).

        Options that only the picture lists ("Vision Only") are never reordered.
        """
        protocol = protocol_name(self, protocol)
        table = open_table(self._file(path), media=("image",))
        table.need(*_COLUMNS, "image")
        pictures = Pictures(table, "image")
        shown = [str(row["problem_version"]) != TEXT_ONLY for row in table.rows]
        pictures.check(WHERE, [number for number, has in enumerate(shown) if has])
        items = []
        for number, row in enumerate(table.rows):
            if shown[number] and not pictures.has(number):
                continue
            load: Load = partial(pictures.media, number) if shown[number] else tuple
            with table.naming(number, KeyError):
                items.append(_item(row, protocol, shuffle, load))
        return Items(self.name, items, dropped=len(table.rows) - len(items))

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the file of problems."""
        return () if is_hub(path) else (self._file(path),)

    def score(self, task: Task, final: Final, protocol: str) -> Grade | Undecided:
        """Return 1 for a right answer, else 0, or leave it to the judge."""
        gold = str(task.gold.facts.get("answer"))
        match protocol_name(self, protocol):
            case "quick-match":
                right = final.said == gold
                return Grade(float(right), right, "equal" if right else "not equal")
            case "official" | "vlmevalkit" | "lmms-eval":
                if final.said.strip() == gold.strip():
                    return Grade(1.0, True, "equal")
                if not final.said.strip():
                    return Grade(0.0, False, "no answer")
                return Undecided("MathVerse asks a language model whether the two are consistent")
            case _:
                return _strict(task, final.answer)

    def aggregate(self, items: Sequence[Scored], protocol: str) -> Report:
        """Return the mean over versions, and accuracy of each version, subject and subfield."""
        told = reports.grouped(items, partial(reports.fact, name="version"))
        shown = [item for item in items if reports.fact(item, "version") != TEXT_ONLY]
        said = reports.notes(self, protocol, items, None)
        usable = reports.graded(items)
        if not usable:
            return reports.nothing(HEADLINE, items, said)
        numbers = {v: reports.mean(g) for v in told if (g := reports.graded(told[v]))}
        have = [numbers[version] for version in VERSIONS if version in numbers]
        if have:
            numbers[HEADLINE] = reports.average(have)
        if len(have) != len(VERSIONS) or len(shown) != NUM_ITEMS:
            said.append(
                f"{len(shown)} of {NUM_ITEMS} items, {len(have)} of {len(VERSIONS)} versions "
                "with a picture: not comparable with published numbers"
            )
        for fact in ("subject", "subfield"):
            groups = reports.grouped(reports.graded(shown), partial(reports.fact, name=fact))
            numbers |= {f"{fact}: {name}": reports.mean(group) for name, group in groups.items()}
        headline = HEADLINE if have else next(iter(numbers))
        return Report(headline, numbers, reports.counted(items), tuple(said))

    def _file(self, path: Path) -> Path:
        return data_file(path, _FILES, WHERE)


def _strict(task: Task, answer: str | None) -> Grade | Undecided:
    """What rules can tell of the final answer alone."""
    if answer is None or not answer.strip():
        return Grade(0.0, False, "no answer")
    options, gold = choices.asked(task)
    if options:
        named = choices.chosen(answer, options)
        if named is None:
            return Undecided("the answer names no option by letter or text")
        return Grade(float(named == gold), named == gold, f"option {named}")
    if match(answer, gold, task.gold.answer_type, rel_tol=0.0).correct:
        return Grade(1.0, True, "same text")
    if task.gold.answer_type == "letter" and option_letter(normalise(answer))[0]:
        return Grade(0.0, False, "another letter")
    mine, theirs = arithmetic.value_of_answer(answer), arithmetic.value_of_answer(gold)
    if mine is None or theirs is None:
        return Undecided("the answer and the reference are not both plain numbers")
    if arithmetic.close(mine, theirs):
        return Grade(1.0, True, "same number")
    decimals = _DECIMALS.fullmatch(gold.strip())
    if decimals and round(mine, len(decimals[1] or "")) == theirs:
        return Undecided("the answer rounds to the reference", only_judge=True)
    return Grade(0.0, False, "another number")


def _item(row: Row, protocol: str, shuffle: int | None, load: Load) -> Item:
    version, problem = str(row["problem_version"]).strip(), str(row["problem_index"])
    if version not in (*VERSIONS, TEXT_ONLY):
        known = ", ".join((*VERSIONS, TEXT_ONLY))
        raise TaskError(f"problem_version {version!r:.40} is none of {known}")
    name = f"{problem}/{version.lower().replace(' ', '-')}"
    question, answer = str(row["question"] or "").strip(), str(row["answer"]).strip()
    told = str(row.get("question_for_eval") or question).strip()
    about, kind = _metadata(row["metadata"]), str(row["question_type"])
    facts: dict[str, Fact] = {
        "answer": answer,
        "problem": problem,
        "version": version,
        "kind": kind,
        "subject": str(about.get("subject", "")),
        "subfield": str(about.get("subfield", "")),
        "question_for_eval": told,
    }
    texts = {"question": question, "query_wo": str(row.get("query_wo") or question).strip()}
    options, letter = options_of(told), answer.strip("() .")
    if kind != _CHOICE or not options or letter not in choices.letters(options) or not letter:
        gold = Gold(answer, "letter" if kind == _CHOICE and len(letter) == 1 else "auto", facts)
        return Item(name, _worded(texts, kind, protocol), gold, version, load)
    given = choices.Choices(options, letter)
    listed = options_of(question) == options
    shown = choices.drawn(given, shuffle if listed else None, name)
    texts = {field: relisted(text, given, shown) for field, text in texts.items()}
    facts |= {
        "options": shown.options,
        "letter": shown.letter,
        "question_for_eval": relisted(told, given, shown),
    }
    if shown.letter != letter:
        facts["answer"] = shown.letter
    gold = Gold(shown.letter, "letter", facts)
    return Item(name, _worded(texts, kind, protocol), gold, version, load)


def _metadata(value: Any) -> Mapping[str, Any]:
    """Where a problem comes from; a TSV writes it as text."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise TaskError(f"metadata {value!r:.40} is no mapping ({error})") from error
    if not isinstance(value, Mapping):
        raise TaskError(f"metadata {value!r:.40} is no mapping")
    return value


def _worded(texts: Mapping[str, str], kind: str, protocol: str) -> str:
    match protocol:
        case "official" | "quick-match" | "lmms-eval":
            return texts["query_wo"]
        case "vlmevalkit":
            return texts["question"]
        case _:
            suffix = prompts.LETTER if kind == _CHOICE else ""
            return prompts.listed(texts["question"] or _IN_PICTURE, (), suffix)
