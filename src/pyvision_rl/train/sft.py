"""Supervised fine-tuning: stages in order, each with its own data, optimizers and curve.

In: a ``Config`` with ``[[sft.stages]]``. Out: a run folder with metrics and checkpoints;
``<out>/final`` is a link to the last checkpoint, an ordinary Hugging Face directory. A run that
was stopped or killed goes on from its last checkpoint with the same bits as one that was not.

    for each stage:  load data -> [ batch -> sft_step -> probe? -> save? ] * -> keep the nearest
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeAlias

import torch

from pyvision_rl.assemble import assemble
from pyvision_rl.checks_sft import check_stages
from pyvision_rl.collect import collect_scripts
from pyvision_rl.config import Config, SftStageConfig
from pyvision_rl.errors import CheckpointError, ConfigError
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.probe import probe_model
from pyvision_rl.rendering.base import Renderer
from pyvision_rl.runs import RunWriter
from pyvision_rl.train.checkpoints import (
    Checkpoint,
    drop_after,
    find_checkpoint,
    find_problem,
    load_checkpoint,
    point_to,
    prune,
    restore_rng,
    save_checkpoint,
    step_path,
)
from pyvision_rl.train.interrupts import Interrupted, StopSignal
from pyvision_rl.train.learner import Learner, SftStats
from pyvision_rl.train.sft_data import RunScripts, StageData

_REPORT_EVERY = 25
_MAY_DIFFER: dict[str, Any] = {
    "train": {"save_every", "keep_checkpoints", "steps", "eval_every"},
    # The checkpoint holds the model; the others fit a run to its machine.
    "policy": {"model", "device", "threads", "max_batch"},
    "sandbox": {"wall_s", "grace_s", "memory_mb", "max_running"},
    "rollout": {"max_live_episodes", "max_failed_share"},
    **dict.fromkeys(("selection", "eval", "run", "new_model"), True),
}
"""Config keys that a resumed run may change: SFT does not read them, or the result is the same."""

_log = logging.getLogger(__name__)


class ProbeReading(Protocol):
    """What a probe says; ``probe.ProbeResult`` is one."""

    @property
    def tool_share(self) -> float:
        """Free share of episodes that use the tool."""
        ...

    @property
    def gain(self) -> float:
        """E[accuracy | tool] - E[accuracy | direct]."""
        ...

    @property
    def gain_se(self) -> float:
        """Standard error of ``gain``."""
        ...

    @property
    def gain_with_bonus(self) -> float:
        """The same with the tool reward."""
        ...

    @property
    def window_distance(self) -> float:
        """0.0 inside the window of ``[probe]``."""
        ...

    @property
    def expectation(self) -> str:
        """Which behaviour to expect of RL from here, in a line."""
        ...


@dataclass(frozen=True, slots=True)
class SftParts:
    """What SFT takes from the rest of the package."""

    model: VisionLanguageModel
    renderer: Renderer
    run_scripts: RunScripts
    probe: Callable[[], ProbeReading]
    """Measures the model as it is when called."""
    metrics: Callable[[int, Mapping[str, float | int | str]], None]
    """Receives (step, values) once per step."""


Wire: TypeAlias = Callable[[Config, Path, Checkpoint | None], AbstractContextManager[SftParts]]
"""(config, run folder, checkpoint to go on from) -> parts; the model holds its weights."""


@dataclass(frozen=True, slots=True)
class SftResult:
    """What a finished run leaves."""

    model: Path
    """Hugging Face directory of the result."""
    steps: int
    """Optimizer steps over all stages."""
    loss: float | None
    """Of the last step; None when the run was already finished."""
    window_distance: float | None
    """Of the weights that were kept, when the last stage stops by probe."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands; kept in every checkpoint."""

    step: int = 0
    """Over all stages."""
    stage: int = 0
    stage_step: int = 0
    taken: tuple[int, ...] = ()
    """Examples drawn from each source of the stage."""
    best_step: int | None = None
    """The stage's checkpoint that came nearest to the probe's window."""
    best_distance: float = math.inf


def run_sft(
    config: Config,
    out: Path,
    *,
    resume: Path | None = None,
    report: Callable[[str], None] | None = None,
    wire: Wire | None = None,
) -> SftResult:
    """Run all stages and return where the result lies.

    Args:
        config: Its ``sft``, ``train``, ``policy`` and, for ``stop_when``, ``probe`` sections.
        out: The run folder.
        resume: The run folder to go on in, or one of its checkpoints.
        report: Receives a line for people now and then.
        wire: Makes the parts; None takes the package's own.

    Raises:
        ConfigError: The config cannot be run.
        CheckpointError: There is nothing whole to resume from, or it is of another config.
        TrainError: A loss or gradient is not finite.
        Interrupted: A signal stopped the run after a step; it can be resumed.
    """
    check_stages(config)
    start = None if resume is None else load_checkpoint(find_checkpoint(resume))
    _refuse_other_config(config, start)
    with (wire or wire_parts)(config, out, start) as parts:
        if start is not None:
            drop_after(out / "checkpoints", start.step)
            restore_rng(start.rng)
        return _Run(config, out, parts, report or (lambda _: None), start).run()


@contextmanager
def wire_parts(config: Config, out: Path, start: Checkpoint | None) -> Iterator[SftParts]:
    """Yield the package's own parts, and close them afterwards."""
    settings = config
    if start is not None:
        policy = config.policy.model_copy(update={"model": str(start.path)})
        settings = config.model_copy(update={"policy": policy})
    with assemble(settings) as assembly:
        model = assembly.model
        if model is None:
            raise ConfigError('sft trains an in-process policy: set policy.name = "local"')
        going_on = start is not None and (out / "run.json").exists()
        step = start.step if start is not None and going_on else None
        with RunWriter(out, config, verb="sft", resume_step=step) as writer:
            yield SftParts(
                model=model,
                renderer=assembly.harness.renderer,
                run_scripts=lambda data: collect_scripts(
                    settings, data.tasks, data.count, max_wrong=data.max_wrong, seen_by=model.vision
                ),
                probe=lambda: probe_model(assembly),
                metrics=writer.metrics,
            )


class _Run:
    """One run of all stages."""

    def __init__(
        self,
        config: Config,
        out: Path,
        parts: SftParts,
        report: Callable[[str], None],
        start: Checkpoint | None,
    ) -> None:
        self.config, self.out, self.parts, self.report = config, out, parts, report
        self.folder = out / "checkpoints"
        self.at = Progress() if start is None else Progress(**start.extra["progress"])
        self.learner_state = None if start is None else start.learner
        self.loss: float | None = None
        self.distance: float | None = None

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
        return SftResult(final, self.at.step, self.loss, self.distance)

    def _stage(self, stage: SftStageConfig, data: StageData, stop: StopSignal) -> None:
        train = self.config.train
        learner = Learner(
            self.parts.model,
            train,
            total_steps=stage.steps,
            learning_rate=stage.learning_rate,
            muon_learning_rate=stage.muon_learning_rate,
        )
        if self.learner_state is not None:
            learner.load_state_dict(self.learner_state)
            data.mixture.taken = self.at.taken
            self.learner_state = None
        self.report(
            f"stage {stage.name!r}: {data.num_examples} examples, "
            f"steps {self.at.stage_step + 1} to {stage.steps}"
        )
        while not self._ended(stage):
            began = time.perf_counter()
            stats = learner.sft_step(data.batch(stage.batch_size))
            seconds = time.perf_counter() - began
            self.loss = stats.loss
            self.at = replace(
                self.at,
                step=self.at.step + 1,
                stage_step=self.at.stage_step + 1,
                taken=data.mixture.taken,
            )
            reading = self._probe(stage)
            self._record(stage, stats, seconds, reading)
            nearest = self._note_nearest(reading)
            ends = self._ended(stage)
            if nearest or stop.received or (self.at.step % train.save_every == 0 and not ends):
                self._save(learner)
            if stop.received and not ends:
                self._leave(stop)
        self._finish_stage(stage)

    def _ended(self, stage: SftStageConfig) -> bool:
        """Whether the stage is over; told by ``Progress`` alone, so that a resumed run agrees."""
        return self.at.stage_step >= stage.steps or self.at.best_distance == 0.0

    def _probe(self, stage: SftStageConfig) -> ProbeReading | None:
        """Measure when it is time to: from ``min_steps`` on, and at the stage's last step."""
        step = self.at.stage_step
        due = step % stage.probe_every == 0 or step == stage.steps
        if stage.stop_when != "probe" or step < stage.min_steps or not due:
            return None
        return self.parts.probe()

    def _note_nearest(self, reading: ProbeReading | None) -> bool:
        """Remember this step if no earlier one of the stage was as near to the window."""
        if reading is None or not reading.window_distance < self.at.best_distance:
            return False
        self.at = replace(self.at, best_step=self.at.step, best_distance=reading.window_distance)
        return True

    def _record(
        self,
        stage: SftStageConfig,
        stats: SftStats,
        seconds: float,
        reading: ProbeReading | None,
    ) -> None:
        values: dict[str, float | int | str] = {
            "stage": stage.name,
            "stage_step": self.at.stage_step,
            "loss": stats.loss,
            "nll": stats.nll,
            "grad_norm": stats.grad_norm,
            "num_tokens": stats.num_tokens,
            "learning_rate": stats.learning_rate,
            "step_s": round(seconds, 4),
        }
        # An earlier stage may have ended before its last step.
        left = sum(s.steps for s in self.config.sft.stages[self.at.stage :]) - self.at.stage_step
        line = (
            f"step {self.at.step}/{self.at.step + left}: loss {stats.loss:.4f}, nll {stats.nll:.4f}"
        )
        if reading is not None:
            values |= {
                "probe_tool_share": reading.tool_share,
                "probe_gain": reading.gain,
                "probe_gain_se": reading.gain_se,
                "probe_gain_with_bonus": reading.gain_with_bonus,
                "probe_distance": reading.window_distance,
                "probe_expectation": reading.expectation,
            }
            line += (
                f"; probe: tool share {reading.tool_share:.2f}, gain {reading.gain:+.3f}, "
                f"with tool reward {reading.gain_with_bonus:+.3f}, "
                f"distance {reading.window_distance:.3f}"
            )
        self.parts.metrics(self.at.step, values)
        shown = self.at.stage_step in (1, stage.steps) or self.at.step % _REPORT_EVERY == 0
        if shown or reading is not None:
            self.report(line)

    def _finish_stage(self, stage: SftStageConfig) -> None:
        """Keep the weights nearest to the window, and save the border to the next stage."""
        at = self.at
        self.distance = at.best_distance if at.best_step is not None else None
        if at.best_step is not None and at.best_step != at.step:
            best = step_path(self.folder, at.best_step)
            problem = find_problem(best, content=True)
            if problem:
                raise CheckpointError(f"{best}, nearest to the probe's window: {problem}")
            restore_weights(self.parts.model, best)
        if at.best_distance > 0.0 and at.best_step is not None:
            self.report(
                f"stage {stage.name!r} did not reach the probe's window: kept the weights of "
                f"step {at.best_step} (distance {at.best_distance:.3f})"
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


def restore_weights(model: VisionLanguageModel, path: Path) -> None:
    """Copy the weights at ``path`` into ``model`` in place; optimizers over it stay valid.

    Raises:
        CheckpointError: They are of another model.
    """
    module: Any = model.module
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
    saved, now = start.extra["config"], _identity(config)
    differing = [key for key, value in now.items() if key not in saved or saved[key] != value]
    if differing:
        raise CheckpointError(
            f"{start.path} was made with other values of {', '.join(differing)}; to train on from "
            "its weights, start a new run with policy.model set to it"
        )
