"""We-Math: 525 problems asked whole and in two or three steps, 1,740 questions with options.

In: the Parquet file, ``testmini.json`` beside its pictures, or VLMEvalKit's TSV. Out: tasks; the
report is made by ``wemath_report``. The authors take the first letter after the last "Answer" of a
response, so that "Circle" is option C: that is ``official`` and ``vlmevalkit``, not ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from typing import TypeAlias

from pyvision_rl.errors import TaskError
from pyvision_rl.rewards.base import Grade
from pyvision_rl.suites import choices, lmms_reasoning, prompts
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
from pyvision_rl.suites.protocols import OURS, VLMEVALKIT, paper
from pyvision_rl.suites.tables import Row, is_hub, open_table
from pyvision_rl.suites.wemath_report import report
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import Fact, Gold, Media, Task

Load: TypeAlias = Callable[[], tuple[Media, ...]]

WHERE = (
    "get the data set We-Math/We-Math and give its Parquet file (split testmini), or a folder with "
    "testmini.json of github.com/We-Math/We-Math and its pictures, or VLMEvalKit's WeMath.tsv"
)
_FILES = ("**/testmini*.parquet", "*.parquet", "testmini.json", "data/testmini.json", "WeMath.tsv")
_COLUMNS = ("ID", "key", "question", "answer", "knowledge concept")
KEYS = {
    **{f"2steps_{step}": "S1" for step in "12"},
    **{f"3steps_{step}": "S1" for step in "123"},
    "2steps_multi": "S2",
    "3steps_multi": "S3",
}
"""What a question's ``key`` may be, and the category that it is counted in."""
# Not before ";": there a letter names a point, as in "a triangle BE;G.;".
_MARK = re.compile(r"(?:^|[;\s])([A-H])\s*[.．](?=\s*[^;\s])")
_NOISE = re.compile(r"[<>:.]")


class WeMath:
    """The suite ``wemath``."""

    name = "wemath"
    protocols: Mapping[str, Settings] = {
        "pyvision": OURS,
        "official": Settings(
            "We-Math's evaluation code (a57a0e8): the first letter after the last 'Answer'. Its "
            "prompt is not part of that code; question and options are asked as published."
        ),
        "vlmevalkit": VLMEVALKIT,
        "lmms-eval": Settings("lmms-eval (75571cf), wemath_testmini_reasoning without a judge."),
        "paper": paper(temperature=0.5, top_k=20),
    }

    def tasks(self, path: Path, protocol: str, *, shuffle: int | None = None) -> TaskSet:
        """Return the questions of the file, steps and whole problems (see ``Suite.tasks``)."""
        protocol = protocol_name(self, protocol)
        table = open_table(self._file(path), media=("image", "image_path"))
        table.need(*_COLUMNS)
        column = "image" if "image" in table.columns else "image_path"
        table.need(column)
        pictures = Pictures(table, column)
        pictures.check(WHERE)
        items = []
        for number, row in enumerate(table.rows):
            if not pictures.has(number):
                continue
            with table.naming(number):
                load = partial(pictures.media, number)
                items.append(_item(row, protocol, shuffle, load))
        return Items(self.name, items, dropped=len(table.rows) - len(items))

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the file of questions."""
        return () if is_hub(path) else (self._file(path),)

    def score(self, task: Task, final: Final, protocol: str) -> Grade | Undecided:
        """Return 1 for the right option, else 0."""
        options, gold = choices.asked(task)
        match protocol_name(self, protocol):
            case "official" | "vlmevalkit":
                return choices.kit_grade(first_letter(final.said), gold)
            case "lmms-eval":
                return lmms_reasoning.score(final, gold)
            case _:
                return choices.grade(final.answer, gold, options)

    def aggregate(self, items: Sequence[Scored], protocol: str) -> Report:
        """Return the scores, classes of problems, and accuracies (see ``wemath_report``)."""
        return report(self, items, protocol)

    def _file(self, path: Path) -> Path:
        return data_file(path, _FILES, WHERE)


def first_letter(text: str) -> str | None:
    """Return the option that We-Math's own code reads: whatever letter A to H comes first."""
    said = _NOISE.sub("", text.split("Answer")[-1].strip()).strip()
    return said[0] if said and said[0] in "ABCDEFGH" else None


def options_of(text: str) -> tuple[str, ...]:
    """Return the options in a text like ``A. 3; B. 4; C. No correct answer``, relettered from A.

    Raises:
        TaskError: There are fewer than two.
    """
    marks: list[re.Match[str]] = []
    for mark in _MARK.finditer(text):
        # The published file skips a letter once: "C. No.; F. No correct answer".
        skips = bool(marks) and text[mark.end() :].strip().startswith("No correct answer")
        if mark[1] == ascii_uppercase[len(marks)] or skips:
            marks.append(mark)
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    pairs = zip(marks, ends, strict=True) if len(marks) > 1 else ()
    found = tuple(text[mark.end() : end].strip(" ;\t\n") for mark, end in pairs)
    if not all(found) or not found:
        raise TaskError(f"option {text!r:.80} lists no options")
    return found


def _item(row: Row, protocol: str, shuffle: int | None, load: Load) -> Item:
    problem, key = str(row["ID"]), str(row["key"])
    if key not in KEYS:
        raise TaskError(f"key {key!r:.40} is none of {', '.join(KEYS)}")
    name = f"{problem}/{key.rpartition('_')[2]}"
    given = choices.Choices(_options(row), str(row["answer"]).strip().upper())
    shown = choices.drawn(given, shuffle, name)
    facts: dict[str, Fact] = {
        "options": shown.options,
        "letter": shown.letter,
        "problem": problem,
        "key": key,
        "concept": str(row["knowledge concept"]),
    }
    text = _worded(row, given, shown, protocol)
    return Item(name, text, Gold(shown.letter, "letter", facts), KEYS[key], load)


def _options(row: Row) -> tuple[str, ...]:
    """The options of a row: in columns of their own in a TSV, in one text elsewhere."""
    if text := str(row.get("option") or "").strip():
        return options_of(text)
    texts = (str(row.get(letter) or "").strip() for letter in "ABCDEFGH")
    return tuple(text for text in texts if text)


def _worded(row: Row, given: choices.Choices, shown: choices.Choices, protocol: str) -> str:
    question = str(row["question"]).strip()
    match protocol:
        case "vlmevalkit":
            hint = str(row.get("hint") or "").strip()
            listed = f"Question: {question}\nOptions:\n{choices.lines(shown.options)}\n"
            return f"Hint: {hint}\n{listed}" if hint else listed
        case "official" | "lmms-eval":
            published = row.get("option") if shown == given else None
            return (
                f"{question}\n{published or '; '.join(choices.lines(shown.options).splitlines())}"
            )
        case _:
            return prompts.listed(question, shown.options, prompts.LETTER)
