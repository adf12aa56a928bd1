"""What a file of tasks holds, counted: faults, media, answers, sources, duplicates.

In: the rows of the files behind a config's tasks, and its grader. Out: a ``Survey`` with every
fault and every count, as findings or as JSON. Each reference answer is graded, by rules alone: a
judge is asked nothing. Looks at rows one at a time; asks no model and writes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from pyvision_rl.checks.media import Kind, Measured, Measurer
from pyvision_rl.checks.sandbox import Finding
from pyvision_rl.config import Config, RewardsConfig
from pyvision_rl.rewards import build_rewarder
from pyvision_rl.rewards.answers import infer_type
from pyvision_rl.tasks.rows import NO_FILE, Entry, Fault, bare_task
from pyvision_rl.types import EndReason, Trajectory

TOGETHER = 64
"""Rows whose files are opened together."""
SHOWN_PAIRS = 3
"""Duplicates that are named."""


@dataclass(slots=True)
class Extent:
    """How many media of a kind there are, and how large."""

    used: int = 0
    """How often tasks name one."""
    seen: dict[str, Measured] = field(default_factory=dict)
    """Each one once, by its content."""

    def add(self, found: Measured) -> None:
        """Count one use."""
        self.used += 1
        self.seen.setdefault(found.name, found)

    def to_json(self) -> dict[str, Any]:
        """Return the counts; ranges are [least, most], and sides are those of one medium."""
        media = list(self.seen.values())
        known: dict[str, Any] = {
            "used": self.used,
            "distinct": len(media),
            "bytes": sum(m.num_bytes for m in media),
        }
        if not media:
            return known
        by_area = sorted(media, key=lambda m: (m.width * m.height, m.width))
        known["smallest"] = [by_area[0].width, by_area[0].height]
        known["largest"] = [by_area[-1].width, by_area[-1].height]
        for name in ("num_frames", "fps", "duration_s"):
            values = [v for m in media if (v := getattr(m, name)) is not None]
            if values:
                known[name] = [min(values), max(values)]
        return known


@dataclass(slots=True)
class Survey:
    """What was found so far."""

    files: Counter[str] = field(default_factory=Counter)
    """Rows of each file."""
    faulty: int = 0
    """Rows with a fault."""
    faults: list[tuple[Path, Fault]] = field(default_factory=list)
    extents: dict[Kind, Extent] = field(
        default_factory=lambda: {"image": Extent(), "video": Extent()}
    )
    without_media: int = 0
    answer_types: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    environments: Counter[str] = field(default_factory=Counter)
    graded: int = 0
    """Reference answers that were graded right."""
    repeated: list[str] = field(default_factory=list)
    """Rows that ask the same of the same media as one before, and answer the same."""
    contradicting: list[str] = field(default_factory=list)
    """Rows that do so and answer otherwise."""
    _asked: dict[bytes, tuple[str, bytes]] = field(default_factory=dict)
    """Question and media -> the first row, and its answer."""

    def add(
        self, path: Path, entry: Entry, media: Iterable[Measured | str], wrong: str | None
    ) -> None:
        """Count one row.

        Args:
            path: Its file.
            entry: The row.
            media: Each of its media, or what is wrong with it.
            wrong: Why its reference answer is not graded right; None if it is.
        """
        self.files[str(path)] += 1
        faults = list(entry.faults)
        row, media = entry.row, list(media)
        if row is not None:
            said = {fault.message for fault in faults}
            unit = faults[0].unit if faults else "line" if path.suffix == ".jsonl" else "record"
            new = [m for m in media if isinstance(m, str) and m not in said]
            faults += [Fault(row.line, row.id, m, unit=unit) for m in new]
            if wrong is not None and not faults:
                faults.append(Fault(row.line, row.id, wrong, "answer", unit))
        self.faulty += bool(faults)
        self.faults += [(path, fault) for fault in faults]
        if row is None or faults:
            return
        self.graded += 1
        for seen in media:
            if isinstance(seen, Measured):
                self.extents[seen.kind].add(seen)
        self.without_media += not media
        gold = bare_task(row).gold
        auto = gold.answer_type == "auto"
        self.answer_types[infer_type(gold.answer) if auto else gold.answer_type] += 1
        self.sources[row.data_source] += 1
        self.categories[row.category] += 1
        self.environments[entry.environment] += 1
        names = sorted(seen.name for seen in media if isinstance(seen, Measured))
        asked = _digest(" ".join(row.question.split()), *names)
        answer = _digest(row.answer.strip())
        where = f"{path.name}:{row.line}"
        first, before = self._asked.setdefault(asked, (where, answer))
        if first != where:
            same = self.repeated if before == answer else self.contradicting
            same.append(f"{first} and {where}")

    def to_json(self) -> dict[str, Any]:
        """Return every count, and every fault."""
        return {
            "files": dict(self.files),
            "records": sum(self.files.values()),
            "faulty": self.faulty,
            "missing_files": self.missing_files,
            "faults": [
                {"file": str(p), "record": f.line, "id": f.id, "key": f.key, "message": f.message}
                for p, f in self.faults
            ],
            "images": self.extents["image"].to_json(),
            "videos": self.extents["video"].to_json(),
            "without_media": self.without_media,
            "repeated": self.repeated,
            "contradicting": self.contradicting,
            "answer_types": _counts(self.answer_types),
            "data_sources": _counts(self.sources),
            "categories": _counts(self.categories),
            "environments": _counts(self.environments),
            "graded_right": self.graded,
        }

    @property
    def missing_files(self) -> int:
        """How many faults are files that are not there."""
        return sum(fault.message.endswith(NO_FILE) for _, fault in self.faults)

    def findings(self, context: str) -> Iterator[Finding]:
        """Yield every fault, and then what was counted.

        Args:
            context: ``prompts.context``.
        """
        for path, fault in self.faults:
            yield Finding(f"{path}:{fault.line}", "failed", str(fault))
        for name, rows in self.files.items():
            yield Finding("records", "ok", f"{rows:,} in {name}")
        if self.faults:
            missing = f"; files that are not there: {self.missing_files:,}"
            detail = f"{len(self.faults):,} in {self.faulty:,} records{missing}"
            yield Finding("faults", "failed", detail)
        for kind, extent in self.extents.items():
            if extent.used:
                yield Finding(f"{kind}s", "ok", _extent(extent.to_json()))
        if self.without_media:
            yield Finding("without image or video", "note", f"{self.without_media:,}")
        for what, pairs in (
            ("the same question, media and answer twice", self.repeated),
            ("the same question and media, another answer", self.contradicting),
        ):
            if pairs:
                detail = f"{len(pairs):,}: {', '.join(pairs[:SHOWN_PAIRS])}"
                yield Finding(what, "note", detail + (" ..." if pairs[SHOWN_PAIRS:] else ""))
        yield from _named("answer types", self.answer_types)
        yield from _named("data sources", self.sources)
        yield from _named("categories", self.categories)
        yield from _environments(self.environments, context)


def take(
    config: Config,
    rows: Iterable[tuple[Path, Entry]],
    *,
    decode: bool,
    progress: Callable[[int], None] | None = None,
) -> Survey:
    """Return what the rows of a config's tasks hold.

    Args:
        config: Its grader is asked about each reference answer.
        rows: Each with its file.
        decode: Decode every image; False reads headers.
        progress: Told how many rows were looked at.

    Raises:
        ConfigError: The grader cannot be made, or there are videos and nothing to read them.
        TaskError: A file as a whole holds no records.
    """
    survey = Survey()
    rewarder = build_rewarder(by_rules(config.rewards))

    async def wrong(entry: Entry) -> str | None:
        if entry.row is None or entry.faults:
            return None
        task = bare_task(entry.row)
        answer = task.gold.answer
        episode = Trajectory(task.id, 0, (), (), (), EndReason.ANSWERED, answer)
        reward = (graded := await rewarder.grade(task, episode)).reward
        if reward is None:
            return f"{answer!r:.60} cannot be graded by rules: {graded.error}"
        return None if reward.correct else f"{answer!r:.60} is graded wrong ({reward.why})"

    with asyncio.Runner() as runner, Measurer(decode=decode) as measurer:
        try:
            waiting = iter(rows)
            while together := list(islice(waiting, TOGETHER)):
                measurer.look_at(entry for _, entry in together)
                for path, entry in together:
                    survey.add(path, entry, measurer.of(entry), runner.run(wrong(entry)))
                if progress is not None:
                    progress(sum(survey.files.values()))
        finally:
            runner.run(rewarder.close())
    return survey


def by_rules(config: RewardsConfig) -> RewardsConfig:
    """Return the section with a judge that goes by rules and may not be asked."""
    judge = config.judge.model_copy(update={"rules_first": True, "max_calls": 0})
    return config.model_copy(update={"judge": judge})


def _digest(*parts: str) -> bytes:
    """16 bytes that are equal for equal parts."""
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).digest()


def _counts(counter: Mapping[str, int]) -> dict[str, int]:
    """The counts, largest first."""
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))


def _named(name: str, counter: Mapping[str, int]) -> Iterator[Finding]:
    """The counts in a line; none where nothing has a name."""
    if set(counter) - {""}:
        said = (f"{key or '(none)'} {count:,}" for key, count in _counts(counter).items())
        yield Finding(name, "ok", ", ".join(said))


def _environments(counter: Mapping[str, int], context: str) -> Iterator[Finding]:
    """What the records say of the mode, if it is another than the config's."""
    hidden = sum(n for name, n in counter.items() if name.endswith("wo_image_hint"))
    shown = sum(n for name, n in counter.items() if name.endswith("_w_image_hint"))
    for count, wanted in ((hidden, "runtime"), (shown, "on_demand")):
        if count and context != wanted:
            detail = f'{count:,} records are made for "{wanted}", the config says "{context}"'
            yield Finding("prompts.context", "note", detail)
    yield from _named("environments", counter)


def _extent(known: Mapping[str, Any]) -> str:
    """The counts of ``Extent`` for people."""
    small, large = (" x ".join(map(str, known[name])) for name in ("smallest", "largest"))
    parts = [
        f"{known['distinct']:,} ({known['used']:,} times used)",
        f"{known['bytes'] / 1e6:,.1f} MB",
        f"{small} to {large} pixels",
    ]
    for name, unit in (("num_frames", "frames"), ("fps", "a second"), ("duration_s", "seconds")):
        if name in known:
            least, most = known[name]
            parts.append(f"{least:,.6g} to {most:,.6g} {unit}")
    return ", ".join(parts)
