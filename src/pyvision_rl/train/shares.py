"""Which process computes which micro-batch of a step.

In: all micro-batches of an optimizer step, as one process would make them, and the number of
processes. Out: rounds, in each of which every process has one. What a micro-batch adds to the loss
does not depend on where it is computed, so neither does the loss.

Processes that share their weights must use the same parts of the network at the same time: within a
round either all micro-batches hold pictures or none does, and where too few are left, muted ones
take their place: a row without targets, whose loss and gradients are exactly zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pyvision_rl.train.batching import MicroBatch


def rounds(
    micro_batches: Sequence[MicroBatch], size: int, *, cut: bool = True
) -> list[list[MicroBatch]]:
    """Return rounds of ``size`` micro-batches each; those of a round are about as large.

    Args:
        micro_batches: At least one, none without rows.
        size: Number of processes.
        cut: Whether a micro-batch may be cut in two, so that fewer processes have nothing to do.
    """
    pieces = [*micro_batches]
    while cut and len(pieces) % size:
        largest = max(range(len(pieces)), key=lambda i: _weight(pieces[i]))
        if not _weight(pieces[largest]):
            break
        rows = range(len(pieces[largest].rows))
        middle = len(rows) // 2
        whole = pieces[largest]
        pieces[largest : largest + 1] = [take(whole, rows[:middle]), take(whole, rows[middle:])]
    found: list[list[MicroBatch]] = []
    for pictured in (True, False):
        alike = [piece for piece in pieces if bool(piece.images) is pictured]
        alike.sort(key=lambda piece: -piece.token_ids_BT.numel())
        alike += [muted(alike[-1])] * (-len(alike) % size) if alike else []
        found += [alike[start : start + size] for start in range(0, len(alike), size)]
    return found


def take(micro: MicroBatch, rows: Sequence[int]) -> MicroBatch:
    """Return some rows of a micro-batch, as wide as it is."""
    index = [*rows]
    place = {row: b for b, row in enumerate(index)}
    reference = micro.reference_logprobs_BT
    return MicroBatch(
        rows=tuple(micro.rows[row] for row in index),
        token_ids_BT=micro.token_ids_BT[index],
        positions_3BT=micro.positions_3BT[:, index],
        loss_mask_BT=micro.loss_mask_BT[index],
        old_logprobs_BT=micro.old_logprobs_BT[index],
        advantages_B=micro.advantages_B[index],
        weights_BT=micro.weights_BT[index],
        fresh_BT=micro.fresh_BT[index],
        images=tuple((place[row], at, media) for row, at, media in micro.images if row in place),
        reference_logprobs_BT=None if reference is None else reference[index],
    )


def muted(micro: MicroBatch) -> MicroBatch:
    """Return one row of a micro-batch, with a picture if there is any, and without targets."""
    row = micro.images[-1][0] if micro.images else len(micro.rows) - 1
    one = take(micro, [row])
    return replace(
        one,
        rows=(),
        loss_mask_BT=one.loss_mask_BT & False,
        fresh_BT=one.fresh_BT & False,
        old_logprobs_BT=one.old_logprobs_BT * 0,
        weights_BT=one.weights_BT * 0,
    )


def _weight(micro: MicroBatch) -> int:
    """Return the padded tokens of what can still be cut."""
    return micro.token_ids_BT.numel() if len(micro.rows) > 1 else 0
