"""Making SFT data: any policy over a task set, several rollouts a task, the good ones kept.

In: a config whose ``[policy]`` is the teacher. Out: a run folder in which every rollout is either
kept or has the reason why not, ``result.json`` with all counts, and ``Synthesized``. SFT reads
what was kept with ``kind = "trajectories"``. Learns nothing, and grades by ``[rewards]`` alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyvision_rl.assemble import Assembly, assemble, build_tasks, num_tasks
from pyvision_rl.collect import draw_tasks
from pyvision_rl.config import Config, SynthesizeConfig
from pyvision_rl.conversations import SYNTHESIZE
from pyvision_rl.errors import ConfigError, RunError
from pyvision_rl.metrics import check_failures, rollout_metrics
from pyvision_rl.rendering.base import Renderer
from pyvision_rl.rollout import derive_seed
from pyvision_rl.runs import RunReader, RunWriter, read_info
from pyvision_rl.same_config import HOW_MUCH_IS_GRADED, other_sections
from pyvision_rl.tasks.base import with_scripts
from pyvision_rl.types import EndReason, ExecStatus, Group, Malformed, Trajectory

REASONS = (
    "failed",
    "ungraded",
    "no_answer",
    "wrong",
    "malformed",
    "code_error",
    "too_few_calls",
    "too_many_calls",
    "too_many_images",
    "too_long",
    "duplicate",
    "surplus",
)
"""Why a rollout is not kept: the first that holds. failed and ungraded are ours, not the policy's;
a duplicate says what one kept of the same task says; a surplus is beyond ``max_per_task``."""

_COUNTS = ("kept", "tasks_kept", *(f"rejected_{reason}" for reason in REASONS))
_MAY_DIFFER: dict[str, Any] = {
    "policy": {"device", "threads", "max_batch"},
    "sandbox": {"wall_s", "grace_s", "memory_mb", "max_running"},
    "rollout": {"max_live_episodes", "max_failed_share", "group_size"},
    "rewards": HOW_MUCH_IS_GRADED,
    **dict.fromkeys(
        ("selection", "train", "sft", "probe", "eval", "run", "watch", "new_model"), True
    ),
}
"""Config keys that a resumed run may change: the same rollouts are made and kept."""


@dataclass(frozen=True, slots=True)
class Synthesized:
    """What a run kept, and what became of the rest; kept and rejected are all episodes."""

    tasks: int
    episodes: int
    kept: int
    tasks_kept: int
    """Tasks of which at least one rollout was kept."""
    rejected: dict[str, int]
    """By reason, zeros left out."""

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return asdict(self)


def verdicts(
    trajectories: Sequence[Trajectory], config: SynthesizeConfig, renderer: Renderer
) -> tuple[str | None, ...]:
    """Return for each rollout of one task why it is not kept; None for those that are."""
    kept: list[tuple[str, ...]] = []
    found: list[str | None] = []
    for trajectory in trajectories:
        said = tuple(turn.text for turn in trajectory.turns)
        why = _fault(trajectory, config, renderer)
        if why is None and said in kept:
            why = "duplicate"
        if why is None and len(kept) == config.max_per_task:
            why = "surplus"
        if why is None:
            kept.append(said)
        found.append(why)
    return tuple(found)


def run_synthesize(
    config: Config,
    out: Path,
    *,
    resume: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Synthesized:
    """Roll out ``[tasks]`` and write a run folder that says of every rollout whether it is kept.

    Args:
        config: ``[synthesize]`` says how many and which. With ``policy.name = "scripted"`` the
            task set's own scripts are played back.
        out: The run folder.
        resume: The same folder after a kill: steps already written are not made again.
        report: Receives one line per step.

    Raises:
        ConfigError: Nothing would be kept by ``[run]`` or ``[synthesize]``.
        RunError: The folder is of another config or verb.
        TrainError: More episodes of a step failed by our own fault than
            ``rollout.max_failed_share``, or were not graded than ``rewards.max_ungraded_share``;
            what was written so far can be gone on with.
    """
    check_synthesize(config)
    tasks = build_tasks(config.tasks)
    total = num_tasks(tasks, config.tasks)
    name = config.tasks.name if config.tasks else ""
    scripts: dict[str, tuple[str, ...]] | None = {} if config.policy.name == "scripted" else None
    if scripts is not None:
        with_scripts(tasks, name)  # before anything is written
    counts, done = (Counter[str](), 0) if resume is None else _written(resume, config)
    size = config.synthesize.tasks_per_step
    with (
        assemble(config, scripts=scripts) as assembly,
        RunWriter(out, config, SYNTHESIZE, None if resume is None else done) as writer,
    ):
        for step, first in enumerate(range(0, total, size), 1):
            if step <= done:
                continue
            chunk = range(first, min(first + size, total))
            groups = assembly.rollout(
                draw_tasks(tasks, chunk, scripts, name),
                seed=derive_seed(config.seed, SYNTHESIZE, first),
                group_size=config.synthesize.samples,
            )
            if remark := check_failures(groups, config, f"step {step}"):
                writer.event("failed_episodes", remark, step)
            made = _keep(writer, step, groups, assembly)
            counts.update(made)
            report(f"rolled out {chunk.stop} of {total} tasks, kept {counts['kept']} rollouts")
    result = _result(total, total * config.synthesize.samples, counts)
    (out / "result.json").write_text(json.dumps(result.to_json(), indent=2) + "\n")
    return result


def check_synthesize(config: Config) -> None:
    """Raise ConfigError if ``[synthesize]`` could keep nothing, before work starts."""
    section, most = config.synthesize, config.rollout.max_tool_calls
    if config.run.rollouts == "none":
        raise ConfigError('run.rollouts = "none" keeps no trajectory; wants "all" or "kept"')
    highest = most if section.max_tool_calls is None else min(section.max_tool_calls, most)
    if section.min_tool_calls > highest:
        raise ConfigError(
            f"synthesize.min_tool_calls = {section.min_tool_calls} is above what an episode may "
            f"have: synthesize.max_tool_calls = {section.max_tool_calls}, "
            f"rollout.max_tool_calls = {most}"
        )


def _keep(
    writer: RunWriter, step: int, groups: Sequence[Group], assembly: Assembly
) -> Counter[str]:
    """Write one step, and return its counts. The metrics come last: they mark it as whole."""
    config, renderer = assembly.config.synthesize, assembly.harness.renderer
    fates = [verdicts(group.trajectories, config, renderer) for group in groups]
    rows = [
        (group.task, trajectory, None, why)
        for group, whys in zip(groups, fates, strict=True)
        for trajectory, why in zip(group.trajectories, whys, strict=True)
    ]
    counts = Counter(dict.fromkeys(_COUNTS, 0))
    counts.update("kept" if why is None else f"rejected_{why}" for *_, why in rows)
    counts["tasks_kept"] = sum(None in whys for whys in fates)
    # Without its pictures a trajectory cannot be learnt from, whatever run.media_every says.
    writer.rollouts(step, rows, write_media=True)
    writer.metrics(step, {**rollout_metrics(groups), **assembly.stats(), **counts})
    return counts


def _fault(trajectory: Trajectory, config: SynthesizeConfig, renderer: Renderer) -> str | None:
    """Return the first reason against one rollout, seen alone; None without one."""
    calls, reward = trajectory.num_tool_calls, trajectory.reward
    tests: Mapping[str, Callable[[], bool]] = {
        "failed": lambda: trajectory.end is EndReason.FAILED,
        "ungraded": lambda: reward is None,
        "no_answer": lambda: trajectory.end is not EndReason.ANSWERED,
        "wrong": lambda: reward is None or not reward.correct,
        "malformed": lambda: _num_malformed(trajectory) > config.max_malformed,
        "code_error": lambda: _errs(trajectory, config.code_errors),
        "too_few_calls": lambda: calls < config.min_tool_calls,
        "too_many_calls": lambda: _above(calls, config.max_tool_calls),
        "too_many_images": lambda: _above(len(trajectory.media), config.max_images),
        "too_long": lambda: (
            config.max_tokens is not None
            and sum(map(renderer.length, trajectory.segments)) > config.max_tokens
        ),
    }
    return next((name for name, holds in tests.items() if holds()), None)


def _num_malformed(trajectory: Trajectory) -> int:
    return sum(isinstance(turn.action, Malformed) for turn in trajectory.turns)


def _errs(trajectory: Trajectory, allowed: str) -> bool:
    """Whether code errors stand against the trajectory."""
    ran = [t.execution.status is ExecStatus.OK for t in trajectory.turns if t.execution is not None]
    if allowed == "any" or all(ran):
        return False
    return allowed == "none" or not ran[-1]


def _above(number: int, most: int | None) -> bool:
    return most is not None and number > most


def _written(resume: Path, config: Config) -> tuple[Counter[str], int]:
    """Return the counts of the whole steps in a folder, and how many they are."""
    info = read_info(resume)
    if info.verb != SYNTHESIZE:
        raise RunError(f"{resume} is a run of {info.verb!r}; {SYNTHESIZE} cannot go on in it")
    if other := other_sections(info.config, config, _MAY_DIFFER):
        raise RunError(
            f"{resume} was made with another [{other[0]}] section; a set made by two configs "
            "cannot be told apart: start a new one"
        )
    counts: Counter[str] = Counter()
    lines = RunReader(resume).metrics()
    for line in lines:
        counts.update({name: int(line[name]) for name in _COUNTS})
    return counts, len(lines)


def _result(tasks: int, episodes: int, counts: Counter[str]) -> Synthesized:
    rejected = {reason: counts[f"rejected_{reason}"] for reason in REASONS}
    return Synthesized(
        tasks=tasks,
        episodes=episodes,
        kept=counts["kept"],
        tasks_kept=counts["tasks_kept"],
        rejected={reason: number for reason, number in rejected.items() if number},
    )
