"""Held-out evaluation: a task set and a policy in, a table with standard errors out.

Every failed episode counts as wrong; an ungraded one (a grader that broke) is left out and counted.
Trains nothing and chooses nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pyvision_rl.assemble import Assembly, assemble, build_tasks, chunks, num_tasks
from pyvision_rl.config import Config
from pyvision_rl.errors import RunError
from pyvision_rl.metrics import rollout_metrics
from pyvision_rl.rollout import Harness, derive_seed
from pyvision_rl.runs import RunReader, RunWriter, read_info
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import EndReason, Group, Trajectory

Judged = tuple[str, str, Trajectory]
"""(task id, category, trajectory)."""


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy and tool use over a set of episodes; rates are means over graded episodes."""

    tasks: int
    episodes: int
    ungraded: int
    """Left out of every rate."""
    failed: int
    """Counted as wrong."""
    accuracy: float
    accuracy_se: float
    """Standard error over tasks (each task's samples averaged first)."""
    tool_calls: float
    tool_share: float
    """Share of episodes with at least one call that ran."""
    answered: float
    sampled_tokens: float


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Scores over all episodes and by category."""

    overall: Score
    categories: dict[str, Score]

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return asdict(self)


def score(items: Sequence[Judged]) -> Score:
    """Return the score of judged episodes.

    Args:
        items: (task id, category, trajectory), in any order.
    """
    usable = [i for i in items if i[2].reward is not None or i[2].end is EndReason.FAILED]
    by_task: dict[str, list[float]] = {}
    for task_id, _, trajectory in usable:
        right = trajectory.reward is not None and trajectory.reward.correct
        by_task.setdefault(task_id, []).append(float(right))
    means = [math.fsum(v) / len(v) for v in by_task.values()]
    trajectories = [t for _, _, t in usable]

    def mean(values: Iterable[float]) -> float:
        return math.fsum(values) / len(trajectories) if trajectories else 0.0

    return Score(
        tasks=len(by_task),
        episodes=len(items),
        ungraded=len(items) - len(usable),
        failed=sum(t.end is EndReason.FAILED for t in trajectories),
        accuracy=math.fsum(means) / len(means) if means else 0.0,
        accuracy_se=standard_error(means),
        tool_calls=mean(t.num_tool_calls for t in trajectories),
        tool_share=mean(float(t.num_tool_calls > 0) for t in trajectories),
        answered=mean(float(t.end is EndReason.ANSWERED) for t in trajectories),
        sampled_tokens=mean(t.num_sampled_tokens for t in trajectories),
    )


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean; 0.0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    mean = math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def result_of(items: Sequence[Judged]) -> EvalResult:
    """Return overall and per-category scores."""
    names = sorted({category for _, category, _ in items if category})
    return EvalResult(score(items), {n: score([i for i in items if i[1] == n]) for n in names})


def judged(groups: Iterable[Group]) -> list[Judged]:
    """Return the episodes of graded groups."""
    return [(g.task.id, g.task.input.category, t) for g in groups for t in g.trajectories]


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


def run_eval(
    config: Config,
    out: Path,
    *,
    resume: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> EvalResult:
    """Evaluate ``policy.model`` and write a run folder with every episode and ``result.json``.

    Args:
        config: ``[eval]`` names tasks and samples.
        out: The run folder.
        resume: The same folder after a kill: chunks already written are not run again.
        report: Receives one line per chunk.
    """
    tasks, total = held_out(config)
    done, items = 0, []
    if resume:
        _refuse_other_config(resume, config)
        reader = RunReader(resume)
        done = len(reader.steps())
        saved = (reader.trajectories(step) for step in range(1, done + 1))
        items = [(r.task.id, r.task.input.category, r.trajectory) for rs in saved for r in rs]
    with (
        assemble(config) as assembly,
        RunWriter(out, config, verb="eval", resume_step=done if resume else None) as writer,
    ):
        for step, chunk in enumerate(chunks(total), 1):
            if step <= done:
                continue
            groups = evaluate(assembly, tasks, chunk)
            writer.rollouts(step, groups)
            writer.metrics(step, rollout_metrics(groups) | assembly.stats())
            items += judged(groups)
            report(f"evaluated {chunk.stop} of {total} tasks")
    result = result_of(items)
    (out / "result.json").write_text(json.dumps(result.to_json(), indent=2) + "\n")
    return result


def _refuse_other_config(resume: Path, config: Config) -> None:
    before, now = dict(read_info(resume).config), config.model_dump(mode="json")
    for rewards in (before.get("rewards", {}), now["rewards"]):
        # A larger budget grades more, not otherwise.
        rewards.get("judge", {}).pop("max_calls", None)
    other = [key for key in now if key != "run" and before.get(key) != now[key]]
    if other:
        raise RunError(
            f"{resume} was evaluated with another [{other[0]}] section; a result of two configs "
            "means nothing: start a new one"
        )
