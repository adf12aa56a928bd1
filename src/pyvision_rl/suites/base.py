"""The suite contract: a published benchmark as tasks, a score per answer, and one report.

In: the benchmark's own files, and the name of a protocol, which fixes prompt, sampling, scorer and
formula. Out: ``Task`` records whose ``gold.facts`` hold all that scoring needs, so that stored
trajectories can be scored again without the data; a ``Grade`` per answer; a ``Report`` over all.
Scores and reports are pure: no file, no model, no clock. Asks no judge: what only a judge can tell
is ``Undecided``.

A number is a share in [0, 1] unless its name says otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.registry import suggestion
from pyvision_rl.rewards.base import Grade
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import Gold, Media, Task, TaskInput, Trajectory

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a protocol asks of a run; None leaves the run's own value."""

    source: str
    """Where the protocol comes from, in a sentence."""
    second_hand: bool = False
    """True where the source could not be read itself."""
    temperature: float | None = None
    samples: int | None = None
    """Episodes of each item; the score of an item is their mean (avg@k)."""
    top_k: int | None = None
    max_turns: int | None = None
    """Turns of the model, the answer turn among them."""
    max_context_tokens: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    suffix: str = ""
    """Text behind every question that ``tasks`` words; for the record, already there."""


@dataclass(frozen=True, slots=True)
class Final:
    """What an episode ended with."""

    answer: str | None
    """The final answer, without the box around it; None when there is none."""
    text: str = ""
    """The whole last turn, which some published scorers search."""

    @property
    def said(self) -> str:
        """What a published scorer takes for the model's output: the answer, else the last turn."""
        return self.text if self.answer is None else self.answer


def final_of(trajectory: Trajectory) -> Final:
    """Return what an episode ended with."""
    return Final(trajectory.answer, trajectory.turns[-1].text if trajectory.turns else "")


@dataclass(frozen=True, slots=True)
class Undecided:
    """Rules cannot tell whether the answer is right; a judge may."""

    why: str
    only_judge: bool = False
    """Whether other rules have no say either: they would know, but by another measure."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The samples of one item."""

    task: Task
    scores: tuple[float, ...]
    """Of the graded samples, in [0, 1], failed ones as 0; empty when none could be graded."""
    failed: tuple[bool, ...] = ()
    """For each score: the episode failed by our own fault."""

    @property
    def mean(self) -> float:
        """The score of the item (avg@k); there must be a graded sample."""
        return sum(self.scores) / len(self.scores)


@dataclass(frozen=True, slots=True)
class Report:
    """What a benchmark says about a run."""

    headline: str
    """The name, in ``numbers``, of the number that papers quote."""
    numbers: Mapping[str, float]
    counts: Mapping[str, int]
    """At least ``items`` (scored) and ``ungraded`` (items left out of every number)."""
    notes: tuple[str, ...] = ()
    """What a reader must know before comparing: a subset, a second-hand protocol."""


class Suite(Protocol):
    """One published benchmark. Has no state; an unknown protocol is a ConfigError everywhere."""

    name: str
    """Its key in ``suites.TABLE``, and the ``data_source`` of its tasks."""
    protocols: Mapping[str, Settings]
    """By name; the first is the default."""

    def tasks(self, path: Path, protocol: str, *, shuffle: int | None = None) -> TaskSet:
        """Return the items of the benchmark's file; media are read when a task is asked for.

        Args:
            path: The file or folder (which ones: docs/suites.md), or ``hf:owner/name``.
            protocol: Words the question.
            shuffle: A seed: the options of each item come in an order drawn from it and the item's
                id, and the gold letter moves along. None keeps the published order.

        Raises:
            TaskError: A file is missing or malformed; says which data set to get, and where from.
            ConfigError: A package is missing.
        """
        ...

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the data files that ``tasks`` reads, media apart, for their hashes.

        Raises:
            TaskError: One is missing.
        """
        ...

    def score(self, task: Task, final: Final, protocol: str) -> Grade | Undecided:
        """Return how good an answer is. Never raises on any text."""
        ...

    def aggregate(self, items: Sequence[Scored], protocol: str) -> Report:
        """Return the benchmark's own numbers, with a note where its formula wants other items."""
        ...


def settings_of(suite: Suite, protocol: str) -> Settings:
    """Return the settings of a protocol; an empty name is the default.

    Raises:
        ConfigError: The suite has no such protocol.
    """
    name = protocol_name(suite, protocol)
    return suite.protocols[name]


def protocol_name(suite: Suite, protocol: str = "") -> str:
    """Return the name of a protocol, which is the suite's default for an empty one.

    Raises:
        ConfigError: The suite has no such protocol.
    """
    if protocol and protocol not in suite.protocols:
        known = ", ".join(suite.protocols)
        raise ConfigError(
            f"protocol = {protocol!r} is none of suite {suite.name!r}"
            f"{suggestion(protocol, suite.protocols)}; known: {known}"
        )
    return protocol or next(iter(suite.protocols))


@dataclass(frozen=True, slots=True)
class Item:
    """One row of a benchmark, before its media are read."""

    id: str
    question: str
    gold: Gold
    """Its facts are each suite's own, but for two that every question with options has:
    ``options``, their texts in the order asked, and ``letter``, the gold letter in that order."""
    category: str = ""
    load: Callable[[], tuple[Media, ...]] = field(default=tuple, compare=False)
    """Reads the media; raises TaskError."""


class Items:
    """A task set of rows whose media are read one task at a time."""

    def __init__(self, suite: str, items: Sequence[Item], dropped: int = 0) -> None:
        """Take the rows of a suite.

        Args:
            suite: Its name.
            items: The rows.
            dropped: Rows of the file that are no items, because they have no picture.

        Raises:
            TaskError: There is none, or two have one id.
        """
        if not items:
            raise TaskError(f"suite {suite!r}: the file holds no items")
        seen: set[str] = set()
        for item in items:
            if item.id in seen:
                raise TaskError(f"suite {suite!r}: two items have the id {item.id!r}")
            seen.add(item.id)
        self._suite, self._items = suite, tuple(items)
        self.num_dropped = dropped
        """Rows of the file that are no items."""
        if dropped:
            _log.warning("suite %r: %d rows without a picture are left out", suite, dropped)

    def __len__(self) -> int:
        """Number of items."""
        return len(self._items)

    def __getitem__(self, index: int) -> Task:
        """Return item ``index`` as a task, with its media.

        Raises:
            IndexError: There is no such item.
            TaskError: Its media cannot be read.
        """
        if not 0 <= index < len(self._items):
            raise IndexError(f"item {index} of {len(self._items)}")
        item = self._items[index]
        try:
            media = item.load()
        except TaskError as error:
            raise TaskError(f"suite {self._suite!r}, item {item.id}: {error}") from error
        public = TaskInput(item.id, item.question, media, item.category, self._suite)
        return Task(public, item.gold)

    def ids(self) -> tuple[str, ...]:
        """Return the id of every item, in order."""
        return tuple(item.id for item in self._items)

    def data_sources(self) -> frozenset[str]:
        """Return the suite's name."""
        return frozenset({self._suite})
