"""From trajectories and SFT examples to padded micro-batches.

In: ``Scored`` trajectories (RL) or ``Example`` records (SFT), and the model that expands their
placeholders. Out: ``MicroBatch`` tensors on the model's device. Micro-batches only bound memory:
how samples are split between them changes no loss whose divisor is taken over all of them (see
``losses.aggregate``).

Axes: B rows of a micro-batch, T tokens with images expanded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from pyvision_rl.models.base import Expanded, VisionLanguageModel
from pyvision_rl.types import Media, Scored, Segment

_MIN_ROWS = 8
_MIN_FILL = 0.75
"""A micro-batch of at least ``_MIN_ROWS`` rows takes no row shorter than this share of its width:
below it, another forward pass costs less than the padding."""


@dataclass(frozen=True, slots=True)
class Example:
    """One SFT sequence: its sampled tokens are the targets."""

    segments: tuple[Segment, ...]
    weights: tuple[float, ...] = ()
    """Loss weight of each sampled token, in order; empty weighs all of them 1."""

    def __post_init__(self) -> None:
        sampled = sum(len(s.token_ids) for s in self.segments if s.sampled)
        if self.weights and len(self.weights) != sampled:
            raise ValueError(f"example has {len(self.weights)} weights, wants {sampled}")


Sample: TypeAlias = Scored | Example


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of one forward pass, padded on the right (causal attention never sees the padding)."""

    rows: tuple[int, ...]
    """[B] where each row stood in what was packed."""
    token_ids_BT: Tensor
    """int64; padding is an ordinary id that stands for no image."""
    positions_3BT: Tensor
    """int64, from ``VisionLanguageModel.expand``."""
    loss_mask_BT: Tensor
    """bool, True on targets: sampled tokens, except at position 0, which nothing predicts."""
    old_logprobs_BT: Tensor
    """float32 (nats), 0 outside targets; as sampled until the learner computes them again."""
    advantages_B: Tensor
    """float32; 0 for SFT examples."""
    weights_BT: Tensor
    """float32, 0 outside targets; 1 on those of a ``Scored`` until the learner weighs them."""
    fresh_BT: Tensor
    """bool, True on targets that the weights before this step sampled."""
    images: tuple[tuple[int, int, Media], ...]
    """(row in this micro-batch, index of the first pad, image)."""
    reference_logprobs_BT: Tensor | None = None
    """float32 (nats), 0 outside targets; None without a reference policy."""

    @property
    def num_targets(self) -> int:
        """Tokens that carry a loss."""
        return int(self.loss_mask_BT.sum())

    @property
    def targets_N(self) -> Tensor:
        """[N] ids of the targets, row by row."""
        return self.token_ids_BT[self.loss_mask_BT]


@dataclass(frozen=True, slots=True)
class _Row:
    index: int
    expanded: Expanded
    advantage: float
    weights_T: np.ndarray
    fresh: bool

    @property
    def length(self) -> int:
        return len(self.expanded.token_ids)


def pack(
    samples: Sequence[Sample], model: VisionLanguageModel, max_tokens: int, max_rows: int = 0
) -> list[MicroBatch]:
    """Return the samples as micro-batches, longest rows first.

    Args:
        samples: All trajectories or examples of one update.
        model: Expands placeholders and says where the tensors go.
        max_tokens: Padded tokens per micro-batch; a row longer than this gets one of its own.
        max_rows: Rows per micro-batch; 0 for any number.
    """
    rows = [_row(index, sample, model) for index, sample in enumerate(samples)]
    rows = [row for row in rows if row.length]
    # Longest first: if memory runs out, it does so at once. Ties keep their order, so that
    # rollouts of one task stay together and share the encoding of its images.
    rows.sort(key=lambda row: (-row.length, row.index))
    batches: list[list[_Row]] = []
    for row in rows:
        full = batches and max_rows and len(batches[-1]) == max_rows
        if full or not batches or not _fits(batches[-1], row, max_tokens):
            batches.append([])
        batches[-1].append(row)
    return [_tensors(batch, model) for batch in batches]


def _fits(batch: list[_Row], row: _Row, max_tokens: int) -> bool:
    width = batch[0].length
    if (len(batch) + 1) * width > max_tokens:
        return False
    return len(batch) < _MIN_ROWS or row.length >= _MIN_FILL * width


def _row(index: int, sample: Sample, model: VisionLanguageModel) -> _Row:
    if isinstance(sample, Scored):
        expanded = model.expand(sample.trajectory.segments)
        weights_T = expanded.sampled.astype(np.float32)
        return _Row(index, expanded, sample.advantage, weights_T, sample.fresh)
    expanded = model.expand(sample.segments)
    weights_T = expanded.sampled.astype(np.float32)
    if sample.weights:
        weights_T[expanded.sampled] = sample.weights
    return _Row(index, expanded, 0.0, weights_T, False)


def _tensors(rows: Sequence[_Row], model: VisionLanguageModel) -> MicroBatch:
    B, T = len(rows), max(row.length for row in rows)
    token_ids_BT = np.full((B, T), int(model.image_token_id == 0), np.int64)
    positions_3BT = np.zeros((3, B, T), np.int64)
    loss_mask_BT = np.zeros((B, T), bool)
    old_logprobs_BT = np.zeros((B, T), np.float32)
    weights_BT = np.zeros((B, T), np.float32)
    images: list[tuple[int, int, Media]] = []
    for b, row in enumerate(rows):
        expanded, n = row.expanded, row.length
        token_ids_BT[b, :n] = expanded.token_ids
        positions_3BT[:, b, :n] = expanded.positions
        loss_mask_BT[b, 1:n] = expanded.sampled[1:]
        old_logprobs_BT[b, 1:n] = expanded.logprobs[1:]
        weights_BT[b, 1:n] = row.weights_T[1:]
        images += [(b, offset, media) for offset, media in expanded.images]

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(model.device)

    return MicroBatch(
        rows=tuple(row.index for row in rows),
        token_ids_BT=tensor(token_ids_BT),
        positions_3BT=tensor(positions_3BT),
        loss_mask_BT=tensor(loss_mask_BT),
        old_logprobs_BT=tensor(old_logprobs_BT),
        advantages_B=tensor(np.array([row.advantage for row in rows], np.float32)),
        weights_BT=tensor(weights_BT),
        fresh_BT=tensor(loss_mask_BT & np.array([[row.fresh] for row in rows])),
        images=tuple(images),
    )
