"""Log-probabilities of targets, as training computes them.

In: a model and a micro-batch. Out: log-probabilities and entropies at the sampling temperature,
with gradients where they are switched on. Used for the policy that is trained and for a frozen one.
Knows no objective.

Axes: B rows, T tokens, N targets in row order, n targets of a chunk, H width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.train import losses
from pyvision_rl.train.batching import MicroBatch


def score(
    model: VisionLanguageModel, micro: MicroBatch, temperature: float, max_scores: int
) -> tuple[Tensor, Tensor]:
    """Return log-probabilities [B, T] (0 outside targets) and entropies [N] of the targets.

    Args:
        model: Its mode and its gradients are the caller's affair.
        micro: From ``batching.pack``.
        temperature: Divides the logits.
        max_scores: Vocabulary scores held at a time; more targets go in chunks, each computed
            again in the backward pass.
    """
    embedded = model.embed(micro.token_ids_BT, micro.images)
    hidden_BTH = model.hidden(embedded, micro.positions_3BT)
    # Only the positions before a target are projected to the vocabulary, which for a large model
    # costs more memory than everything else together.
    hidden_NH = hidden_BTH[:, :-1][micro.loss_mask_BT[:, 1:]]

    def chunk(hidden_nH: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
        logits_nV = model.logits(hidden_nH) / temperature
        return losses.target_logprobs(logits_nV, targets_n), losses.entropy(logits_nV.detach())

    module: Any = model.module
    size = max(1, max_scores // int(module.get_output_embeddings().weight.shape[0]))
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
