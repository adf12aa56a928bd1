"""The RL objective of a config, and what an update reports of it.

In: log-probabilities of a micro-batch and the ``TrainConfig`` that names the terms. Out: token
losses, sums of diagnostics and ``UpdateStats``. The formulas are in ``losses``; this file says
which of them a config means. Runs no network.

Axes: B rows, T tokens, N targets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyvision_rl.config import TrainConfig
from pyvision_rl.train import losses
from pyvision_rl.train.batching import MicroBatch
from pyvision_rl.types import UpdateStats


class PolicySums(NamedTuple):
    """Diagnostics summed over targets."""

    approx_kl: float
    clipped: float
    entropy: float
    kl_reference: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One optimizer step."""

    loss: float
    sums: tuple[float, ...]
    num_tokens: int
    grad_norm: float
    learning_rate: float
    drift_N: Tensor | None = None
    """[N] log-probability at training - old log-probability, of fresh targets; None outside RL."""


def token_losses(logprobs_BT: Tensor, micro: MicroBatch, config: TrainConfig) -> Tensor:
    """Return [B, T] losses of the tokens, before they are masked and averaged.

    The clipped surrogate against the old log-probabilities, times the importance weight, plus the
    coefficient times the divergence from the reference (GRPO, arXiv 2402.03300, eq. 3 and 4).
    """
    loss_BT = losses.clipped_surrogate(
        losses.log_ratio(logprobs_BT, micro.old_logprobs_BT),
        micro.advantages_B,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
    )
    if config.tis_cap:
        loss_BT = loss_BT * micro.weights_BT
    if micro.reference_logprobs_BT is not None:
        loss_BT = loss_BT + config.kl_coefficient * reference_kl(logprobs_BT, micro)
    return loss_BT


def reference_kl(logprobs_BT: Tensor, micro: MicroBatch) -> Tensor:
    """Return [B, T] estimates of KL(policy || reference); zeros without a reference."""
    if micro.reference_logprobs_BT is None:
        return torch.zeros_like(logprobs_BT)
    return losses.approx_kl(losses.log_ratio(micro.reference_logprobs_BT, logprobs_BT))


@torch.no_grad()
def diagnose(
    logprobs_BT: Tensor, entropy_N: Tensor, micro: MicroBatch, config: TrainConfig
) -> tuple[PolicySums, Tensor]:
    """Return a micro-batch's sums, and how far each fresh log-probability is from the old."""
    mask_BT = micro.loss_mask_BT
    log_ratio_BT = losses.log_ratio(logprobs_BT, micro.old_logprobs_BT)
    clipped_BT = losses.is_clipped(
        log_ratio_BT,
        micro.advantages_B,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
    )
    sums = PolicySums(
        approx_kl=float(losses.approx_kl(log_ratio_BT)[mask_BT].sum()),
        clipped=float(clipped_BT[mask_BT].sum()),
        entropy=float(entropy_N.sum()),
        kl_reference=float(reference_kl(logprobs_BT, micro)[mask_BT].sum()),
    )
    return sums, (logprobs_BT - micro.old_logprobs_BT)[micro.fresh_BT]


def summarize(
    outcomes: Sequence[Outcome], mismatch_N: Tensor, *, step: int, epochs: int, reference: bool
) -> UpdateStats:
    """Return what an RL step reports.

    Args:
        outcomes: Its optimizer steps, in order.
        mismatch_N: Log-probability at training - at sampling, before any weight moved; may be
            empty.
        step: Number of the RL step.
        epochs: How often the outcomes went through the batch.
        reference: Whether there was a reference policy.
    """
    tokens = sum(o.num_tokens for o in outcomes)
    by_name = zip(*(o.sums for o in outcomes), strict=True)
    sums = PolicySums(*(math.fsum(each) / tokens for each in by_name))
    bounded_N = mismatch_N.clamp(-losses.MAX_LOG_RATIO, losses.MAX_LOG_RATIO)
    seen = len(mismatch_N) > 0
    return UpdateStats(
        step=step,
        num_optimizer_steps=len(outcomes),
        # The quotient first: it is exactly 1 for a single optimizer step.
        loss=math.fsum(o.loss * (o.num_tokens / tokens) for o in outcomes),
        approx_kl=sums.approx_kl,
        clip_fraction=sums.clipped,
        entropy=sums.entropy,
        grad_norm=math.fsum(o.grad_norm for o in outcomes) / len(outcomes),
        num_tokens=tokens // epochs,
        mismatch=float(mismatch_N.abs().max()) if seen else None,
        mismatch_kl=float(losses.approx_kl(bounded_N).mean()) if seen else None,
        effective_share=losses.effective_share(bounded_N) if seen else None,
        learning_rate=outcomes[-1].learning_rate,
        kl_reference=sums.kl_reference if reference else None,
    )
