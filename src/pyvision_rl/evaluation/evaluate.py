"""Held-out evaluation: a task set and a policy in, scores with standard errors out.

Every failed episode counts as wrong; an ungraded one (a grader that broke) is left out and counted.
Trains nothing, chooses nothing and writes nothing: ``run`` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from pyvision_rl.assemble import Assembly, build_tasks, chunks, num_tasks
from pyvision_rl.config import Config, TasksConfig
from pyvision_rl.rollout import Harness, derive_seed
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import EndReason, Group, TaskInput, Trajectory
from pyvision_rl.usage import NUMBERS, used

Judged = tuple[TaskInput, Trajectory]


@dataclass(frozen=True, slots=True)
class Sample:
    """What an evaluation keeps of one episode: no text, no token, no picture."""

    task: str
    rollout: int
    category: str
    end: EndReason
    correct: bool | None
    """None where there is no grade: ungraded, or failed."""
    score: float | None
    """The grade itself, in [0, 1]."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """``tool_calls``, ``sampled_tokens``, and what ``usage.used`` knows; others may add to them."""

    @property
    def counts(self) -> bool:
        """Whether it is in the denominator: graded, or failed and so wrong."""
        return self.correct is not None or self.end is EndReason.FAILED


def sample_of(task: TaskInput, trajectory: Trajectory) -> Sample:
    """Return what is kept of an episode."""
    reward = trajectory.reward
    # A run folder need not keep the tokens; the turns know their number.
    sampled = trajectory.num_sampled_tokens or sum(t.num_tokens for t in trajectory.turns)
    numbers = {"tool_calls": float(trajectory.num_tool_calls), "sampled_tokens": float(sampled)}
    return Sample(
        task.id,
        trajectory.rollout,
        task.category,
        trajectory.end,
        None if reward is None else reward.correct,
        None if reward is None else reward.parts.get("accuracy", float(reward.correct)),
        numbers | used(task, trajectory),
    )


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy and tool use over a set of episodes; rates are means over graded episodes.

    A rate is None where nothing was graded.
    """

    tasks: int
    episodes: int
    ungraded: int
    """Left out of every rate."""
    failed: int
    """Counted as wrong."""
    accuracy: float | None
    accuracy_se: float | None
    """Standard error over tasks (each task's samples averaged first); None below two tasks."""
    tool_calls: float | None
    tool_share: float | None
    """Share of episodes with at least one call that ran."""
    answered: float | None
    sampled_tokens: float | None
    usage: Mapping[str, float] = field(default_factory=dict)
    """What was given and seen, by the names of ``usage.NUMBERS``: means over tasks, and their
    standard errors under ``..._se``. Without those that no episode has, or one task alone."""

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values, those of ``usage`` beside the others."""
        values = asdict(self)
        use: dict[str, object] = values.pop("usage")
        return values | use


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Scores over all episodes and by category."""

    overall: Score
    categories: dict[str, Score]
    headline: Mapping[str, float | None] = field(default_factory=dict)
    """The number that a suite reports, by its name; empty without a suite."""

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        categories = {name: score.to_json() for name, score in self.categories.items()}
        told = {"headline": dict(self.headline)} if self.headline else {}
        return {**told, "overall": self.overall.to_json(), "categories": categories}

    def metrics(self) -> dict[str, float]:
        """Return the numbers of an evaluation in RL, without those that nothing was graded for."""
        all_of = self.overall
        rewarded = all_of.episodes - all_of.ungraded - all_of.failed
        numbers = {
            "eval_accuracy": all_of.accuracy,
            "eval_accuracy_se": all_of.accuracy_se,
            "eval_tool_calls": all_of.tool_calls,
            "eval_failed": float(all_of.failed),
            "eval_ungraded": float(all_of.ungraded),
            "eval_graded_share": rewarded / max(1, all_of.episodes),
        }
        numbers |= {f"eval_{n}": all_of.usage[n] for n in NUMBERS if n in all_of.usage}
        for name, score in self.categories.items():
            numbers[f"eval_accuracy_{name}"] = score.accuracy
            numbers[f"eval_tool_calls_{name}"] = score.tool_calls
        return {name: number for name, number in numbers.items() if number is not None}


def score(items: Sequence[Judged | Sample]) -> Score:
    """Return the score of judged episodes.

    Args:
        items: Tasks with their trajectories, or what is kept of them, in any order.
    """
    samples = [item if isinstance(item, Sample) else sample_of(*item) for item in items]
    usable = [s for s in samples if s.counts]
    means = _task_means((s.task, float(bool(s.correct))) for s in usable)
    use: dict[str, float] = {}
    for name in NUMBERS:
        if values := _task_means((s.task, s.numbers[name]) for s in usable if name in s.numbers):
            use[name] = math.fsum(values) / len(values)
            error = standard_error(values)
            use |= {} if error is None else {f"{name}_se": error}

    def mean(values: Iterable[float]) -> float | None:
        return math.fsum(values) / len(usable) if usable else None

    return Score(
        tasks=len(means),
        episodes=len(items),
        ungraded=len(items) - len(usable),
        failed=sum(s.end is EndReason.FAILED for s in usable),
        accuracy=math.fsum(means) / len(means) if means else None,
        accuracy_se=standard_error(means),
        tool_calls=mean(s.numbers["tool_calls"] for s in usable),
        tool_share=mean(float(s.numbers["tool_calls"] > 0) for s in usable),
        answered=mean(float(s.end is EndReason.ANSWERED) for s in usable),
        sampled_tokens=mean(s.numbers["sampled_tokens"] for s in usable),
        usage=use,
    )


def _task_means(values: Iterable[tuple[str, float]]) -> list[float]:
    """The mean of each task's values."""
    by_task: dict[str, list[float]] = {}
    for task, value in values:
        by_task.setdefault(task, []).append(value)
    return [math.fsum(v) / len(v) for v in by_task.values()]


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean; None for fewer than two values, which tell of none."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def result_of(items: Sequence[Judged | Sample]) -> EvalResult:
    """Return overall and per-category scores."""
    samples = [item if isinstance(item, Sample) else sample_of(*item) for item in items]
    names = sorted({s.category for s in samples if s.category})
    by_name = {n: score([s for s in samples if s.category == n]) for n in names}
    return EvalResult(score(samples), by_name)


def judged(groups: Iterable[Group]) -> list[Judged]:
    """Return the episodes of graded groups."""
    return [(g.task.input, t) for g in groups for t in g.trajectories]


def eval_harness(assembly: Assembly) -> Harness:
    """Return the assembly's harness with the sampling of ``[eval]``, without tools if so wanted."""
    harness, section = assembly.harness, assembly.config.eval
    if section.temperature is not None:
        harness = replace(
            harness, sampling=replace(harness.sampling, temperature=section.temperature)
        )
    if not section.tools:
        from pyvision_rl.evaluation.choice import direct

        harness = direct(harness, assembly.config)
    return harness


def evaluate(
    assembly: Assembly,
    tasks: TaskSet,
    indices: Sequence[int],
    *,
    forced: str = "",
    wanted: Sequence[Sequence[int]] | None = None,
    harness: Harness | None = None,
) -> list[Group]:
    """Return the graded groups of some held-out tasks (no advantages).

    The random numbers depend on the run's seed and the task's place only, so two models, or one
    model before and after training, meet the same tasks with the same luck; so do a run of some
    tasks and one of all.

    Args:
        assembly: Whose policy is evaluated.
        tasks: The task set.
        indices: Places in it, all of one chunk (see ``assemble.chunks``).
        forced: Text every first turn must begin with, instead of ``eval.forced_start``.
        wanted: For each task the samples to make; None takes all.
        harness: None takes ``eval_harness``.
    """
    config, start = assembly.config, chunk_start(indices[0])
    samples = wanted or [range(config.eval.samples)] * len(indices)
    return assembly.rollout(
        [tasks[i] for i in indices],
        seed=derive_seed(config.seed, "eval", start),
        group_size=config.eval.samples,
        forced=forced or config.eval.forced_start,
        wanted=[(i - start, made) for i, made in zip(indices, samples, strict=True)],
        harness=harness or eval_harness(assembly),
    )


def chunk_start(index: int) -> int:
    """Return the first place of the chunk that a task belongs to."""
    return chunks(index + 1)[-1].start


def evaluated(config: Config) -> TasksConfig | None:
    """Return the section of the tasks that an evaluation asks."""
    return config.eval.tasks or config.tasks


def asked_alone(config: Config) -> Config:
    """Return the config with no tasks but those that an evaluation asks."""
    probe = config.probe.model_copy(update={"tasks": None})
    return config.model_copy(update={"tasks": evaluated(config), "probe": probe})


def held_out(config: Config) -> tuple[TaskSet, int]:
    """Return the evaluation task set and how many of its tasks to use."""
    section = evaluated(config)
    tasks = build_tasks(section, "eval.tasks")
    return tasks, min(config.eval.num_tasks or len(tasks), num_tasks(tasks, section))


def check_held_out(assembly: Assembly) -> None:
    """Write every held-out prompt once: what fails in mid-run costs steps.

    Raises:
        ConfigError: The evaluation cannot be made.
        TaskError: A task cannot be read or shown.
    """
    tasks, parts = _asked(assembly.config)
    prompts = eval_harness(assembly).prompts
    for index in (i for part in parts for i in part):
        prompts.prompt(tasks[index].input)


def _asked(config: Config) -> tuple[TaskSet, Sequence[Sequence[int]]]:
    """The held-out tasks, and the chunks of those that are asked."""
    tasks, total = held_out(config)
    if not config.eval.ids:
        return tasks, chunks(total)
    from pyvision_rl.evaluation.choice import choose

    return tasks, choose(config).chunks()


def evaluate_now(assembly: Assembly, *, forced: str = "") -> EvalResult:
    """Return the held-out result of the assembly's policy as it is now; writes nothing."""
    tasks, parts = _asked(assembly.config)
    items: list[Judged] = []
    for part in parts:
        items += judged(evaluate(assembly, tasks, part, forced=forced))
    return result_of(items)
