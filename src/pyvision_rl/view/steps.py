"""The trajectories of one step, in short: a row each, and where their lines lie.

In: a file ``rollouts/step_*.jsonl``. Out: a ``StepIndex``: rows, groups, chunks; and from it the
records of a chunk, read when they are wanted. A line that is no trajectory is named and skipped; of
two lines of one sample of an evaluation the last counts.
Keeps no trajectory in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any
from zlib import crc32

from pyvision_rl.runs_codec import SavedRollout, media_of
from pyvision_rl.runs_decode import decode
from pyvision_rl.runs_order import in_order
from pyvision_rl.types import ExecStatus, ImageSource, population_std
from pyvision_rl.usage import observed
from pyvision_rl.view.lines import Problems, Raw, parsed, raw_lines
from pyvision_rl.view.scripts import Json

CHUNK = 64
"""Trajectories, about: a chunk holds whole groups."""
MAX_ANSWER = 120
"""Characters of an answer that the list has, for searches."""
_SEGMENTS = b', "segments": ['
# An older or a foreign writer's line: anything may be in it.
_FAULTS = (KeyError, TypeError, ValueError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Row:
    """One trajectory in short."""

    offset: int
    length: int
    """Bytes of its line, and where they begin."""
    checksum: int
    """CRC-32 of its line: an index may be older than what the file holds by now."""
    group: int
    """From 0, in its step."""
    rollout: int
    task: str
    end: str
    answer: str | None
    """Its first characters."""
    reason: str | None
    correct: bool | None
    reward: float | None
    parts: Mapping[str, float]
    advantage: float | None
    calls: int
    errors: int
    turns: int
    tokens: int
    visual: int | None
    images: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task in short."""

    id: str
    category: str
    source: str
    question: str
    """Its first characters."""
    video: bool


@dataclass(frozen=True, slots=True)
class _Short:
    """One line in short, before the others are known."""

    place: tuple[Any, Any]
    """As ``in_order`` takes it."""
    row: Row
    """Of no group yet."""
    task: TaskRow
    images: frozenset[str]
    has_tokens: bool


@dataclass(frozen=True, slots=True)
class StepIndex:
    """What is known of one step without its trajectories."""

    step: int
    file: Path
    stamp: str
    """Changes with the file."""
    rows: tuple[Row, ...]
    stds: tuple[float | None, ...]
    """By group: population std of the rewards of its graded members."""
    chunks: tuple[tuple[int, int], ...]
    """First row, and the row after the last."""
    tasks: Mapping[str, TaskRow]
    images: frozenset[str]
    """Hashes of all images named."""
    has_tokens: bool
    problems: tuple[str, ...]

    def chunk_names(self, kind: str = "c") -> tuple[str, ...]:
        """Return the names of the chunks' data files, or with "t" of those with their tokens."""
        return tuple(f"{kind}{self.step:06d}-{k:02d}" for k in range(len(self.chunks)))

    def ranks(self) -> tuple[int | None, ...]:
        """Return by group the place of its std in the step, 1 for the highest."""
        known = sorted((s for s in self.stds if s is not None), reverse=True)
        return tuple(None if s is None else known.index(s) + 1 for s in self.stds)


def stamp_of(file: Path) -> str:
    """Return a text that changes with a file; "" if it is not there."""
    try:
        found = file.stat()
    except OSError:
        return ""
    return f"{found.st_mtime_ns:x}-{found.st_size:x}"


def index_step(step: int, file: Path) -> StepIndex:
    """Read a step's file once, from its begin to its end."""
    stamp, problems = stamp_of(file), Problems(file.name)
    read = (_short(raw, problems) for raw in raw_lines(file, problems))
    found = [short for short in read if short is not None]
    shorts = [found[k] for k in in_order([short.place for short in found])]
    rows = list(_grouped(shorts))
    told = problems.told()
    if again := len(found) - len(shorts):
        told = (*told, f"{file.name}: {again} lines are of samples that were run again; not shown")
    return StepIndex(
        step,
        file,
        stamp,
        tuple(rows),
        tuple(_stds(rows)),
        tuple(_chunks(rows)),
        # Of two of an id the first.
        {short.task.id: short.task for short in reversed(shorts)},
        frozenset().union(*(short.images for short in shorts)),
        any(short.has_tokens for short in shorts),
        told,
    )


class ChangedError(Exception):
    """Lines are not what was indexed; their file has to be indexed again."""


class UnreadableError(Exception):
    """Lines are what was indexed, and the rest of what they hold cannot be read."""


def records(
    index: StepIndex, chunk: int, *, tokens: bool = False
) -> Iterator[tuple[int, SavedRollout]]:
    """Yield the trajectories of a chunk, in order, with the numbers of their groups.

    A file that has only grown still holds them, where they were.

    Raises:
        ChangedError: A line is another by now, or is gone.
        UnreadableError: The tokens of a line are broken.
    """
    start, end = index.chunks[chunk]
    try:
        with index.file.open("rb") as file:
            for row in index.rows[start:end]:
                file.seek(row.offset)
                content = file.read(row.length)
                if crc32(content) != row.checksum:
                    raise ChangedError(index.file.name)
                line = parsed(content) if tokens else _without_tokens(content)
                try:
                    saved = decode(line if isinstance(line, dict) else {})
                except _FAULTS as error:
                    raise UnreadableError(index.file.name) from error
                yield row.group, saved
    except OSError as error:
        raise ChangedError(index.file.name) from error


def _short(raw: Raw, problems: Problems) -> _Short | None:
    """A line in short; None for one that is no trajectory, which is a problem."""
    line = _without_tokens(raw.content)
    if line is None:
        problems.add(f", line {raw.number}: not a JSON object, skipped")
        return None
    try:
        saved = decode(line)
        _check(saved)
        task = saved.task.input
        video = any(m.kind == "video" for m in task.media)
        return _Short(
            (line.get("index"), saved.trajectory.rollout),
            _row(saved, raw),
            TaskRow(task.id, task.category, task.data_source, task.question[:200], video),
            frozenset(m.sha256 for m in media_of(saved) if m.kind == "image"),
            _SEGMENTS in raw.content,
        )
    except _FAULTS as error:
        problems.add(f", line {raw.number}: not a trajectory ({error!r}), skipped")
        return None


def _check(saved: SavedRollout) -> None:
    """Check the values that a page reckons with; ``decode`` takes them as they come.

    Raises:
        TypeError: One is of another type.
    """
    task, t = saved.task.input, saved.trajectory
    media = list(media_of(saved))
    ran = [turn.execution for turn in t.turns if turn.execution is not None]
    boxes = [s.box for e in ran for s in e.sources if isinstance(s, ImageSource)]
    texts: list[object] = [task.id, task.question, task.category, task.data_source]
    texts += [text for text in (t.answer, saved.reason) if text is not None]
    texts += [m.sha256 for m in media]
    numbers: list[object] = [t.rollout, *(edge for box in boxes for edge in box)]
    numbers += [size for m in media for size in (m.width, m.height)]
    numbers += [] if t.reward is None else [t.reward.correct]
    for values, kind in ((texts, str), (numbers, int)):
        if odd := [value for value in values if not isinstance(value, kind)]:
            raise TypeError(f"{odd[0]!r:.40} is no {kind.__name__}")


def _grouped(shorts: Iterable[_Short]) -> Iterator[Row]:
    """Yield the rows with the numbers of their groups."""
    group, rollouts = -1, set[int]()
    before: tuple[Any, str] | None = None
    for short in shorts:
        row, task = short.row, (short.place[0], short.row.task)
        # An epoch's border may draw one task twice in a step.
        if task != before or row.rollout in rollouts:
            group, rollouts, before = group + 1, set(), task
        rollouts.add(row.rollout)
        yield replace(row, group=group)


def _without_tokens(content: bytes) -> Json | None:
    """Return a line without its segments, which are most of it; they are not even parsed.

    In a text the quotes would be escaped: what is found is the key.
    """
    cut = content.find(_SEGMENTS)
    line = parsed(content[:cut] + b"}") if cut > 0 else None
    if line is None:
        line = parsed(content)
    if isinstance(line, dict):
        line.pop("segments", None)
        return line
    return None


def _row(saved: SavedRollout, raw: Raw) -> Row:
    t = saved.trajectory
    ran = [turn.execution for turn in t.turns if turn.execution is not None]
    seen = None if t.prompted is None else t.prompted.visual + observed(t).visual
    return Row(
        offset=raw.offset,
        length=len(raw.content),
        checksum=crc32(raw.content),
        group=-1,
        rollout=t.rollout,
        task=saved.task.id,
        end=t.end.value,
        answer=None if t.answer is None else t.answer[:MAX_ANSWER],
        reason=saved.reason,
        correct=None if t.reward is None else t.reward.correct,
        reward=None if t.reward is None else t.reward.total,
        parts={} if t.reward is None else t.reward.parts,
        advantage=saved.advantage,
        calls=t.num_tool_calls,
        errors=sum(e.status is not ExecStatus.OK for e in ran),
        turns=len(t.turns),
        tokens=sum(turn.num_tokens for turn in t.turns),
        visual=seen,
        images=sum(len(e.images) for e in ran),
        seconds=round(sum(turn.sample_s for turn in t.turns) + sum(e.duration_s for e in ran), 3),
    )


def _stds(rows: list[Row]) -> Iterator[float | None]:
    for _, members in groupby(rows, key=lambda row: row.group):
        rewards = tuple(row.reward for row in members if row.reward is not None)
        yield population_std(rewards) if rewards else None


def _chunks(rows: list[Row]) -> Iterator[tuple[int, int]]:
    """Yield rows of whole groups, at most ``CHUNK`` unless one group has more."""
    start, end = 0, 0
    for _, members in groupby(rows, key=lambda row: row.group):
        size = len(list(members))
        if end > start and end + size - start > CHUNK:
            yield start, end
            start = end
        end += size
    if end > start:
        yield start, end
