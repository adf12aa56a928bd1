"""The numbers of one step: means over its trajectories, and what selection made of them.

In: graded groups and the batch selected from them. Out: flat name -> number mappings for
``metrics.jsonl``. Nothing here influences training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pyvision_rl.config import Config
from pyvision_rl.errors import TrainError
from pyvision_rl.types import Batch, EndReason, ExecStatus, Group, Malformed, Trajectory
from pyvision_rl.usage import NUMBERS, used


def rollout_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Return the numbers of a set of graded groups: means over trajectories.

    What nothing was measured for is left out: the accuracy of episodes with a tool call where none
    has one, reward and accuracy where nothing was graded, frames where no task has a video.
    """
    trajectories = [t for g in groups for t in g.trajectories]
    graded = [t.reward for t in trajectories if t.reward is not None]
    turns = [turn for t in trajectories for turn in t.turns]
    numbers: dict[str, float | None] = {
        "trajectories": float(len(trajectories)),
        "graded": float(len(graded)),
        "reward": _mean(r.total for r in graded),
        "accuracy": _mean(r.correct for r in graded),
        "tool_calls": _mean(t.num_tool_calls for t in trajectories),
        "executions": _mean(t.num_executions for t in trajectories),
        "tool_share": _mean(t.num_tool_calls > 0 for t in trajectories),
        "zero_tool_share": _mean(t.num_tool_calls == 0 for t in trajectories),
        "sampled_tokens": _mean(t.num_sampled_tokens for t in trajectories),
        "turns": _mean(len(t.turns) for t in trajectories),
        "malformed_share": _mean(isinstance(turn.action, Malformed) for turn in turns),
        "images": _mean(len(t.media) for t in trajectories),
        # A run in which a time limit was hit may differ from its repetition.
        "time_limits": float(sum(_hit_time_limit(t) for t in trajectories)),
    }
    numbers |= _by_tool_use(trajectories) | _uniform(groups)
    use = [used(g.task.input, t) for g in groups for t in g.trajectories]
    numbers |= {name: _mean(u[name] for u in use if name in u) for name in NUMBERS}
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
    return {name: number for name, number in numbers.items() if number is not None}


def told(numbers: Mapping[str, float]) -> str:
    """Return the chief numbers of a step for people, a dash for what was not measured."""
    shown = (("reward", 3), ("accuracy", 3), ("tool_calls", 2))
    return "  ".join(
        f"{name.replace('_', ' ')} {numbers[name]:.{digits}f}" if name in numbers else f"{name} -"
        for name, digits in shown
    )


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


def shares(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return the parts of what entered selection that were kept and dropped, by filter.

    What entered is what was generated and what was carried in; what is carried on is neither kept
    nor dropped.

    Args:
        numbers: Those of ``selection_metrics``. Of what was kept, also the share that is correct
            and yet has a negative advantage.
    """
    dropped = {k: v for k, v in numbers.items() if k.startswith("dropped_")}
    kept, wronged = numbers["kept"], numbers["correct_negative_advantage"]
    entered = kept + sum(dropped.values()) + numbers["carried_out"]
    found = {
        "kept_share": kept / entered if entered else 0.0,
        "correct_negative_advantage_share": wronged / kept if kept else 0.0,
    }
    return found | {
        f"drop_share_{name.removeprefix('dropped_')}": value / entered
        for name, value in dropped.items()
    }


def check_failures(groups: Sequence[Group], config: Config, where: str) -> str:
    """Return a remark on the episodes that we failed to run or to grade, or "" without any.

    Raises:
        TrainError: Either share is above what the config allows: what is left would be a biased
            sample, or nothing.
    """
    episodes = [t for g in groups for t in g.trajectories]
    failed = [t for t in episodes if t.end is EndReason.FAILED]
    ungraded = [t for t in episodes if t.reward is None and t.end is not EndReason.FAILED]
    remarks = []
    for found, what, most, key in (
        (failed, "failed", config.rollout.max_failed_share, "rollout.max_failed_share"),
        (ungraded, "are ungraded", config.rewards.max_ungraded_share, "rewards.max_ungraded_share"),
    ):
        if found:
            counted = f"{len(found)} of {len(episodes)} episodes {what}"
            remarks.append(f"{where}: {counted}: {found[-1].error or 'no reason given'}")
        if len(found) > most * len(episodes):
            raise TrainError(f"{remarks[-1]} ({key} = {most})")
    return "; ".join(remarks)


def _by_tool_use(trajectories: Sequence[Trajectory]) -> dict[str, float | None]:
    """Return the accuracy of graded episodes with a tool call, and of those without one."""
    graded = [(t.num_tool_calls > 0, t.reward.correct) for t in trajectories if t.reward]
    return {
        "correct_with_tool": _mean(right for looked, right in graded if looked),
        "correct_without_tool": _mean(right for looked, right in graded if not looked),
    }


def _uniform(groups: Sequence[Group]) -> dict[str, float | None]:
    """Return the shares of groups whose graded members are all right, and all wrong."""
    graded = [[t.reward.correct for t in g.trajectories if t.reward] for g in groups]
    judged = [right for right in graded if right]
    return {
        "groups_judged": float(len(judged)),
        "groups_all_right": _mean(all(right) for right in judged),
        "groups_all_wrong": _mean(not any(right) for right in judged),
    }


def _hit_time_limit(trajectory: Trajectory) -> int:
    executions = [t.execution for t in trajectory.turns if t.execution is not None]
    return sum(e.status in (ExecStatus.TIMEOUT, ExecStatus.KILLED) for e in executions)


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None
