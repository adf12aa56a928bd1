"""The objectives, as pure functions of tensors.

In: log-probabilities, masks, advantages. Out: losses and diagnostics. No model, no optimizer, no
reduction over anything but the tensors given: divisors that speak for the whole batch are passed
in, so that splitting a batch into micro-batches cannot change its loss.

Axes: B rows, T tokens, N targets of a micro-batch in row order, V vocabulary. Units: nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Beyond it exp() overflows, and a clipped token would get the gradient 0 * inf = nan."""


@dataclass(frozen=True, slots=True)
class Normalizer:
    """What a sum of token losses is divided by; counted over all that one optimizer step uses."""

    kind: Literal["token_mean", "sequence_mean", "constant", "micro_batch_mean"]
    num_rows: int
    """Trajectories."""
    num_tokens: int
    """Targets."""
    constant_tokens: float = 1.0
    num_micro_batches: int = 1
    """Those that hold a target."""


def target_logprobs(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Return [N] log-probabilities of the targets."""
    logprobs_NV = torch.log_softmax(logits_NV, dim=-1)
    return logprobs_NV.gather(-1, targets_N[:, None])[:, 0]


def entropy(logits_NV: Tensor) -> Tensor:
    """Return [N] entropies; ids at -inf count as impossible."""
    logprobs_NV = torch.log_softmax(logits_NV, dim=-1)
    # 0 * -inf is nan: an impossible id must add nothing instead.
    return -(logprobs_NV.exp() * logprobs_NV.masked_fill(logprobs_NV.isneginf(), 0.0)).sum(-1)


def log_ratio(logprobs_BT: Tensor, old_logprobs_BT: Tensor) -> Tensor:
    """Return [B, T] log(new / old), bounded so that its exponential is finite."""
    return (logprobs_BT - old_logprobs_BT).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def clipped_surrogate(
    log_ratio_BT: Tensor,
    advantages_B: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float = 0.0,
) -> Tensor:
    """Return [B, T] token losses -min(r A, clip(r, 1 - low, 1 + high) A).

    PPO's surrogate (arXiv 1707.06347, eq. 7) with one advantage per trajectory as in GRPO (arXiv
    2402.03300); separate low and high bounds as in DAPO (arXiv 2503.14476, eq. 10).

    Args:
        log_ratio_BT: Of the new to the old probability.
        advantages_B: One per row.
        clip_low: How far the ratio may fall below 1.
        clip_high: How far it may rise above 1.
        dual_clip: Where A < 0, no loss is above -dual_clip A (arXiv 1912.09729, eq. 5); 0 bounds
            nothing.
    """
    ratio_BT = log_ratio_BT.exp()
    advantages_B1 = advantages_B[:, None]
    clipped_BT = ratio_BT.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss_BT = -torch.minimum(ratio_BT * advantages_B1, clipped_BT * advantages_B1)
    if dual_clip:
        bounded_BT = torch.minimum(loss_BT, -dual_clip * advantages_B1)
        loss_BT = torch.where(advantages_B1 < 0, bounded_BT, loss_BT)
    return loss_BT


def aggregate(loss_BT: Tensor, loss_mask_BT: Tensor, normalizer: Normalizer) -> Tensor:
    """Return these rows' share of the whole loss; shares of micro-batches add up to it.

    ``token_mean`` divides by all targets (DAPO, eq. 10); ``sequence_mean`` averages each trajectory
    first (GRPO, arXiv 2402.03300, eq. 3); ``constant`` divides by a number of tokens per trajectory
    that no trajectory can change (Dr. GRPO, arXiv 2503.20783, section 3.2). ``micro_batch_mean``
    averages these rows' targets, then micro-batches alike (the reference): a token weighs more
    where fewer share its micro-batch.
    """
    masked_BT = torch.where(loss_mask_BT, loss_BT, 0.0)
    if normalizer.kind == "token_mean":
        return masked_BT.sum() / normalizer.num_tokens
    if normalizer.kind == "micro_batch_mean":
        return masked_BT.sum() / loss_mask_BT.sum().clamp(min=1) / normalizer.num_micro_batches
    if normalizer.kind == "sequence_mean":
        length_B = loss_mask_BT.sum(-1).clamp(min=1)
        return (masked_BT.sum(-1) / length_B).sum() / normalizer.num_rows
    return masked_BT.sum() / (normalizer.num_rows * normalizer.constant_tokens)


def approx_kl(log_ratio_BT: Tensor) -> Tensor:
    """Return [B, T] ratio - 1 - log ratio.

    Under tokens sampled from the old policy its mean is KL(old || new), and it is never negative
    (the "k3" estimator of J. Schulman's note on approximating KL).
    """
    return log_ratio_BT.exp() - 1.0 - log_ratio_BT


def effective_share(log_ratio_N: Tensor) -> float:
    """Return the effective sample size of the weights exp(log ratio), as a share of N.

    (sum w)^2 / (N sum w^2): 1 where all weights are equal, 1 / N where one outweighs the rest.
    """
    weights_N = log_ratio_N.double().exp()
    return float(weights_N.sum().square() / weights_N.square().sum() / len(weights_N))


def importance_weights(log_ratio_BT: Tensor, cap: float) -> Tensor:
    """Return [B, T] min(exp(log ratio), cap), without gradient.

    Truncated importance sampling (E. L. Ionides, 2008), per token: what a sampler wrote, weighed
    as if a learner that computes other probabilities from the same weights had written it.
    """
    return log_ratio_BT.detach().exp().clamp(max=cap)


def is_clipped(
    log_ratio_BT: Tensor,
    advantages_B: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float = 0.0,
) -> Tensor:
    """Return [B, T] True where a bound is the token's loss, so that no gradient flows."""
    ratio_BT = log_ratio_BT.exp()
    above_BT = (ratio_BT > 1.0 + clip_high) & (advantages_B[:, None] > 0)
    outside_BT = ratio_BT < 1.0 - clip_low
    if dual_clip:
        outside_BT = outside_BT | (ratio_BT > dual_clip)
    return above_BT | (outside_BT & (advantages_B[:, None] < 0))


def weighted_cross_entropy(logprobs_BT: Tensor, weights_BT: Tensor, total_weight: float) -> Tensor:
    """Return these rows' share of sum(weight * -logprob) / sum(weight).

    Args:
        logprobs_BT: Of the targets; anything finite elsewhere.
        weights_BT: 0 outside targets.
        total_weight: Sum of the weights of the whole batch.
    """
    return -(weights_BT * logprobs_BT).sum() / total_weight
