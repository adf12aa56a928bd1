"""One optimizer step from one batch: RL (clipped surrogate) or SFT (cross-entropy).

In: a ``Batch`` or SFT ``Example`` records. Out: changed weights, and ``UpdateStats`` or
``SftStats``. Either the step is made whole or the weights stay as they were and ``TrainError`` is
raised. Runs in one process. Does not sample, select, log or save.

Axes: B rows, T tokens, N targets of a micro-batch in row order, H width, V vocabulary.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pyvision_rl.config import TrainConfig
from pyvision_rl.errors import ConfigError, TrainError
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.train import losses
from pyvision_rl.train.batching import Example, MicroBatch, pack
from pyvision_rl.train.optimizers import build_optimizers, freeze_vision, lr_factor
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
class _Share:
    """One micro-batch's part of a step."""

    loss: Tensor
    sums: tuple[float, ...]
    """Diagnostics summed over targets."""
    largest: float = 0.0


@dataclass(frozen=True, slots=True)
class _Outcome:
    """A whole step."""

    loss: float
    sums: tuple[float, ...]
    largest: float
    grad_norm: float
    learning_rate: float


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
    ) -> None:
        """Prepare to train ``model`` in place.

        Args:
            model: Its module is trained; it is left in evaluation mode between steps.
            config: Optimizer and objective.
            total_steps: Length of the learning-rate curve; None takes ``config.steps``.
            learning_rate: None takes ``config.learning_rate``.
            muon_learning_rate: None takes ``config.muon_learning_rate``.

        Raises:
            ConfigError: The device cannot do ``mixed_precision``, or there are several processes.
        """
        self.model = model
        self.config = config
        self.step = 0
        """Optimizer steps made."""
        self.total_steps = total_steps or config.steps
        self.logits_per_chunk = 2**28
        """Vocabulary scores held at a time (1 GiB of float32); more targets go in chunks."""
        self.accelerator = _accelerator(config, model.device)
        module: Any = model.module
        if config.freeze_vision:
            freeze_vision(module)
        if config.gradient_checkpointing:
            _enable_activation_checkpointing(module)
        if model.dtype in (torch.bfloat16, torch.float16):
            _log.warning(
                "training %s weights: small updates are rounded away; load float32 weights and "
                "set train.mixed_precision instead",
                model.dtype,
            )
        self.optimizers = build_optimizers(
            module, config, learning_rate=learning_rate, muon_learning_rate=muon_learning_rate
        )

    def update(self, batch: Batch, temperature: float) -> UpdateStats:
        """Make one policy-gradient step over the whole batch.

        Args:
            batch: Its trajectories hold log-probabilities at sampling.
            temperature: At which they were sampled; the objective's ratio needs the same.

        Raises:
            TrainError: Nothing to learn from, or a loss or gradient that is not finite.
        """
        if temperature <= 0:
            raise TrainError(f"temperature {temperature}: greedy samples have no policy gradient")
        micro_batches = pack(batch.samples, self.model, self.config.micro_batch_tokens)
        normalizer = losses.Normalizer(
            self.config.loss_norm,
            num_rows=len(batch.samples),
            num_tokens=_num_targets(micro_batches, "batch"),
            constant_tokens=self.config.constant_tokens,
        )
        done = self._make_step(
            micro_batches, lambda micro: self._policy_share(micro, temperature, normalizer)
        )
        kl, clipped, entropy = (total / normalizer.num_tokens for total in done.sums)
        return UpdateStats(
            step=self.step,
            loss=done.loss,
            approx_kl=kl,
            clip_fraction=clipped,
            entropy=entropy,
            grad_norm=done.grad_norm,
            num_tokens=normalizer.num_tokens,
            mismatch=done.largest,
            learning_rate=done.learning_rate,
        )

    def sft_step(self, examples: Sequence[Example]) -> SftStats:
        """Make one cross-entropy step over the examples.

        Raises:
            TrainError: Nothing to learn from, or a loss or gradient that is not finite.
        """
        micro_batches = pack(examples, self.model, self.config.micro_batch_tokens)
        num_tokens = _num_targets(micro_batches, "SFT batch")
        total_weight = math.fsum(float(m.weights_BT.sum()) for m in micro_batches)
        done = self._make_step(
            micro_batches, lambda micro: self._supervised_share(micro, total_weight)
        )
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
        samples = [Scored(t, 0.0) for t in trajectories]
        for micro in pack(samples, self.model, self.config.micro_batch_tokens):
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

    def _policy_share(
        self, micro: MicroBatch, temperature: float, normalizer: losses.Normalizer
    ) -> _Share:
        bounds = {"clip_low": self.config.clip_low, "clip_high": self.config.clip_high}
        mask_BT = micro.loss_mask_BT
        logprobs_BT, entropy_N = self._score(micro, temperature)
        log_ratio_BT = losses.log_ratio(logprobs_BT, micro.old_logprobs_BT)
        loss_BT = losses.clipped_surrogate(log_ratio_BT, micro.advantages_B, **bounds)
        with torch.no_grad():
            clipped_BT = losses.is_clipped(log_ratio_BT, micro.advantages_B, **bounds)
            difference_BT = (logprobs_BT - micro.old_logprobs_BT).abs()
            sums = (
                float(losses.approx_kl(log_ratio_BT)[mask_BT].sum()),
                float(clipped_BT[mask_BT].sum()),
                float(entropy_N.sum()),
            )
            largest = float(difference_BT.max())
        return _Share(losses.aggregate(loss_BT, mask_BT, normalizer), sums, largest)

    def _supervised_share(self, micro: MicroBatch, total_weight: float) -> _Share:
        logprobs_BT, _ = self._score(micro, 1.0)
        loss = losses.weighted_cross_entropy(logprobs_BT, micro.weights_BT, total_weight)
        return _Share(loss, (-float(logprobs_BT.detach().sum()),))

    def _score(self, micro: MicroBatch, temperature: float) -> tuple[Tensor, Tensor]:
        """Return log-probabilities [B, T] (0 outside targets) and entropies [N] of the targets."""
        embedded = self.model.embed(micro.token_ids_BT, micro.images)
        hidden_BTH = self.model.hidden(embedded, micro.positions_3BT)
        # Only the positions before a target are projected to the vocabulary, which for a large
        # model costs more memory than everything else together.
        hidden_NH = hidden_BTH[:, :-1][micro.loss_mask_BT[:, 1:]]

        def chunk(hidden_nH: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
            logits_nV = self.model.logits(hidden_nH) / temperature
            return losses.target_logprobs(logits_nV, targets_n), losses.entropy(logits_nV.detach())

        size = max(1, self.logits_per_chunk // self._vocab_size)
        chunks = (torch.split(hidden_NH, size), torch.split(micro.targets_N, size))
        parts = list(zip(*chunks, strict=True))
        if len(parts) == 1:
            scored = [chunk(*parts[0])]
        else:
            scored = [checkpoint(chunk, *part, use_reentrant=False) for part in parts]
        logprobs_N = torch.cat([logprobs for logprobs, _ in scored])
        entropy_N = torch.cat([entropies for _, entropies in scored])
        logprobs_BT = torch.zeros_like(micro.old_logprobs_BT)
        return logprobs_BT.masked_scatter(micro.loss_mask_BT, logprobs_N), entropy_N

    @property
    def _vocab_size(self) -> int:
        module: Any = self.model.module
        return int(module.get_output_embeddings().weight.shape[0])

    def _make_step(
        self, micro_batches: Sequence[MicroBatch], share: Callable[[MicroBatch], _Share]
    ) -> _Outcome:
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
        self.step += 1
        return _Outcome(
            loss=math.fsum(float(s.loss) for s in shares),
            sums=tuple(math.fsum(each) for each in zip(*(s.sums for s in shares), strict=True)),
            largest=max(s.largest for s in shares),
            grad_norm=grad_norm,
            learning_rate=self.optimizers.learning_rate,
        )

    def _gradients(
        self, micro_batches: Sequence[MicroBatch], share: Callable[[MicroBatch], _Share]
    ) -> tuple[list[_Share], float]:
        """Leave clipped, finite gradients in the parameters; return the shares and their norm."""
        scaler = self.accelerator.scaler
        for _ in range(1 if scaler is None else _MAX_SCALE_DROPS):
            self.optimizers.zero_grad()
            shares = [self._backward(micro, share) for micro in micro_batches]
            for optimizer in self.optimizers.optimizers if scaler is not None else ():
                scaler.unscale_(optimizer)
            norm = self.accelerator.clip_grad_norm_(
                self.optimizers.parameters, self.config.grad_clip
            )
            grad_norm = math.nan if norm is None else float(norm)
            if math.isfinite(grad_norm):
                return shares, grad_norm
            if scaler is not None:
                scaler.update()
        raise TrainError(
            f"step {self.step + 1}: the gradient norm is {grad_norm}; the weights are unchanged"
        )

    def _backward(self, micro: MicroBatch, share: Callable[[MicroBatch], _Share]) -> _Share:
        with self.accelerator.autocast():
            part = share(micro)
        loss = float(part.loss.detach())
        if not math.isfinite(loss):
            raise TrainError(
                f"step {self.step + 1}: the loss of samples {list(micro.rows)} is {loss}; "
                "the weights are unchanged"
            )
        self.accelerator.backward(part.loss)
        return replace(part, loss=part.loss.detach())

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


def _enable_activation_checkpointing(module: Any) -> None:
    # Renamed within transformers 5; the old name warns from then on.
    kwargs = {"use_reentrant": False}
    if hasattr(module, "activation_checkpointing_enable"):
        module.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs)
    else:
        module.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)


def _accelerator(config: TrainConfig, device: torch.device) -> Accelerator:
    if config.mixed_precision == "fp16" and device.type == "cpu":
        raise ConfigError('train.mixed_precision = "fp16" needs a GPU; use "bf16" or "no" on CPU')
    try:
        accelerator = Accelerator(mixed_precision=config.mixed_precision, cpu=device.type == "cpu")
    except ValueError as error:
        raise ConfigError(
            f"train.mixed_precision = {config.mixed_precision!r} on {device.type}: {error}"
        ) from error
    if accelerator.num_processes > 1:
        raise ConfigError(
            f"the learner runs in one process; it was started in {accelerator.num_processes}"
        )
    return accelerator
