"""The numbers of one step: means over its trajectories, and what selection made of them.

In: graded groups and the batch selected from them. Out: flat name -> number mappings for
``metrics.jsonl``. Nothing here influences training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pyvision_rl.errors import TrainError
from pyvision_rl.types import Batch, EndReason, ExecStatus, Group, Trajectory


def rollout_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Return the numbers of a set of graded groups: means over trajectories."""
    trajectories = [t for g in groups for t in g.trajectories]
    graded = [t.reward for t in trajectories if t.reward is not None]
    numbers = {
        "trajectories": float(len(trajectories)),
        "graded": float(len(graded)),
        "reward": _mean(r.total for r in graded),
        "accuracy": _mean(r.correct for r in graded),
        "tool_calls": _mean(t.num_tool_calls for t in trajectories),
        "executions": _mean(t.num_executions for t in trajectories),
        "tool_share": _mean(t.num_tool_calls > 0 for t in trajectories),
        "sampled_tokens": _mean(t.num_sampled_tokens for t in trajectories),
        "images": _mean(len(t.media) for t in trajectories),
        # A run in which a time limit was hit may differ from its repetition.
        "time_limits": float(sum(_hit_time_limit(t) for t in trajectories)),
    }
    for end in EndReason:
        numbers[f"end_{end}"] = _mean(t.end is end for t in trajectories)
    for part in sorted({name for r in graded for name in r.parts}):
        numbers[f"reward_{part}"] = _mean(r.parts.get(part, 0.0) for r in graded)
    by_category: dict[str, list[Trajectory]] = {}
    for group in groups:
        if group.task.input.category:
            by_category.setdefault(group.task.input.category, []).extend(group.trajectories)
    for name, members in sorted(by_category.items()):
        numbers[f"accuracy_{name}"] = _mean(t.reward.correct for t in members if t.reward)
        numbers[f"tool_calls_{name}"] = _mean(t.num_tool_calls for t in members)
    return numbers


def selection_metrics(
    groups: Sequence[Group], batch: Batch, carried_in: Sequence[Group] = ()
) -> dict[str, float]:
    """Return what selection kept, carried on and dropped, in trajectories, by reason.

    Args:
        groups: All that were generated for the step.
        batch: What became of them.
        carried_in: What else the batch was selected from.
    """
    # By identity: an epoch's border may draw one task twice in a step.
    used = {id(s.trajectory) for s in batch.samples}
    trained = sum(any(id(t) in used for t in g.trajectories) for g in (*groups, *carried_in))
    numbers = {
        "groups": float(len(groups)),
        "groups_trained": float(trained),
        "kept": float(len(batch.samples)),
        "carried_in": float(batch.num_carried_in),
        "carried_out": float(batch.num_carried_out),
        "correct_negative_advantage": float(
            sum(
                s.advantage < 0 and s.trajectory.reward is not None and s.trajectory.reward.correct
                for s in batch.samples
            )
        ),
    }
    return numbers | {f"dropped_{k}": float(v) for k, v in batch.dropped.items()}


def check_failures(groups: Sequence[Group], most: float, where: str) -> str:
    """Return a remark on the episodes that we failed to run, or "" when there are none.

    Raises:
        TrainError: Their share is above ``most``: what is left would be a biased sample.
    """
    episodes = [t for g in groups for t in g.trajectories]
    failed = [t for t in episodes if t.end is EndReason.FAILED]
    if not failed:
        return ""
    remark = f"{where}: {len(failed)} of {len(episodes)} episodes failed: {failed[0].error}"
    if len(failed) > most * len(episodes):
        raise TrainError(f"{remark} (rollout.max_failed_share = {most})")
    return remark


def _hit_time_limit(trajectory: Trajectory) -> int:
    executions = [t.execution for t in trajectory.turns if t.execution is not None]
    return sum(e.status in (ExecStatus.TIMEOUT, ExecStatus.KILLED) for e in executions)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else 0.0
