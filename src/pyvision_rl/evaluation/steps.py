"""The chunks of an evaluation: what of each is on disk, and how the rest gets there.

In: a config, the chosen tasks, and a run folder that may hold some episodes. Out: every chunk's
episodes on disk and in order, its line of metrics, and an ``Item`` per episode.

A sample is on disk as soon as it is graded, and its random numbers depend on the seed, its task's
place and its own number only. One thing depends on who else is there: the batches in which a
network in this process decodes, whose sums may differ in the last bit. So in lockstep, where a run
depends on its seeds only, a part that was cut (the episodes decoded together, at most
``rollout.max_live_episodes``) is run again as a whole, unless its policy is known to be without
batches. Scores nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from pyvision_rl.assemble import assemble, chunks
from pyvision_rl.config import Config
from pyvision_rl.errors import RunError
from pyvision_rl.evaluation.choice import Choice
from pyvision_rl.evaluation.episodes import (
    EpisodeFile,
    Episodes,
    Place,
    Recording,
    read_episodes,
    step_file,
)
from pyvision_rl.evaluation.evaluate import asked_alone, eval_harness, evaluate, evaluated
from pyvision_rl.evaluation.grading import Grading, groups_of
from pyvision_rl.evaluation.items import Item, is_failed, is_ungraded, item_of
from pyvision_rl.images import VisionSpec
from pyvision_rl.metrics import rollout_metrics
from pyvision_rl.rewards import build_terms
from pyvision_rl.rollout import Harness
from pyvision_rl.runs import RunReader, RunWriter
from pyvision_rl.runs_files import line_of, read_lines, replace_file
from pyvision_rl.tasks.base import Scripted, with_scripts
from pyvision_rl.types import Task

REPORT_EVERY_S = 5.0
"""Between two lines of progress inside a chunk."""
_ALONE = ("openai_chat", "scripted", "vllm")
"""Policies whose turns do not depend on who else is being decoded."""


@dataclass(frozen=True, slots=True)
class Step:
    """One chunk of tasks: one file, one line of metrics."""

    number: int
    """Counted from 1, by the chunk's place among those of the whole task set."""
    parts: tuple[tuple[int, ...], ...]
    """Places of tasks whose episodes run together."""
    samples: int

    @property
    def order(self) -> list[Place]:
        """Every place of the chunk, in order."""
        return [place for part in self.parts for place in self.places(part)]

    def places(self, part: Iterable[int]) -> list[Place]:
        """Return every place of some tasks, in order."""
        return [(index, sample) for index in part for sample in range(self.samples)]


@dataclass(frozen=True, slots=True)
class Survey:
    """What a run folder holds of an evaluation."""

    missing: int
    """Episodes to run; at least the number of chunks where nothing is known."""
    ungraded: int = 0
    present: int = 0
    """Episodes that stay; not those of a part that is run again as a whole."""
    closed: dict[int, list[Item]] = field(default_factory=dict)
    """Chunks to which nothing is left to do."""


def steps_of(config: Config, choice: Choice) -> list[Step]:
    """Return the chunks of the chosen tasks."""
    samples = config.eval.samples
    # As in ``rollout.run_groups``: whole groups, so many that their episodes are under the limit.
    size = max(1, config.rollout.max_live_episodes // samples)
    steps = []
    for chunk in choice.chunks():
        number = len(chunks(chunk[0] + 1))
        parts = tuple(tuple(chunk[k : k + size]) for k in range(0, len(chunk), size))
        steps.append(Step(number, parts, samples))
    return steps


def whole_parts(config: Config) -> bool:
    """Return whether a part that was cut is run again as a whole (see the head of this file)."""
    return config.rollout.schedule == "lockstep" and config.policy.name not in _ALONE


def survey(folder: Path, steps: Sequence[Step], *, retry_failed: bool, whole: bool) -> Survey:
    """Return what is on disk; episodes are read one chunk at a time.

    Args:
        folder: The run folder.
        steps: The chunks.
        retry_failed: Whether a failed episode is a missing one.
        whole: As ``whole_parts`` says.

    Raises:
        RunError: A file holds other episodes than the evaluation makes.
    """
    told = {line["step"] for line in RunReader(folder).metrics()}
    closed: dict[int, list[Item]] = {}
    missing = ungraded = present = 0
    for step in steps:
        episodes = read_episodes(step_file(folder, step.number), step.order)
        parts = (step.places(part) for part in step.parts)
        lost = [p for places in parts for p in _missing(episodes, places, retry_failed, whole)]
        vague = sum(map(is_ungraded, episodes.values()))
        missing, ungraded = missing + len(lost), ungraded + vague
        present += len(step.order) - len(lost)
        if not lost and not vague and step.number in told:
            closed[step.number] = [item_of(p[0], episodes[p]) for p in step.order]
    return Survey(missing, ungraded, present, closed)


def grade_again(
    config: Config, folder: Path, steps: Sequence[Step], report: Callable[[str], None]
) -> dict[int, dict[str, float]]:
    """Grade what a grader failed on, and write the files anew.

    Returns:
        What the grader counted, by chunk.
    """
    counted: dict[int, dict[str, float]] = {}
    before: Mapping[str, float] = {}
    with Grading(config.rewards) as grading:
        for step in steps:
            episodes = read_episodes(step_file(folder, step.number), step.order)
            vague = [p for p in step.order if p in episodes and is_ungraded(episodes[p])]
            if not vague:
                continue
            graded = dict(zip(vague, grading.grade([episodes[p] for p in vague]), strict=True))
            left = sum(map(is_ungraded, graded.values()))
            report(f"graded again: {len(vague)} episodes, {left} still without a grade")
            with EpisodeFile(folder, config, step.number) as file:
                file.seal(episodes | graded, step.order)
            now = grading.stats()
            counted[step.number] = {k: v - before.get(k, 0.0) for k, v in now.items()}
            before = now
    return counted


def drop_metrics(folder: Path, numbers: set[int]) -> None:
    """Take the lines of some chunks out of ``metrics.jsonl``: they are written again."""
    file = folder / "metrics.jsonl"
    if file.exists():
        kept = [line for line in read_lines(file, []) if line["step"] not in numbers]
        replace_file(file, [line_of(line).decode().rstrip("\n") for line in kept])


class Progress:
    """Counts episodes that are on disk, and tells of them now and then."""

    def __init__(self, report: Callable[[str], None], total: int, done: int) -> None:
        self._report = report
        self._total = total
        self._done = done
        # Where it begins: the time left is taken from the pace since then.
        self.tell()

    def one_more(self) -> None:
        """Count an episode."""
        self._done += 1
        if time.monotonic() - self._last >= REPORT_EVERY_S:
            self.tell()

    def tell(self) -> None:
        """Tell how many there are."""
        self._last = time.monotonic()
        self._report(f"evaluated {self._done} of {self._total} episodes")


class Runner:
    """Runs the episodes that are missing; a context manager that holds the model."""

    def __init__(
        self,
        config: Config,
        choice: Choice,
        progress: Progress,
        judge_calls: float = 0.0,
        retry_failed: bool = False,
    ) -> None:
        """Wire the run.

        Args:
            config: The whole config.
            choice: The tasks.
            progress: Hears of every episode.
            judge_calls: Already made by this process, of ``rewards.judge.max_calls``.
            retry_failed: Whether a failed episode is a missing one.

        Raises:
            ConfigError: A part cannot be made.
        """
        self._scripts: dict[str, tuple[str, ...]] | None = None
        if config.policy.name == "scripted":
            self._scripts = {}
            section = evaluated(config)
            with_scripts(choice.tasks, section.name if section else "")
        self._choice = choice
        self._progress = progress
        self._retry_failed = retry_failed
        self._whole_parts = whole_parts(config)
        self._assembly = assemble(_alone(config, judge_calls), scripts=self._scripts)
        try:
            self.harness: Harness = eval_harness(self._assembly)
        except BaseException:
            self._assembly.close()
            raise
        model = self._assembly.model
        self.vision: VisionSpec | None = None if model is None else model.vision

    def run(self, step: Step, episodes: Episodes, file: EpisodeFile) -> None:
        """Run what is missing of a chunk; the episodes are added, and on disk.

        Raises:
            RunError: The disk refuses, or a task is another one than when it was first run.
        """
        for part in step.parts:
            places = step.places(part)
            lost = _missing(episodes, places, self._retry_failed, self._whole_parts)
            if lost:
                self._run_part(sorted(lost), episodes, file)

    def stats(self) -> dict[str, float]:
        """Return what servers were asked since the last call."""
        return self._assembly.stats()

    def __enter__(self) -> Self:
        """Return the runner."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let the model go."""
        self._assembly.close()

    def _run_part(self, lost: Sequence[Place], episodes: Episodes, file: EpisodeFile) -> None:
        wanted: dict[int, list[int]] = {}
        for index, sample in lost:
            wanted.setdefault(index, []).append(sample)
        tasks = {index: self._task(index) for index in wanted}
        for (index, _), saved in episodes.items():
            if index in tasks:
                _check_same(saved.task, tasks[index])
        rewarder = Recording(self.harness.rewarder, file, episodes, self._progress.one_more)
        rewarder.places |= {id(task): index for index, task in tasks.items()}
        evaluate(
            self._assembly,
            tasks,
            list(wanted),
            wanted=list(wanted.values()),
            harness=replace(self.harness, rewarder=rewarder),
        )

    def _task(self, index: int) -> Task:
        """A task with its media; its script is put where the policy finds it."""
        tasks = self._choice.tasks
        task = tasks[index]
        if self._scripts is not None and isinstance(tasks, Scripted):
            self._scripts[task.id] = tasks.script(index)
        return task


def finish(
    config: Config,
    writer: RunWriter,
    step: Step,
    runner: Runner | None,
    stats: Mapping[str, float],
) -> list[Item]:
    """Bring a chunk to its end, and return its items in order.

    Args:
        config: The whole config.
        writer: Of the run folder.
        step: The chunk.
        runner: Runs what is missing; None where nothing is.
        stats: What was counted for the chunk already, for its line of metrics.
    """
    order = step.order
    episodes = read_episodes(step_file(writer.path, step.number), order)
    with EpisodeFile(writer.path, config, step.number) as file:
        if runner:
            runner.run(step, episodes, file)
        if add_terms := build_terms(config.rewards):
            graded = [add_terms(g) for g in groups_of([episodes[p] for p in order])]
            flat = [t for group in graded for t in group.trajectories]
            for place, trajectory in zip(order, flat, strict=True):
                episodes[place] = replace(episodes[place], trajectory=trajectory)
        file.seal(episodes, order)
    counted = dict(stats)
    for name, value in (runner.stats() if runner else {}).items():
        counted[name] = counted.get(name, 0.0) + value
    writer.metrics(step.number, rollout_metrics(groups_of([episodes[p] for p in order])) | counted)
    return [item_of(place[0], episodes[place]) for place in order]


def _missing(
    episodes: Episodes, places: Sequence[Place], retry_failed: bool, whole: bool
) -> list[Place]:
    """The places of a part whose episodes are to be run."""
    lost = [p for p in places if p not in episodes or (retry_failed and is_failed(episodes[p]))]
    return list(places) if lost and whole else lost


def _alone(config: Config, spent: float) -> Config:
    """The config with no tasks but those of the evaluation, and the judge calls that are left."""
    config = asked_alone(config)
    if config.rewards.judge.max_calls is None:
        return config
    left = max(0, config.rewards.judge.max_calls - int(spent))
    judge = config.rewards.judge.model_copy(update={"max_calls": left})
    rewards = config.rewards.model_copy(update={"judge": judge})
    return config.model_copy(update={"rewards": rewards})


def _check_same(saved: Task, now: Task) -> None:
    if (saved.id, saved.input.question, saved.gold) != (now.id, now.input.question, now.gold):
        raise RunError(
            f"task {now.id!r} is not the one that was run before (then {saved.id!r}): the tasks "
            "have changed; evaluate into a new folder"
        )
