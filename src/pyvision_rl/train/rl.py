"""The RL loop: collect -> grade -> select -> update -> log, step after step (paper section 3).

In: a config whose ``policy.model`` went through a cold start. Out: a run folder with metrics,
every graded trajectory, and checkpoints that are ordinary Hugging Face directories. Sampler and
learner share one network in memory, so publishing weights is telling the sampler its caches are
stale. A resumed run continues bit-identically under the lockstep schedule.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyvision_rl.assemble import Assembly, assemble, build_tasks, num_tasks
from pyvision_rl.config import Config
from pyvision_rl.errors import CheckpointError, ConfigError
from pyvision_rl.evaluate import EvalResult, evaluate_now
from pyvision_rl.metrics import check_failures, rollout_metrics, selection_metrics
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.rollout import derive_seed
from pyvision_rl.runs import RunWriter
from pyvision_rl.selection import select
from pyvision_rl.train.checkpoints import (
    drop_after,
    find_checkpoint,
    load_checkpoint,
    point_to,
    prune,
    restore_rng,
    save_checkpoint,
)
from pyvision_rl.train.collecting import TaskStream, collect
from pyvision_rl.train.interrupts import Interrupted, StopSignal
from pyvision_rl.train.learner import Learner


@dataclass(frozen=True, slots=True)
class RlResult:
    """Where a finished (or stopped) RL run left its model."""

    out: Path
    model: Path
    """Link to the last checkpoint: an ordinary Hugging Face directory."""
    steps: int


def run_rl(
    config: Config,
    out: Path,
    *,
    resume: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> RlResult:
    """Run RL from ``policy.model``, or go on from the last checkpoint of ``resume``.

    Raises:
        ConfigError: The policy is not in-process, or greedy.
        CheckpointError: There is nothing whole to resume from, or it is not of an RL run.
        TrainError: Too many failed episodes; no usable group in a step with
            ``selection.on_short = "error"``; or a NaN.
        Interrupted: A signal stopped the run after a step (130 or 143); it can be resumed.
    """
    if config.policy.temperature == 0:
        raise ConfigError("policy.temperature = 0: greedy samples have no policy gradient")
    checkpoint = load_checkpoint(find_checkpoint(resume)) if resume else None
    if checkpoint and (checkpoint.learner is None or "position" not in checkpoint.extra):
        raise CheckpointError(f"{checkpoint.path} is no checkpoint of an RL run")
    step = checkpoint.step if checkpoint else 0
    model = str(checkpoint.path) if checkpoint else config.policy.model
    started = config.model_copy(
        update={"policy": config.policy.model_copy(update={"model": model})}
    )
    with assemble(started) as assembly:
        if assembly.model is None:
            raise ConfigError('rl trains an in-process policy: set policy.name = "local"')
        tasks, seed = build_tasks(config.tasks), derive_seed(config.seed, "tasks")
        check = assembly.harness.prompts.prompt
        stream = TaskStream(tasks, num_tasks(tasks, config.tasks), seed, check=check)
        learner = _learner(config, assembly.model)
        if checkpoint and checkpoint.learner:
            learner.load_state_dict(checkpoint.learner)
            restore_rng(checkpoint.rng)
            stream.position = int(checkpoint.extra["position"])
        going_on = step if checkpoint else None
        with (
            RunWriter(out, config, verb="rl", resume_step=going_on) as writer,
            StopSignal() as stop,
        ):
            drop_after(out / "checkpoints", step)
            while step < config.train.steps and stop.received is None:
                step += 1
                _train_step(assembly, learner, stream, writer, step, report)
                last = step == config.train.steps or stop.received is not None
                if last or step % config.train.save_every == 0:
                    _save(config, out, step, learner, stream.position)
    if stop.received and step < config.train.steps:
        raise Interrupted(stop.exit_code, f"pvrl rl --resume {out}")
    return RlResult(out, out / "final", step)


def _learner(config: Config, model: VisionLanguageModel) -> Learner:
    reference = None
    if config.train.kl_coefficient:
        from pyvision_rl.train.reference import load_reference

        named = config.train.kl_reference
        # A resumed run's policy is its checkpoint; the start is where the config says.
        reference = load_reference(config.policy.model if named == "start" else named, model)
    return Learner(model, config.train, seed=config.seed, reference=reference)


def _save(config: Config, out: Path, step: int, learner: Learner, position: int) -> None:
    saved = save_checkpoint(
        out / "checkpoints",
        step,
        model=learner.model,
        source=config.policy.model,
        learner=learner,
        extra={"position": position},
    )
    point_to(out / "final", saved)
    prune(out / "checkpoints", config.train.keep_checkpoints)


def _train_step(
    assembly: Assembly,
    learner: Learner,
    stream: TaskStream,
    writer: RunWriter,
    step: int,
    report: Callable[[str], None],
) -> None:
    """One optimizer step: sample with the weights of step - 1, update, write everything."""
    config = assembly.config
    policy: Any = assembly.harness.policy
    policy.set_version(step - 1)
    began = time.perf_counter()
    groups = collect(assembly, stream, step)
    batch = select(groups, config.selection)
    sampled = time.perf_counter()
    # Before the update: what it fails on should be there to be looked at.
    writer.rollouts(step, groups, batch)
    remark = check_failures(groups, config.rollout.max_failed_share, f"step {step}")
    for name, text in (("failed_episodes", remark), *stream.skipped()):
        if text:
            writer.event(name, text)
    numbers = rollout_metrics(groups) | selection_metrics(groups, batch)
    if batch.samples:
        stats = learner.update(batch, config.policy.temperature)
        known = {k: v for k, v in asdict(stats).items() if k != "step" and v is not None}
        numbers |= {f"train_{k}": v for k, v in known.items()}
    else:
        writer.event("empty_step", f"step {step}: no group survived the filters; no update")
    numbers["sample_s"] = sampled - began
    numbers["update_s"] = time.perf_counter() - sampled
    if config.train.eval_every and step % config.train.eval_every == 0:
        policy.set_version(step)
        numbers |= _eval_metrics(evaluate_now(assembly))
    writer.metrics(step, numbers | assembly.stats())
    report(
        f"step {step}/{config.train.steps}  reward {numbers['reward']:.3f}  "
        f"accuracy {numbers['accuracy']:.3f}  tool calls {numbers['tool_calls']:.2f}  "
        f"kept {len(batch.samples)}/{batch.num_generated}  "
        f"{numbers['sample_s'] + numbers['update_s']:.1f} s"
    )


def _eval_metrics(result: EvalResult) -> dict[str, float]:
    numbers = {
        "eval_accuracy": result.overall.accuracy,
        "eval_accuracy_se": result.overall.accuracy_se,
        "eval_tool_calls": result.overall.tool_calls,
        "eval_failed": float(result.overall.failed),
        "eval_ungraded": float(result.overall.ungraded),
    }
    for name, score in result.categories.items():
        numbers[f"eval_accuracy_{name}"] = score.accuracy
        numbers[f"eval_tool_calls_{name}"] = score.tool_calls
    return numbers
