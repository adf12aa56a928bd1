r"""MATH-Vision: 3,040 competition problems with a picture, half of them with five options.

In: the Parquet file of the split test or testmini, ``test.jsonl`` beside its pictures, or
VLMEvalKit's TSV. Out: tasks; accuracy overall, by level and by subject. An option may be answered
by its letter or its value. A number counts as the reference if both are equal after rounding to two
decimals, as in the authors' scorer (``mathvision_official``), and in ours also to one part in a
hundred, so that 0 is not 0.0005.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from pyvision_rl.errors import TaskError
from pyvision_rl.rewards.answers import match
from pyvision_rl.rewards.base import Grade
from pyvision_rl.suites import arithmetic, choices, kit_choices, prompts, reports
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
from pyvision_rl.suites.mathvision_official import extracted, same
from pyvision_rl.suites.protocols import OURS, paper
from pyvision_rl.suites.tables import Row, is_hub, open_table
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import Fact, Gold, Media, Task

NUM_ITEMS, NUM_MINI = 3040, 304
WHERE = (
    "get the data set MathLLMs/MathVision and give its Parquet file (split test or testmini), "
    "test.jsonl with the folder images beside it, or VLMEvalKit's MathVision.tsv"
)
_FILES = ("**/test-*.parquet", "test.jsonl", "*.parquet", "*.jsonl", "*.tsv")
_LABELS = ("A", "B", "C", "D", "E")
"""Options that only name what is marked in the picture."""
_PLACE = re.compile(r"<image[0-9]+>")
_SOLVE = 'Please solve the problem and put your answer in one "\\boxed{}". '
_ONE_LETTER = (
    'If it is a multiple choice question, only one letter is allowed in the "\\boxed{}".\n'
)
_LETTER_DIRECTLY = "Answer the question with the option's letter from the given choices directly."
_STEPS = 'Please solve the problem step by step and put your answer in one "\\boxed{}".'
Load: TypeAlias = Callable[[], tuple[Media, ...]]


@dataclass(frozen=True, slots=True)
class _Question:
    """One row, whichever file it came from."""

    id: str
    question: str
    options: tuple[str, ...]
    answer: str
    subject: str
    level: str
    worded: bool
    """The question lists its options itself, as in a TSV."""


class MathVision:
    """The suite ``mathvision``."""

    name = "mathvision"
    protocols: Mapping[str, Settings] = {
        "pyvision": OURS,
        "official": Settings(
            "MATH-Vision's prompt and scorer (mathllm/MATH-V, a1f5cc3); expressions that our "
            "arithmetic does not read are undecided, where the authors ask latex2sympy."
        ),
        "vlmevalkit": Settings(
            "VLMEvalKit (e8e78f0): letter by its rules, else a language model extracts; the "
            "question as its TSV words it, if that is the file."
        ),
        "lmms-eval": Settings(
            "lmms-eval (75571cf), mathvision_test: its prompt, the authors' scorer.",
            temperature=0.0,
        ),
        "paper": paper(temperature=0.5, top_k=20),
    }

    def tasks(self, path: Path, protocol: str, *, shuffle: int | None = None) -> TaskSet:
        """Return the problems of the file (see ``Suite.tasks``).

        Options that are marked in the picture, or listed by a TSV's own text, are never reordered.
        """
        protocol = protocol_name(self, protocol)
        table = open_table(self._file(path), media=("image", "decoded_image"))
        table.need("question", "answer")
        column = "decoded_image" if "decoded_image" in table.columns else "image"
        pictures = Pictures(table, column)
        pictures.check(WHERE)
        items = []
        for number, row in enumerate(table.rows):
            if not pictures.has(number):
                continue
            load = partial(pictures.media, number)
            with table.naming(number, KeyError):
                items.append(_item(_question(row), protocol, shuffle, load))
        return Items(self.name, items, dropped=len(table.rows) - len(items))

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the file of problems."""
        return () if is_hub(path) else (self._file(path),)

    def score(self, task: Task, final: Final, protocol: str) -> Grade | Undecided:
        """Return 1 for a right answer, else 0."""
        match protocol_name(self, protocol):
            case "official" | "lmms-eval":
                return _official(task, final.said)
            case "vlmevalkit":
                return _vlmevalkit(task, final.said)
            case _:
                return _strict(task, final.answer)

    def aggregate(self, items: Sequence[Scored], protocol: str) -> Report:
        """Return accuracy over all problems, of each level and of each subject."""
        whole = NUM_MINI if len(items) == NUM_MINI else NUM_ITEMS
        said = reports.notes(self, protocol, items, whole)
        usable = reports.graded(items)
        if not usable:
            return reports.nothing("overall", items, said)
        numbers = {"overall": reports.mean(usable)}
        for name, group in reports.grouped(usable, partial(reports.fact, name="level")).items():
            if name:
                numbers[f"level {name}"] = reports.mean(group)
        groups = reports.grouped(usable, lambda item: item.task.input.category)
        numbers |= {name: reports.mean(group) for name, group in groups.items()}
        return Report("overall", numbers, reports.counted(items), tuple(said))

    def _file(self, path: Path) -> Path:
        return data_file(path, _FILES, WHERE)


def _strict(task: Task, answer: str | None) -> Grade | Undecided:
    """The grade of the final answer alone."""
    if answer is None or not answer.strip():
        return Grade(0.0, False, "no answer")
    options, gold = choices.asked(task)
    return _option(answer, options, gold) if options else _free(answer, gold)


def _option(answer: str, options: tuple[str, ...], gold: str) -> Grade | Undecided:
    named = choices.chosen(answer, options)
    if named is None and (number := arithmetic.value_of_answer(answer)) is not None:
        values = zip(
            choices.letters(options), map(arithmetic.value_of_answer, options), strict=True
        )
        equal = [name for name, other in values if other is not None and near(number, other)]
        named = equal[0] if len(equal) == 1 else None
    if named is not None:
        return Grade(float(named == gold), named == gold, f"option {named}")
    is_maths = re.search(r"[0-9\\]", answer) and any(re.search(r"[0-9\\$]", o) for o in options)
    if not is_maths:
        return Grade(0.0, False, "names no option")
    return Undecided("the answer names no option by letter, text or value")


def _free(answer: str, gold: str) -> Grade | Undecided:
    if match(answer, gold, "auto", rel_tol=0.0).correct:
        return Grade(1.0, True, "same text")
    mine, theirs = arithmetic.value_of_answer(answer), arithmetic.value_of_answer(gold)
    if mine is not None and theirs is not None:
        right = near(mine, theirs)
        return Grade(float(right), right, "same number" if right else "another number")
    one, other = arithmetic.members(answer), arithmetic.members(gold)
    if one and other:
        right = len(one) == len(other) and all(map(near, one, other))
        return Grade(float(right), right, "numbers of a list")
    return Undecided("the answer and the reference are not both plain numbers")


def near(first: float, second: float) -> bool:
    """Return whether two numbers are one answer: equal to two decimals, and to one in a hundred."""
    if arithmetic.close(first, second):
        return True
    return round(first, 2) == round(second, 2) and math.isclose(first, second, rel_tol=0.01)


def _official(task: Task, said: str) -> Grade | Undecided:
    options, letter = choices.asked(task)
    answer = extracted(said)
    golds = [letter] if options else [str(task.gold.facts.get("answer"))]
    if options:
        golds.append(options[choices.letters(options).index(letter)])
    found = [same(gold, answer) for gold in golds]
    if not any(found) and None in found:
        return Undecided("MATH-Vision's scorer asks latex2sympy whether the two are equal")
    right = any(found)
    return Grade(float(right), right, f"extracted {answer!r:.40}")


def _vlmevalkit(task: Task, said: str) -> Grade | Undecided:
    options, gold = choices.asked(task)
    if options:
        named = kit_choices.vlmevalkit(said, options)
        if named is None:
            return Undecided("VLMEvalKit asks a language model for the option")
        return choices.kit_grade(named, gold)
    gold = str(task.gold.facts.get("answer"))
    if said.lower().strip() == gold.lower().strip():
        return Grade(1.0, True, "same text")
    mine, theirs = arithmetic.value(said), arithmetic.value(gold)
    # That kit's own evaluation knows neither roots nor pi.
    if mine is None or theirs is None or re.search("sqrt|pi|[√π]", said + gold):
        return Undecided("VLMEvalKit asks a language model for the answer")
    right = abs(mine - theirs) < 1e-6
    return Grade(float(right), right, "numbers")


def _question(row: Row) -> _Question:
    listed = row.get("options")
    worded = listed is None
    if worded:
        listed = _literal(str(row.get("choices") or "[]"))
    options = tuple(str(option).strip() for option in listed or ())
    # One published answer has lost the backslash of \frac to an escape.
    answer = str(row["answer"]).replace("\x0crac", "\\frac").strip()
    subject = row.get("subject", row.get("category"))
    name, level = row.get("id", row.get("index")), row.get("level")
    if name is None or not answer:
        raise TaskError("has no id or no answer")
    return _Question(
        str(name),
        str(row["question"]).strip(),
        options,
        answer,
        str(subject or ""),
        "" if level is None else str(level),
        worded,
    )


def _literal(text: str) -> list[object]:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise TaskError(f"choices {text!r:.40} is no list ({error})") from error
    return list(found) if isinstance(found, list | tuple) else []


def _item(asked: _Question, protocol: str, shuffle: int | None, load: Load) -> Item:
    facts: dict[str, Fact] = {
        "answer": asked.answer,
        "subject": asked.subject,
        "level": asked.level,
    }
    if not asked.options:
        text = _worded(asked, (), protocol)
        return Item(asked.id, text, Gold(asked.answer, "auto", facts), asked.subject, load)
    given = choices.Choices(asked.options, asked.answer)
    fixed = asked.worded or asked.options == _LABELS[: len(asked.options)]
    shown = choices.drawn(given, None if fixed else shuffle, asked.id)
    facts |= {"options": shown.options, "letter": shown.letter}
    text = _worded(asked, shown.options, protocol)
    return Item(asked.id, text, Gold(shown.letter, "letter", facts), asked.subject, load)


def _worded(asked: _Question, options: tuple[str, ...], protocol: str) -> str:
    labels = options == _LABELS[: len(options)]
    match protocol:
        case "official":
            marked = "" if labels else _marked(options)
            return f"{_SOLVE}{_ONE_LETTER}{asked.question}\n{marked}"
        case "lmms-eval":
            if not options:
                return f"{_STEPS}{asked.question}"
            listed = f"{asked.question}\nChoices: {choices.lines(options)}"
            return f"{_STEPS}{listed}\n{_LETTER_DIRECTLY}"
        case "vlmevalkit":
            return asked.question if asked.worded else prompts.listed(asked.question, options)
        case _:
            # A picture that stands alone is before the question; several are one, with these marks.
            alone = len(_PLACE.findall(asked.question)) == 1
            text = _PLACE.sub("", asked.question) if alone else asked.question
            text = "\n".join(line for line in text.split("\n") if line.strip())
            shown = () if labels or asked.worded else options
            return prompts.listed(text, shown, prompts.LETTER if options else "")


def _marked(options: tuple[str, ...]) -> str:
    return "".join(f"({o[0]}) {o[3:]}\n" for o in choices.lines(options).split("\n"))
