"""The RL loop: collect -> grade -> select -> update -> log, step after step (paper section 3).

In: a config whose ``policy.model`` went through a cold start. Out: a run folder with metrics,
every graded trajectory, and checkpoints that are ordinary Hugging Face directories. Sampler and
learner share one network in memory, so publishing weights is telling the sampler its caches are
stale; a served policy is told where to load them (``vllm_sync``). A resumed run continues
bit-identically under the lockstep schedule, with a policy in this process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pyvision_rl.assemble import Assembly, assemble, build_tasks, num_tasks
from pyvision_rl.config import Config
from pyvision_rl.errors import CheckpointError
from pyvision_rl.metrics import check_failures, rollout_metrics, selection_metrics, shares, told
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.rollout import derive_seed
from pyvision_rl.runs import RunWriter
from pyvision_rl.train.checkpoints import (
    Checkpoint,
    arrange,
    drop_after,
    has_checkpoints,
    restore_rng,
    resume_from,
    save_checkpoint,
    seed_rng,
)
from pyvision_rl.train.collecting import Collector
from pyvision_rl.train.device_memory import forget_peak, peak_gib
from pyvision_rl.train.interrupts import Interrupted, StopSignal
from pyvision_rl.train.journal import Journal
from pyvision_rl.train.learner import Learner
from pyvision_rl.train.task_stream import TaskStream


@dataclass(frozen=True, slots=True)
class RlResult:
    """Where a finished RL run left its model."""

    out: Path
    model: Path
    """Link to the last checkpoint: an ordinary Hugging Face directory."""
    steps: int
    best: Path | None = None
    """Link to the checkpoint whose evaluation was the best; None without evaluations."""
    ended_early: str = ""
    """Why, when it did."""
    alarms: dict[str, str] = field(default_factory=dict)
    """Alarm -> when it was raised and cleared."""


def run_rl(
    config: Config,
    out: Path,
    *,
    resume: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
    learner: Callable[..., Learner] = Learner,
) -> RlResult:
    """Run RL from ``policy.model``, or go on from the last checkpoint of ``resume``.

    A run that was killed before its first checkpoint starts over. ``learner`` makes what trains.

    Raises:
        ConfigError: The policy can be given no weights, or is greedy; sections do not fit; or a
            tracker is not there.
        CheckpointError: There is nothing whole to resume from, it is not of an RL run, or lines
            of its steps are lost.
        TrainError: Too many failed or ungraded episodes; no usable group in a step with
            ``selection.on_short = "error"``; or a NaN.
        RunError, TaskError: The disk refuses; a task to evaluate on cannot be read.
        Interrupted: A signal stopped the run after a step (130 or 143); it can be resumed.
    """
    from pyvision_rl.checks.rl import check_lines, check_rl
    from pyvision_rl.train.memory_check import require_memory

    check_rl(config)
    damaged: list[str] = []
    start = _checkpoint(resume, damaged.append)
    begun = 0 if start is None else start.step
    check_lines(out, begun)
    require_memory("rl", config)
    with assemble(_started(config, start)) as assembly:
        trainer, collector = _parts(config, assembly, start, out, learner)
        # An optimizer's state is large, and the learner has it now.
        start = start and replace(start, learner=None)
        ids = start.extra.get("trackers", {}) if start else {}
        with (
            RunWriter(out, config, "rl", None if resume is None else begun) as writer,
            Journal(config, writer, report, ids) as journal,
            StopSignal() as stop,
        ):
            for text in damaged:
                journal.event("damaged_checkpoint", text)
                report(text)
            drop_after(out / "checkpoints", begun)
            if start:
                arrange(out, begun, config.train, journal.best_step)
            step = _loop(assembly, trainer, collector, journal, begun, stop)
    if stop.received and step < config.train.steps and not journal.ended:
        raise Interrupted(stop.exit_code, f"pvrl rl --resume {out}")
    best = out / "best"
    return RlResult(
        out,
        out / "final",
        step,
        best if best.exists() else None,
        journal.ended if step < config.train.steps else "",
        journal.alarms(),
    )


def _checkpoint(resume: Path | None, warn: Callable[[str], None]) -> Checkpoint | None:
    """Return what to go on from; None starts at step 0."""
    # A run killed before its first save has nothing to lose by starting over.
    if resume is None or ((resume / "run.json").exists() and not has_checkpoints(resume)):
        return None
    found = resume_from(resume, warn)
    if found.learner is None or "position" not in found.extra:
        raise CheckpointError(f"{found.path} is no checkpoint of an RL run")
    return found


def _started(config: Config, start: Checkpoint | None) -> Config:
    """Return the config with the model to start from."""
    merged = start is not None and not (config.train.lora_rank and start.adapters())
    model = str(start.path) if start and merged else config.policy.model
    return config.model_copy(update={"policy": config.policy.model_copy(update={"model": model})})


def _parts(
    config: Config,
    assembly: Assembly,
    start: Checkpoint | None,
    out: Path,
    make: Callable[..., Learner],
) -> tuple[Learner, Collector]:
    """Return learner and collector, in the state that the checkpoint holds."""
    model = assembly.model
    if model is None:
        from pyvision_rl.train.vllm_sync import join

        model = join(assembly, out)
    tasks, seed = build_tasks(config.tasks), derive_seed(config.seed, "tasks")
    check = assembly.harness.prompts.prompt
    count, caps = num_tasks(tasks, config.tasks), config.selection.max_per_round
    stream = TaskStream(tasks, count, seed, check=check, max_per_round=caps)
    make_collector = Collector
    if config.train.overlap:
        from pyvision_rl.train.ahead import AheadCollector as make_collector
    collector = make_collector(assembly, stream)
    if config.train.lora_rank:
        from pyvision_rl.train.adapting import adapt

        adapt(model, config, start)
    learner = _learner(config, model, make)
    seed_rng(derive_seed(config.seed, "generators"))
    if start and start.learner:
        learner.load_state_dict(start.learner)
        restore_rng(start.rng)
        collector.load_state_dict(start.extra)
    return learner, collector


def _learner(config: Config, model: VisionLanguageModel, make: Callable[..., Learner]) -> Learner:
    reference = None
    if config.train.kl_coefficient:
        from pyvision_rl.train.reference import load_reference

        named = config.train.kl_reference
        # A resumed run's policy is its checkpoint; the start is where the config says.
        reference = load_reference(config.policy.model if named == "start" else named, model)
    return make(model, config.train, seed=config.seed, reference=reference)


def _loop(
    assembly: Assembly,
    learner: Learner,
    collector: Collector,
    journal: Journal,
    begun: int,
    stop: StopSignal,
) -> int:
    """Make the steps after ``begun``, save when it is time to, and return the last step made."""
    train, step, saved = assembly.config.train, begun, begun
    if train.eval_every or train.eval_at_start:
        from pyvision_rl.evaluation.evaluate import check_held_out

        check_held_out(assembly)
    if train.eval_at_start and not journal.started:
        journal.step(0, _evaluation(assembly, 0) | assembly.stats())
    while step < train.steps and stop.received is None and not journal.ended:
        if not _train_step(assembly, learner, collector, journal, step + 1, stop):
            break
        step += 1
        due = step % train.save_every == 0 or journal.best_step == step
        if due or (train.keep_every and step % train.keep_every == 0):
            _save(assembly.config, learner, collector, journal, step)
            saved = step
    if saved < step:
        _save(assembly.config, learner, collector, journal, step)
    # Of the step that was dropped: a resume makes it again, and notes them again.
    for name, text in collector.skipped():
        journal.event(name, text, step + 1)
    if step < train.steps and journal.ended:
        journal.report(f"ended after step {step}: {journal.ended}")
    return step


def _save(
    config: Config, learner: Learner, collector: Collector, journal: Journal, step: int
) -> None:
    out = journal.writer.path
    save_checkpoint(
        out / "checkpoints",
        step,
        model=learner.model,
        source=config.policy.model,
        learner=learner,
        extra={**collector.state_dict(), "trackers": journal.tracker_ids},
    )
    arrange(out, step, config.train, journal.best_step)


def _train_step(
    assembly: Assembly,
    learner: Learner,
    collector: Collector,
    journal: Journal,
    step: int,
    stop: StopSignal,
) -> bool:
    """One step: sample with the weights of step - 1, update, write everything.

    False if it was stopped between two rounds: then nothing of it is left but an event.
    """
    config = assembly.config
    policy: Any = assembly.harness.policy
    synced = policy.set_version(step - 1) or {}
    device = learner.model.device
    forget_peak(device)
    began = time.perf_counter()
    collected = collector.collect(step, stop.asked)
    if collected is None:
        journal.event("dropped_step", f"step {step}: stopped between rounds; made again", step)
        return False
    groups, batch = collected.groups, collected.batch
    sampled, memory = time.perf_counter(), peak_gib("sample_gib", device)
    # Before the update: what it fails on should be there to be looked at.
    journal.writer.rollouts(step, (*groups, *collected.carried_in), batch)
    remark = check_failures(groups, config, f"step {step}")
    for name, text in (("failed_episodes", remark), *collector.skipped()):
        if text:
            journal.event(name, text, step)
    collected.check()
    numbers = rollout_metrics(groups) | selection_metrics(groups, batch, collected.carried_in)
    numbers |= shares(numbers) | synced
    if batch.samples:
        learner.go_to(step)
        update = partial(learner.update, batch, config.policy.temperature)
        stats = collector.beside(update, step, stop.asked)
        known = {k: v for k, v in asdict(stats).items() if k != "step" and v is not None}
        numbers |= {f"train_{k}": v for k, v in known.items()}
    else:
        text = f"step {step}: no group survived the filters; no update"
        journal.event("empty_step", text, step)
    numbers["sample_s"] = sampled - began
    numbers["update_s"] = time.perf_counter() - sampled
    numbers |= memory | peak_gib("update_gib", device)
    if config.train.eval_every and step % config.train.eval_every == 0:
        numbers |= _evaluation(assembly, step)
    journal.step(step, numbers | assembly.stats())
    journal.report(
        f"step {step}/{config.train.steps}  {told(numbers)}  "
        f"kept {len(batch.samples)}/{batch.num_generated}  "
        f"{numbers['sample_s'] + numbers['update_s']:.1f} s"
    )
    return True


def _evaluation(assembly: Assembly, step: int) -> dict[str, float]:
    """Return the held-out result with the weights after ``step``."""
    from pyvision_rl.evaluation.evaluate import evaluate_now

    policy: Any = assembly.harness.policy
    policy.set_version(step)
    return evaluate_now(assembly).metrics()
