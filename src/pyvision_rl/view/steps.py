"""The trajectories of one step, in short: a row each, and where their lines lie.

In: a file ``rollouts/step_*.jsonl``. Out: a ``StepIndex``: rows, groups, chunks; and from it the
records of a chunk, read when they are wanted. A line that is no trajectory is named and skipped.
Keeps no trajectory in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pyvision_rl.runs_codec import SavedRollout, decode, media_of
from pyvision_rl.types import ExecStatus, population_std
from pyvision_rl.usage import observed
from pyvision_rl.view.lines import Problems, Raw, parsed, raw_lines
from pyvision_rl.view.scripts import Json

CHUNK = 64
"""Trajectories, about: a chunk holds whole groups."""
MAX_ANSWER = 120
"""Characters of an answer that the list has, for searches."""
_SEGMENTS = b', "segments": ['


@dataclass(frozen=True, slots=True)
class Row:
    """One trajectory in short."""

    offset: int
    length: int
    """Bytes of its line, and where they begin."""
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
        return _stamp(file.stat())
    except OSError:
        return ""


def _stamp(found: os.stat_result) -> str:
    return f"{found.st_mtime_ns:x}-{found.st_size:x}"


def index_step(step: int, file: Path) -> StepIndex:
    """Read a step's file once, from its begin to its end."""
    stamp, problems = stamp_of(file), Problems(file.name)
    rows: list[Row] = []
    tasks: dict[str, TaskRow] = {}
    images: set[str] = set()
    group, rollouts, has_tokens = -1, set[int](), False
    for raw in raw_lines(file, problems):
        saved = _record(raw, problems, tokens=False)
        if saved is None:
            continue
        task, rollout = saved.task.input, saved.trajectory.rollout
        # An epoch's border may draw one task twice in a step.
        if not rows or rows[-1].task != task.id or rollout in rollouts:
            group, rollouts = group + 1, set()
        rollouts.add(rollout)
        has_tokens = has_tokens or _SEGMENTS in raw.content
        rows.append(_row(saved, raw, group))
        images.update(m.sha256 for m in media_of(saved) if m.kind == "image")
        video = any(m.kind == "video" for m in task.media)
        short = TaskRow(task.id, task.category, task.data_source, task.question[:200], video)
        tasks.setdefault(task.id, short)
    return StepIndex(
        step,
        file,
        stamp,
        tuple(rows),
        tuple(_stds(rows)),
        tuple(_chunks(rows)),
        tasks,
        frozenset(images),
        has_tokens,
        problems.told(),
    )


class ChangedError(Exception):
    """A file is not what was indexed; it has to be indexed again."""


def records(
    index: StepIndex, chunk: int, *, tokens: bool = False
) -> Iterator[tuple[int, SavedRollout]]:
    """Yield the trajectories of a chunk, in order, with the numbers of their groups.

    Raises:
        ChangedError: The file has changed.
    """
    start, end = index.chunks[chunk]
    try:
        with index.file.open("rb") as file:
            # Of what is open: another file may take the name at any moment.
            if _stamp(os.fstat(file.fileno())) != index.stamp:
                raise ChangedError(index.file.name)
            for row in index.rows[start:end]:
                file.seek(row.offset)
                raw = Raw(0, row.offset, file.read(row.length))
                saved = _record(raw, Problems(""), tokens=tokens)
                if saved is None:
                    raise ChangedError(index.file.name)
                yield row.group, saved
    except OSError as error:
        raise ChangedError(index.file.name) from error


def _record(raw: Raw, problems: Problems, *, tokens: bool) -> SavedRollout | None:
    line = parsed(raw.content) if tokens else _without_tokens(raw.content)
    if not isinstance(line, dict):
        problems.add(f", line {raw.number}: not a JSON object, skipped")
        return None
    try:
        return decode(line)
    # An older or a foreign writer's line: anything may be in it.
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        problems.add(f", line {raw.number}: not a trajectory ({error!r}), skipped")
        return None


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


def _row(saved: SavedRollout, raw: Raw, group: int) -> Row:
    t = saved.trajectory
    ran = [turn.execution for turn in t.turns if turn.execution is not None]
    seen = None if t.prompted is None else t.prompted.visual + observed(t).visual
    return Row(
        offset=raw.offset,
        length=len(raw.content),
        group=group,
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
