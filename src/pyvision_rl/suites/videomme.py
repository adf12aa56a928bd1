"""Video-MME: 2,700 questions on 900 videos, short, medium and long, each with four options.

In: the Parquet file of questions, and beside it or a folder above the videos, ``{videoID}.mp4`` or
the published archives of them. Out: tasks; accuracy overall, by duration, domain, sub-category and
kind of task. Subtitles are not read: numbers compare with those without subtitles. Both kits ask a
model for frames; an agent has the video itself and takes frames on demand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.rewards.base import Grade
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
from pyvision_rl.suites.lmms_choice import lmms_choice
from pyvision_rl.suites.protocols import LMMS_EVAL, OURS
from pyvision_rl.suites.tables import Row, is_hub, open_table
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import Fact, Gold, Media, Task
from pyvision_rl.video import file_video, require_av

NUM_ITEMS = 2700
LETTERS = "ABCD"
FACTS = {"duration": "duration", "domain": "domain", "sub_category": "sub", "task_type": "task"}
"""Columns that numbers are split by, and what their names begin with."""
WHERE = (
    "get the data set lmms-lab/Video-MME (or lmms-eval/Video-MME) and give its folder: "
    "videomme/test-*.parquet, and videos_chunked_*.zip or the folder data that is in them"
)
_FILES = ("videomme/test-*.parquet", "**/test-*.parquet", "*.parquet", "*.jsonl")
_COLUMNS = ("videoID", *FACTS, "question_id", "question", "options", "answer")
_MARK = re.compile(r"^\s*\(?[A-D][.):]\s*")
_LMMS = (
    "Select the best answer to the following multiple-choice question based on the video and the "
    "subtitles. Respond with only the letter (A, B, C, or D) of the correct option.\n{}\n"
    "The best answer is:"
)
_VLMEVALKIT = (
    "\nThese are the frames of a video. Select the best answer to the following multiple-choice "
    "question based on the video. Respond with only the letter (A, B, C, or D) of the correct "
    "option.\nQuestion: {}\nAnswer: "
)
# Taken out before a letter is looked for. Two pairs run together where the kit forgot a comma.
_PREFIXES = (
    *("The best answer is", "The correct answer is", "The answer is", "The answer"),
    *("The best option isThe correct option is", "Best answer:Best option:", "Answer:", "Option:"),
)


class VideoMME:
    """The suite ``videomme``."""

    name = "videomme"
    protocols: Mapping[str, Settings] = {
        "pyvision": OURS,
        "vlmevalkit": Settings(
            "VLMEvalKit (e8e78f0), Video-MME without subtitles: the first capital A to D; where "
            "there is none it asks a language model, or draws."
        ),
        "lmms-eval": LMMS_EVAL,
    }

    def tasks(self, path: Path, protocol: str, *, shuffle: int | None = None) -> TaskSet:
        """Return the questions of the file, each with its video (see ``Suite.tasks``)."""
        protocol = protocol_name(self, protocol)
        if is_hub(path):
            raise ConfigError(f"path = {str(path)!r}: rows on the hub have no videos; {WHERE}")
        file = self._file(path)
        table = open_table(file, media=())
        table.need(*_COLUMNS)
        require_av(f"{file}: a video")
        videos = [f"{row['videoID']}.mp4" for row in table.rows]
        folder = _folder(path if path.is_dir() else file.parent, videos)
        items = []
        for number, row in enumerate(table.rows):
            with table.naming(number):
                items.append(_item(row, protocol, shuffle, folder))
        return Items(self.name, items)

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the file of questions."""
        return () if is_hub(path) else (self._file(path),)

    def score(self, task: Task, final: Final, protocol: str) -> Grade | Undecided:
        """Return 1 for the right option, else 0."""
        options, gold = choices.asked(task)
        match protocol_name(self, protocol):
            case "vlmevalkit":
                named = first_capital(final.said)
                if named is None:
                    return Undecided("VLMEvalKit asks a language model for the option, or draws")
                return choices.kit_grade(named, gold)
            case "lmms-eval":
                return choices.kit_grade(lmms_choice(final.said, LETTERS), gold)
            case _:
                return choices.grade(final.answer, gold, options)

    def aggregate(self, items: Sequence[Scored], protocol: str) -> Report:
        """Return accuracy over all questions, and of each duration, domain and kind."""
        said = reports.notes(self, protocol, items, NUM_ITEMS)
        usable = reports.graded(items)
        if not usable:
            return reports.nothing("overall", items, said)
        numbers = {"overall": reports.mean(usable)}
        for column, short in FACTS.items():
            groups = reports.grouped(usable, partial(reports.fact, name=column))
            numbers |= {f"{short}: {name}": reports.mean(group) for name, group in groups.items()}
        return Report("overall", numbers, reports.counted(items), tuple(said))

    def _file(self, path: Path) -> Path:
        return data_file(path, _FILES, WHERE)


def first_capital(text: str) -> str | None:
    """Return the option that VLMEvalKit (e8e78f0) reads: the first capital A to D anywhere."""
    said = text.strip()
    for prefix in _PREFIXES:
        said = said.replace(prefix, "")
    found = re.search("[ABCD]", said)
    return found[0] if found else None


def _item(row: Row, protocol: str, shuffle: int | None, folder: Path) -> Item:
    name, letter = str(row["question_id"]), str(row["answer"]).strip().upper()
    texts = tuple(_MARK.sub("", str(option)).strip() for option in row["options"] or ())
    given = choices.Choices(texts, letter)
    shown = choices.drawn(given, shuffle, name)
    facts: dict[str, Fact] = {column: str(row[column]) for column in FACTS}
    facts |= {"options": shown.options, "letter": shown.letter, "video": str(row["videoID"])}
    text = _worded(str(row["question"]).strip(), shown.options, protocol)
    gold = Gold(shown.letter, "letter", facts)
    load = partial(_video, folder, f"{row['videoID']}.mp4")
    return Item(name, text, gold, str(row["duration"]), load)


def _worded(question: str, options: tuple[str, ...], protocol: str) -> str:
    match protocol:
        case "vlmevalkit":
            return _VLMEVALKIT.format(prompts.listed(question, options))
        case "lmms-eval":
            return _LMMS.format(prompts.listed(question, options))
        case _:
            return prompts.listed(question, options, prompts.LETTER)


def _folder(folder: Path, videos: Sequence[str]) -> Path:
    """The folder, or the one above it, that has the videos or archives of them."""
    try:
        check_media(folder, videos, WHERE)
    except TaskError as error:
        try:
            check_media(folder.parent, videos, WHERE)
        except TaskError:
            raise error from None
        return folder.parent
    return folder


def _video(folder: Path, name: str) -> tuple[Media, ...]:
    """The video, unpacked if it is only in an archive."""
    path = folder / "data" / name
    return (file_video(path if path.is_file() else unpacked(folder, name)),)
