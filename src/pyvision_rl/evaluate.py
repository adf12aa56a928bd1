"""Held-out evaluation: a task set and a policy in, scores with standard errors out.

Every failed episode counts as wrong; an ungraded one (a grader that broke) is left out and counted.
Trains nothing and chooses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from pyvision_rl.assemble import Assembly, build_tasks, chunks, num_tasks
from pyvision_rl.config import Config
from pyvision_rl.rollout import Harness, derive_seed
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import EndReason, Group, TaskInput, Trajectory
from pyvision_rl.usage import NUMBERS, used

Judged = tuple[TaskInput, Trajectory]


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
    """Standard error over tasks (each task's samples averaged first)."""
    tool_calls: float | None
    tool_share: float | None
    """Share of episodes with at least one call that ran."""
    answered: float | None
    sampled_tokens: float | None
    usage: Mapping[str, float] = field(default_factory=dict)
    """What was given and seen, by the names of ``usage.NUMBERS``: means over tasks, and their
    standard errors under ``..._se``. Without those that no episode has."""

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

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        categories = {name: score.to_json() for name, score in self.categories.items()}
        return {"overall": self.overall.to_json(), "categories": categories}

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


def score(items: Sequence[Judged]) -> Score:
    """Return the score of judged episodes.

    Args:
        items: Tasks with their trajectories, in any order.
    """
    usable = [i for i in items if i[1].reward is not None or i[1].end is EndReason.FAILED]
    trajectories = [t for _, t in usable]
    rights = [(task.id, float(t.reward is not None and t.reward.correct)) for task, t in usable]
    means = _task_means(rights)
    use: dict[str, float] = {}
    found = [(task.id, used(task, t)) for task, t in usable]
    for name in NUMBERS:
        if values := _task_means((task, u[name]) for task, u in found if name in u):
            use[name] = math.fsum(values) / len(values)
            use[f"{name}_se"] = standard_error(values)

    def mean(values: Iterable[float]) -> float | None:
        return math.fsum(values) / len(trajectories) if trajectories else None

    return Score(
        tasks=len(means),
        episodes=len(items),
        ungraded=len(items) - len(usable),
        failed=sum(t.end is EndReason.FAILED for t in trajectories),
        accuracy=math.fsum(means) / len(means) if means else None,
        accuracy_se=standard_error(means) if means else None,
        tool_calls=mean(t.num_tool_calls for t in trajectories),
        tool_share=mean(float(t.num_tool_calls > 0) for t in trajectories),
        answered=mean(float(t.end is EndReason.ANSWERED) for t in trajectories),
        sampled_tokens=mean(t.num_sampled_tokens for t in trajectories),
        usage=use,
    )


def _task_means(values: Iterable[tuple[str, float]]) -> list[float]:
    """The mean of each task's values."""
    by_task: dict[str, list[float]] = {}
    for task, value in values:
        by_task.setdefault(task, []).append(value)
    return [math.fsum(v) / len(v) for v in by_task.values()]


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean; 0.0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    mean = math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def result_of(items: Sequence[Judged]) -> EvalResult:
    """Return overall and per-category scores."""
    names = sorted({task.category for task, _ in items if task.category})
    by_name = {n: score([i for i in items if i[0].category == n]) for n in names}
    return EvalResult(score(items), by_name)


def judged(groups: Iterable[Group]) -> list[Judged]:
    """Return the episodes of graded groups."""
    return [(g.task.input, t) for g in groups for t in g.trajectories]


def eval_harness(assembly: Assembly) -> Harness:
    """Return the assembly's harness with the sampling of ``[eval]``."""
    temperature = assembly.config.eval.temperature
    if temperature is None:
        return assembly.harness
    sampling = replace(assembly.harness.sampling, temperature=temperature)
    return replace(assembly.harness, sampling=sampling)


def evaluate(
    assembly: Assembly, tasks: TaskSet, indices: range, *, forced: str = ""
) -> list[Group]:
    """Return the graded groups of some held-out tasks (no advantages).

    The random numbers depend on the run's seed and the task only, so two models, or one model
    before and after training, meet the same tasks with the same luck.
    """
    config = assembly.config
    return assembly.rollout(
        [tasks[i] for i in indices],
        seed=derive_seed(config.seed, "eval", indices.start),
        group_size=config.eval.samples,
        forced=forced or config.eval.forced_start,
        harness=eval_harness(assembly),
    )


def held_out(config: Config) -> tuple[TaskSet, int]:
    """Return the evaluation task set and how many of its tasks to use."""
    section = config.eval.tasks or config.tasks
    tasks = build_tasks(section, "eval.tasks")
    return tasks, min(config.eval.num_tasks or len(tasks), num_tasks(tasks, section))


def evaluate_now(assembly: Assembly, *, forced: str = "") -> EvalResult:
    """Return the held-out result of the assembly's policy as it is now; writes nothing."""
    tasks, total = held_out(assembly.config)
    items: list[Judged] = []
    for chunk in chunks(total):
        items += judged(evaluate(assembly, tasks, chunk, forced=forced))
    return result_of(items)
