"""Supervised fine-tuning: stages in order, each with its own data, optimizers and curve.

In: a ``Config`` with ``[[sft.stages]]``. Out: a run folder with metrics and checkpoints;
``<out>/final`` is a link to the last checkpoint, an ordinary Hugging Face directory. A run that
was stopped or killed goes on from its last checkpoint with the same bits as one that was not.

    for each stage:  load data -> [ batch -> sft_step -> measure? -> save? ] * -> keep the best
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from pyvision_rl.checks.sft import check_stages
from pyvision_rl.config import Config, SftStageConfig
from pyvision_rl.errors import CheckpointError
from pyvision_rl.models.adapters import ADAPTER, has_adapters, load_adapters
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.same_config import HOW_MUCH_IS_GRADED, other_sections
from pyvision_rl.train.checkpoints import (
    Checkpoint,
    drop_after,
    find_problem,
    has_checkpoints,
    point_to,
    prune,
    restore_rng,
    resume_from,
    save_checkpoint,
    step_path,
)
from pyvision_rl.train.device_memory import forget_peak, peak_gib
from pyvision_rl.train.ema import AveragingLearner
from pyvision_rl.train.interrupts import Interrupted, StopSignal
from pyvision_rl.train.learner import Learner, SftStats
from pyvision_rl.train.memory_check import require_memory
from pyvision_rl.train.sft_data import Segments, StageData
from pyvision_rl.train.sft_parts import (
    Measured,
    Progress,
    SftParts,
    SftResult,
    Wire,
    wire_parts,
)
from pyvision_rl.types import EndReason, Trajectory

_REPORT_EVERY = 25
_MAY_DIFFER: dict[str, Any] = {
    "train": {
        *("save_every", "keep_checkpoints", "keep_every", "steps"),
        *("eval_every", "eval_at_start", "best_metric", "stop_at", "patience"),
        # Only rounding follows from it, and checkpoints that are about do not tell it.
        *("micro_batch_rows", "micro_batch_tokens", "gradient_checkpointing", "minibatches"),
        *("epochs", "old_logprobs", "tis_cap"),
        *("clip_low", "clip_high", "dual_clip", "loss_norm", "constant_tokens"),
        *("kl_coefficient", "kl_reference", "memory_check"),
        *("parallel", "parallel_timeout_s", "num_processes", "overlap"),
    },
    # The checkpoint holds the model; the others fit a run to its machine.
    "policy": {"model", "device", "threads", "max_batch"},
    "sandbox": {"wall_s", "grace_s", "memory_mb", "max_running"},
    "rollout": {"max_live_episodes", "max_failed_share"},
    "rewards": HOW_MUCH_IS_GRADED,
    **dict.fromkeys(("selection", "eval", "run", "watch", "new_model", "synthesize"), True),
}
"""Config keys that a resumed run may change: SFT does not read them, or the result is the same."""


def run_sft(
    config: Config,
    out: Path,
    *,
    resume: Path | None = None,
    report: Callable[[str], None] | None = None,
    wire: Wire | None = None,
    learner: Callable[..., Learner] = Learner,
) -> SftResult:
    """Run all stages and return where the result lies.

    A run that was killed before its first checkpoint starts over.

    Args:
        config: Its ``sft``, ``train``, ``policy`` and, for ``stop_when``, ``probe`` sections.
        out: The run folder.
        resume: The run folder to go on in, or one of its checkpoints.
        report: Receives a line for people now and then.
        wire: Makes the parts; None takes the package's own.
        learner: Makes what trains a stage.

    Raises:
        ConfigError: The config cannot be run.
        CheckpointError: There is nothing whole to resume from, or it is of another config.
        TrainError: A loss or gradient is not finite.
        Interrupted: A signal stopped the run after a step; it can be resumed.
    """
    check_stages(config)
    require_memory("sft", config)
    start = _checkpoint(resume)
    _refuse_other_config(config, start)
    # An optimizer's state is large: once the learner has it nobody else may hold it.
    bare = start and replace(start, learner=None)
    with (wire or partial(wire_parts, again=resume is not None))(config, out, bare) as parts:
        if start is not None:
            drop_after(out / "checkpoints", start.step)
            # The link may be of a later step, or missing: it is made after the checkpoint.
            if (own := step_path(out / "checkpoints", start.step)).exists():
                point_to(out / "final", own)
            restore_rng(start.rng)
        run = _Run(config, out, parts, report or (lambda _: None), start, learner)
        start = None
        return run.run()


def _checkpoint(resume: Path | None) -> Checkpoint | None:
    """Return what to go on from; None starts at step 0."""
    # A run killed before its first save has nothing to lose by starting over.
    if resume is None or ((resume / "run.json").exists() and not has_checkpoints(resume)):
        return None
    return resume_from(resume)


class _Run:
    """One run of all stages."""

    def __init__(
        self,
        config: Config,
        out: Path,
        parts: SftParts,
        report: Callable[[str], None],
        start: Checkpoint | None,
        learner: Callable[..., Learner],
    ) -> None:
        self.make = learner
        self.config, self.out, self.parts, self.report = config, out, parts, report
        self.folder = out / "checkpoints"
        self.at = Progress() if start is None else Progress(**start.extra["progress"])
        self.learner_state = None if start is None else start.learner
        self.loss: float | None = None
        self.distance: float | None = None
        self.held_out_nll: float | None = None

    def run(self) -> SftResult:
        stages = self.config.sft.stages
        while self.at.stage < len(stages):
            parts = self.parts
            data = StageData(self.config, self.at.stage, parts.renderer, parts.run_scripts)
            # Listens only now: Ctrl-C while data are loaded has nothing to save.
            with StopSignal() as stop:
                self._stage(stages[self.at.stage], data, stop)
                if stop.received and self.at.stage < len(stages):
                    self._leave(stop)
        final = self.out / "final"
        return SftResult(final, self.at.step, self.loss, self.distance, self.held_out_nll)

    def _stage(self, stage: SftStageConfig, data: StageData, stop: StopSignal) -> None:
        learner = _learner(self.make, self.parts.model, self.config, stage, data.num_steps)
        self.held_out_nll = None
        if self.learner_state is not None:
            learner.load_state_dict(self.learner_state)
            data.order.taken = self.at.taken
            self.learner_state = None
        besides = f" and {len(data.held_out)} held out" if data.held_out else ""
        besides += f", {data.num_seen} of them with a prompt trained on," if data.num_seen else ""
        besides += f" ({data.num_too_long} too long)" if data.num_too_long else ""
        self.report(
            f"stage {stage.name!r}: {data.num_examples} examples{besides}, "
            f"steps {self.at.stage_step + 1} to {data.num_steps}"
        )
        while not self._ended(stage, data.num_steps):
            device = self.parts.model.device
            forget_peak(device)
            began = time.perf_counter()
            stats = learner.sft_step(data.batch())
            took = {"step_s": round(time.perf_counter() - began, 4), **peak_gib("step_gib", device)}
            self.loss = stats.loss
            self.at = replace(
                self.at,
                step=self.at.step + 1,
                stage_step=self.at.stage_step + 1,
                taken=data.order.taken,
            )
            with _as_kept(learner):
                measured = self._measure(stage, data, learner)
            self._record(stage, data, stats, took, measured)
            best = self._note_best(stage, measured)
            ends = self._ended(stage, data.num_steps)
            due = self.at.step % self.config.train.save_every == 0 and not ends
            if best or stop.received or due:
                with _as_kept(learner):
                    self._save(learner)
            if stop.received and not ends:
                self._leave(stop)
        self._finish_stage(stage, data, learner)

    def _ended(self, stage: SftStageConfig, num_steps: int) -> bool:
        """Whether the stage is over; told by ``Progress`` alone, so that a resumed run agrees."""
        inside = stage.stop_when == "probe" and self.at.best == 0.0
        return inside or self.at.stage_step >= num_steps

    def _measure(self, stage: SftStageConfig, data: StageData, learner: Learner) -> Measured:
        """Measure what it is time for: now and then, and where the stage may end or go back to."""
        step, last = self.at.stage_step, self.at.stage_step == data.num_steps
        reading = nll = None
        due = last or (step >= stage.min_steps and step % stage.probe_every == 0)
        if stage.stop_when == "probe" and due:
            reading = self.parts.probe()
        nearest = reading is not None and reading.window_distance < self.at.best
        due = last or nearest or (stage.eval_every > 0 and step % stage.eval_every == 0)
        if data.held_out and due:
            nll = self.held_out_nll = mean_nll(learner, data.held_out)
        return Measured(reading, nll)

    def _note_best(self, stage: SftStageConfig, measured: Measured) -> bool:
        """Remember this step if no earlier one of the stage measured as well."""
        value = measured.nll if stage.keep_best else None
        if measured.reading is not None:
            value = measured.reading.window_distance
        if value is None or not value < self.at.best:
            return False
        self.at = replace(self.at, best_step=self.at.step, best=value, best_nll=measured.nll)
        return True

    def _record(
        self,
        stage: SftStageConfig,
        data: StageData,
        stats: SftStats,
        took: dict[str, float],
        measured: Measured,
    ) -> None:
        values: dict[str, float | int | str] = {
            "stage": stage.name,
            "stage_step": self.at.stage_step,
            "loss": stats.loss,
            "nll": stats.nll,
            "grad_norm": stats.grad_norm,
            "num_tokens": stats.num_tokens,
            "learning_rate": stats.learning_rate,
            **took,
        }
        if self.at.stage_step == 1 and data.num_too_long:
            values["too_long"] = data.num_too_long
        if self.at.stage_step == 1 and data.num_seen:
            values["held_out_seen"] = data.num_seen
        # An earlier stage may have ended before its last step; one in epochs is counted once its
        # data are loaded.
        later = self.config.sft.stages[self.at.stage + 1 :]
        left = sum(s.steps or 0 for s in later) + data.num_steps - self.at.stage_step
        line = (
            f"step {self.at.step}/{self.at.step + left}: loss {stats.loss:.4f}, nll {stats.nll:.4f}"
        )
        more, words = measured.told()
        self.parts.metrics(self.at.step, values | more)
        shown = self.at.stage_step in (1, data.num_steps) or self.at.step % _REPORT_EVERY == 0
        if shown or words:
            self.report(line + words)

    def _finish_stage(self, stage: SftStageConfig, data: StageData, learner: Learner) -> None:
        """Keep the best weights, and save the border to the next stage."""
        at = self.at
        if isinstance(learner, AveragingLearner):
            learner.settle()
        if at.best_step is not None and at.best_step != at.step:
            best = step_path(self.folder, at.best_step)
            problem = find_problem(best, content=True)
            if problem:
                raise CheckpointError(f"{best}, the best of stage {stage.name!r}: {problem}")
            restore_weights(self.parts.model, best)
        self.distance = None
        if at.best_step is None and self.held_out_nll is None and data.held_out:
            # Killed between the last step and the border, which took the measure with it.
            self.held_out_nll = mean_nll(learner, data.held_out)
        if at.best_step is not None and stage.keep_best:
            self.held_out_nll = at.best
            self.report(
                f"stage {stage.name!r}: kept the weights of step {at.best_step} "
                f"(held-out nll {at.best:.4f})"
            )
        elif at.best_step is not None:
            self.distance, self.held_out_nll = at.best, at.best_nll
            if at.best > 0.0:
                self.report(
                    f"stage {stage.name!r} did not reach the probe's window: kept the weights of "
                    f"step {at.best_step} (distance {at.best:.3f})"
                )
        self.at = Progress(step=at.step, stage=at.stage + 1)
        self._save(None)

    def _save(self, learner: Learner | None) -> None:
        saved = save_checkpoint(
            self.folder,
            self.at.step,
            model=self.parts.model,
            source=self.config.policy.model,
            learner=learner,
            extra={"progress": asdict(self.at), "config": _identity(self.config)},
        )
        point_to(self.out / "final", saved)
        protect = [] if self.at.best_step is None else [self.at.best_step]
        prune(self.folder, self.config.train.keep_checkpoints, protect)

    def _leave(self, stop: StopSignal) -> NoReturn:
        resume = f"pvrl sft --resume {self.out}"
        self.report(f"stopped after step {self.at.step}; to go on: {resume}")
        raise Interrupted(stop.exit_code, resume)


def _learner(
    make: Callable[..., Learner],
    model: VisionLanguageModel,
    config: Config,
    stage: SftStageConfig,
    num_steps: int,
) -> Learner:
    options: dict[str, Any] = {
        "total_steps": num_steps,
        "learning_rate": stage.learning_rate,
        "muon_learning_rate": stage.muon_learning_rate,
    }
    if stage.ema_decay:
        return AveragingLearner(model, config.train, decay=stage.ema_decay, **options)
    return make(model, config.train, **options)


def _as_kept(learner: Learner) -> AbstractContextManager[None]:
    """Have the weights in the model that would be kept if the stage ended now."""
    return learner.averaged() if isinstance(learner, AveragingLearner) else nullcontext()


def mean_nll(learner: Learner, examples: Sequence[Segments]) -> float:
    """Return the mean negative log-probability of the sampled tokens (nats), all weighed alike."""
    rows = [Trajectory("", 0, segments, (), (), EndReason.ANSWERED) for segments in examples]
    scored = [value for row in learner.logprobs(rows) for value in row]
    return -math.fsum(scored) / len(scored)


def restore_weights(model: VisionLanguageModel, path: Path) -> None:
    """Copy the weights at ``path`` into ``model`` in place; optimizers over it stay valid.

    Of a model with adapters only they are copied: nothing else was trained.

    Raises:
        CheckpointError: They are of another model.
    """
    module: Any = model.module
    if has_adapters(module):
        load_adapters(module, path / ADAPTER)
        return
    saved = type(module).from_pretrained(path, dtype=model.dtype)
    own, new = dict(module.named_parameters()), dict(saved.named_parameters())
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in new.items()}:
        raise CheckpointError(f"{path} holds the weights of another model")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(new[name])


def _identity(config: Config) -> dict[str, Any]:
    """Return what must be equal for a resumed run to go on as if never stopped."""
    return config.model_dump(mode="json", exclude=_MAY_DIFFER)


def _refuse_other_config(config: Config, start: Checkpoint | None) -> None:
    if start is None:
        return
    if "progress" not in start.extra:
        raise CheckpointError(f"{start.path} was not made by sft; start from it with policy.model")
    if differing := other_sections(start.extra["config"], config, _MAY_DIFFER):
        raise CheckpointError(
            f"{start.path} was made with other values of {', '.join(differing)}; to train on from "
            "its weights, start a new run with policy.model set to it"
        )
