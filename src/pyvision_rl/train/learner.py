"""One step from one batch: RL (clipped surrogate) or SFT (cross-entropy).

In: a ``Batch`` or SFT ``Example`` records. Out: changed weights, and ``UpdateStats`` or
``SftStats``. An RL step is one optimizer step, or several where the config asks for minibatches or
epochs. Either the step is made whole or the weights stay as they were and an error is raised. Runs
in one process (``parallel`` builds on it). Does not sample, select, log or save.

Axes: B rows, T tokens, N targets of a micro-batch in row order.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from pyvision_rl.config import TrainConfig
from pyvision_rl.errors import ConfigError, TrainError
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.rollout import derive_seed
from pyvision_rl.train import losses
from pyvision_rl.train.batching import Example, MicroBatch, Sample, pack
from pyvision_rl.train.device_memory import enough_memory
from pyvision_rl.train.objective import Outcome, diagnose, summarize, token_losses
from pyvision_rl.train.optimizers import build_optimizers, freeze_vision, lr_factor
from pyvision_rl.train.scoring import score
from pyvision_rl.types import Batch, Scored, Trajectory, UpdateStats

_MAX_SCALE_DROPS = 16
"""fp16 only: how often a step may be repeated with a smaller loss scale."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SftStats:
    """What one SFT step did. Written to ``metrics.jsonl`` as it is."""

    step: int
    loss: float
    """Weighted cross-entropy (nats per unit of weight): what was minimised."""
    nll: float
    """Plain mean over targets (nats)."""
    grad_norm: float
    """Before clipping."""
    num_tokens: int
    """Targets of the batch."""
    learning_rate: float


@dataclass(frozen=True, slots=True)
class Share:
    """One micro-batch's part of an optimizer step."""

    loss: Tensor
    sums: tuple[float, ...]
    """Diagnostics summed over targets."""
    drift_N: Tensor | None = None
    rows: tuple[int, ...] = ()
    """Of the micro-batch, once it went backward."""


class Learner:
    """Owns the optimizers of one model and makes one step at a time."""

    def __init__(
        self,
        model: VisionLanguageModel,
        config: TrainConfig,
        *,
        total_steps: int | None = None,
        learning_rate: float | None = None,
        muon_learning_rate: float | None = None,
        seed: int = 0,
        reference: VisionLanguageModel | None = None,
    ) -> None:
        """Prepare to train ``model`` in place.

        Args:
            model: Its module is trained; it is left in evaluation mode between steps.
            config: Optimizer and objective.
            total_steps: Length of the learning-rate curve; None takes ``config.steps``.
            learning_rate: None takes ``config.learning_rate``.
            muon_learning_rate: None takes ``config.muon_learning_rate``.
            seed: Of the minibatches.
            reference: Frozen policy of the KL term; RL with ``config.kl_coefficient`` needs one.

        Raises:
            ConfigError: The device cannot do ``mixed_precision``, or processes were started for
                nothing.
        """
        self.model = model
        self.config = config
        self.seed = seed
        self.reference = reference
        self.step = 0
        """RL steps, empty ones too, or SFT steps made: what the learning-rate curve follows."""
        self.total_steps = total_steps or config.steps
        self.logits_per_chunk = 2**28
        """Vocabulary scores held at a time (1 GiB of float32); more targets go in chunks."""
        self.accelerator = _accelerator(config, model.device)
        module: Any = model.module
        if config.freeze_vision:
            freeze_vision(module)
        if config.gradient_checkpointing:
            from pyvision_rl.train import recomputing

            recomputing.recompute_layers(module)
            self.accelerator.autocast_handler = recomputing.without_cast_cache()
        if model.dtype != torch.float32 and not (config.master_weights or config.lora_rank):
            _log.warning(
                "training %s weights: small updates are rounded away; set train.master_weights, or "
                "load float32 weights and set train.mixed_precision",
                model.dtype,
            )
        self.optimizers = build_optimizers(
            module, config, learning_rate=learning_rate, muon_learning_rate=muon_learning_rate
        )
        if config.master_weights:
            from pyvision_rl.train.master import with_copies

            self.optimizers = with_copies(self.optimizers)

    def go_to(self, step: int) -> None:
        """Have the next update be that of ``step``: RL steps without one count for the curve."""
        self.step = step - 1

    def update(self, batch: Batch, temperature: float) -> UpdateStats:
        """Make one RL step over the whole batch, in ``minibatches`` x ``epochs`` optimizer steps.

        Args:
            batch: Its trajectories hold log-probabilities at sampling.
            temperature: At which they were sampled; the objective's ratio needs the same.

        Raises:
            ConfigError: The KL term has no reference.
            TrainError: Nothing to learn from, a loss or gradient that is not finite, or the GPU is
                full.
        """
        if temperature <= 0:
            raise TrainError(f"temperature {temperature}: greedy samples have no policy gradient")
        config = self.config
        if config.kl_coefficient and self.reference is None:
            raise ConfigError("train.kl_coefficient: this learner was given no reference policy")
        plan = self._plan(batch.samples)
        _num_targets([micro for part in plan for micro in part], "batch")
        plan = [part for part in plan if any(micro.num_targets for micro in part)]
        mismatches: list[Tensor] = []
        outcomes: list[Outcome] = []
        several = self._all_or_nothing(len(plan) * config.epochs)
        with enough_memory(config, self.step + 1), several:
            plan = self._prepare(plan, temperature, mismatches)
            for part in plan * config.epochs:
                outcomes.append(self._policy_step(part, temperature))
        self.step += 1
        seen = mismatches or [o.drift_N for o in outcomes[:1] if o.drift_N is not None]
        return summarize(
            outcomes,
            torch.cat(seen),
            step=self.step,
            epochs=config.epochs,
            reference=bool(config.kl_coefficient),
        )

    def sft_step(self, examples: Sequence[Example]) -> SftStats:
        """Make one cross-entropy step over the examples.

        Raises:
            TrainError: Nothing to learn from, a loss or gradient that is not finite, or the GPU is
                full.
        """
        micro_batches = self._packed(examples)
        num_tokens = _num_targets(micro_batches, "SFT batch")
        total_weight = math.fsum(float(m.weights_BT.sum()) for m in micro_batches)
        with enough_memory(self.config, self.step + 1):
            done = self._make_step(
                micro_batches, lambda micro: self._supervised_share(micro, total_weight)
            )
        self.step += 1
        return SftStats(
            step=self.step,
            loss=done.loss,
            nll=done.sums[0] / num_tokens,
            grad_norm=done.grad_norm,
            num_tokens=num_tokens,
            learning_rate=done.learning_rate,
        )

    def logprobs(
        self, trajectories: Sequence[Trajectory], temperature: float = 1.0
    ) -> list[tuple[float, ...]]:
        """Return each trajectory's log-probabilities of its sampled tokens, as training sees."""
        result: list[tuple[float, ...]] = [()] * len(trajectories)
        for micro in self._packed([Scored(t, 0.0) for t in trajectories]):
            with torch.no_grad(), self.accelerator.autocast():
                logprobs_BT, _ = self._score(micro, temperature)
            for b, index in enumerate(micro.rows):
                result[index] = tuple(logprobs_BT[b][micro.loss_mask_BT[b]].tolist())
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed learner needs beside the weights: optimizers, step, loss scale."""
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "optimizers": self.optimizers.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            CheckpointError: It belongs to other optimizers or another model.
        """
        self.optimizers.load_state_dict(state["optimizers"])
        self.step = int(state["step"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _packed(self, samples: Sequence[Sample]) -> list[MicroBatch]:
        limits = self.config.micro_batch_tokens, self.config.micro_batch_rows
        return pack(samples, self.model, *limits)

    def _plan(self, samples: Sequence[Scored]) -> list[list[MicroBatch]]:
        """Return the micro-batches of each minibatch."""
        parts: list[Sequence[int]] = [range(len(samples))]
        if self.config.minibatches > 1:
            from pyvision_rl.train.passes import split

            seed = derive_seed(self.seed, "minibatches", self.step)
            parts = [*split(samples, self.config.minibatches, seed)]
        packed = [(part, self._packed([samples[i] for i in part])) for part in parts]
        # Errors name samples of the batch, not of the minibatch.
        return [
            [replace(micro, rows=tuple(part[row] for row in micro.rows)) for micro in micros]
            for part, micros in packed
        ]

    def _all_or_nothing(self, num_steps: int) -> AbstractContextManager[None]:
        if num_steps <= 1:
            return nullcontext()  # a single optimizer step moves nothing before it is sure
        from pyvision_rl.train.passes import whole_or_nothing

        return whole_or_nothing(self.optimizers)

    def _prepare(
        self, plan: Sequence[Sequence[MicroBatch]], temperature: float, mismatches: list[Tensor]
    ) -> list[list[MicroBatch]]:
        return [[self._prepared(m, temperature, mismatches) for m in part] for part in plan]

    def _prepared(
        self, micro: MicroBatch, temperature: float, mismatches: list[Tensor]
    ) -> MicroBatch:
        """Add what an RL step computes once, with the weights it begins with."""
        with torch.no_grad(), self.accelerator.autocast():
            if self.reference is not None and self.config.kl_coefficient:
                logprobs_BT, _ = score(self.reference, micro, temperature, self.logits_per_chunk)
                micro = replace(micro, reference_logprobs_BT=logprobs_BT)
            if self.config.old_logprobs == "sampler":
                return micro
            old_BT, _ = self._score(micro, temperature)
        mismatches.append((old_BT - micro.old_logprobs_BT)[micro.fresh_BT])
        weights_BT = micro.weights_BT
        if self.config.tis_cap:
            drift_BT = losses.log_ratio(old_BT, micro.old_logprobs_BT)
            weights_BT = weights_BT * losses.importance_weights(drift_BT, self.config.tis_cap)
        return replace(micro, old_logprobs_BT=old_BT, weights_BT=weights_BT)

    def _policy_step(self, micro_batches: Sequence[MicroBatch], temperature: float) -> Outcome:
        targets = [micro.num_targets for micro in micro_batches]
        normalizer = losses.Normalizer(
            self.config.loss_norm,
            num_rows=sum(len(micro.rows) for micro in micro_batches),
            num_tokens=sum(targets),
            constant_tokens=self.config.constant_tokens,
            num_micro_batches=sum(n > 0 for n in targets),
        )

        def share(micro: MicroBatch) -> Share:
            logprobs_BT, entropy_N = self._score(micro, temperature)
            loss_BT = token_losses(logprobs_BT, micro, self.config)
            sums, drift_N = diagnose(logprobs_BT, entropy_N, micro, self.config)
            return Share(losses.aggregate(loss_BT, micro.loss_mask_BT, normalizer), sums, drift_N)

        return self._make_step(micro_batches, share)

    def _supervised_share(self, micro: MicroBatch, total_weight: float) -> Share:
        logprobs_BT, _ = self._score(micro, 1.0)
        loss = losses.weighted_cross_entropy(logprobs_BT, micro.weights_BT, total_weight)
        return Share(loss, (-float(logprobs_BT.detach().sum()),))

    def _score(self, micro: MicroBatch, temperature: float) -> tuple[Tensor, Tensor]:
        return score(self.model, micro, temperature, self.logits_per_chunk)

    def _make_step(
        self, micro_batches: Sequence[MicroBatch], share: Callable[[MicroBatch], Share]
    ) -> Outcome:
        """Sum the gradients of all micro-batches, check them, and move the weights once."""
        factor = lr_factor(
            self.step,
            warmup_steps=min(self.config.warmup_steps, self.total_steps),
            total_steps=self.total_steps,
            schedule=self.config.schedule,
            min_ratio=self.config.min_lr_ratio,
        )
        self.optimizers.set_factor(factor)
        with self._training():
            shares, grad_norm = self._gradients(micro_batches, share)
            self.optimizers.step()
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()
        drifts = [s.drift_N for s in shares if s.drift_N is not None]
        return Outcome(
            loss=math.fsum(float(s.loss) for s in shares),
            sums=tuple(math.fsum(each) for each in zip(*(s.sums for s in shares), strict=True)),
            num_tokens=sum(micro.num_targets for micro in micro_batches),
            grad_norm=grad_norm,
            learning_rate=self.optimizers.learning_rate,
            drift_N=torch.cat(drifts) if drifts else None,
        )

    def _gradients(
        self, micro_batches: Sequence[MicroBatch], share: Callable[[MicroBatch], Share]
    ) -> tuple[list[Share], float]:
        """Leave clipped, finite gradients in the parameters; return the shares and their norm."""
        scaler = self.accelerator.scaler
        for _ in range(1 if scaler is None else _MAX_SCALE_DROPS):
            self.optimizers.zero_grad()
            shares = [self._backward(micro, share) for micro in micro_batches]
            for optimizer in self.optimizers.optimizers if scaler is not None else ():
                scaler.unscale_(optimizer)
            parameters = self.optimizers.parameters
            norm = self.accelerator.clip_grad_norm_(parameters, self.config.grad_clip)
            grad_norm = math.nan if norm is None else float(norm)
            if math.isfinite(grad_norm):
                return shares, grad_norm
            if scaler is not None:
                scaler.update()
        raise self._stopped(f"the gradient norm is {grad_norm}")

    def _backward(self, micro: MicroBatch, share: Callable[[MicroBatch], Share]) -> Share:
        with self.accelerator.autocast():
            part = share(micro)
        loss = float(part.loss.detach())
        if not math.isfinite(loss):
            raise self._stopped(f"the loss of samples {list(micro.rows)} is {loss}")
        self.accelerator.backward(part.loss)
        return replace(part, loss=part.loss.detach())

    def _stopped(self, why: str) -> TrainError:
        return TrainError(f"step {self.step + 1}: {why}; the weights are unchanged")

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Training mode inside; evaluation mode and no gradients afterwards."""
        self.model.module.train()
        try:
            yield
        finally:
            self.optimizers.zero_grad()
            self.model.module.eval()


def _num_targets(micro_batches: Sequence[MicroBatch], what: str) -> int:
    total = sum(m.num_targets for m in micro_batches)
    if total == 0:
        raise TrainError(f"the {what} has no sampled token to learn from")
    return total


def _accelerator(config: TrainConfig, device: torch.device) -> Accelerator:
    if config.mixed_precision == "fp16" and device.type == "cpu":
        raise ConfigError('train.mixed_precision = "fp16" needs a GPU; use "bf16" or "no" on CPU')
    try:
        accelerator = Accelerator(mixed_precision=config.mixed_precision, cpu=device.type == "cpu")
    except ValueError as error:
        raise ConfigError(
            f"train.mixed_precision = {config.mixed_precision!r} on {device.type}: {error}"
        ) from error
    # Else an environment variable of accelerate's would divide every gradient.
    accelerator.gradient_accumulation_steps = 1
    if accelerator.num_processes > 1 and config.parallel == "none":
        raise ConfigError(
            f'train.parallel = "none" is one process; {accelerator.num_processes} were started'
        )
    return accelerator
