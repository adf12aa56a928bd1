"""Micro-batches hold every sample once, its targets at the right places, within the token limit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_tiny, noise

from pyvision_rl.models.base import Expanded, VisionLanguageModel
from pyvision_rl.train.batching import Example, MicroBatch, pack
from pyvision_rl.types import EndReason, Scored, Segment, Trajectory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return make_tiny(tmp_path_factory.mktemp("model"))[0]


@dataclass
class TextOnly:
    """Expands segments that hold no image; enough to lay out a batch."""

    image_token_id: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def expand(self, segments: tuple[Segment, ...]) -> Expanded:
        ids = [t for s in segments for t in s.token_ids]
        sampled = [s.sampled for s in segments for _ in s.token_ids]
        logprobs = [p for s in segments for p in (s.logprobs or [0.0] * len(s.token_ids))]
        positions = np.tile(np.arange(len(ids)), (3, 1))
        return Expanded(
            tuple(ids), positions, np.array(sampled), np.array(logprobs, np.float32), (), len(ids)
        )


def told(*ids: int, **more: Any) -> Segment:
    return Segment(ids, False, **more)


def wrote(*ids: int) -> Segment:
    return Segment(ids, True, tuple(-0.1 * t for t in ids))


def scored(*segments: Segment, advantage: float = 1.0) -> Scored:
    return Scored(Trajectory("t", 0, segments, (), (), EndReason.ANSWERED), advantage)


def test_only_what_the_policy_wrote_in_each_of_three_turns_is_a_target(
    model: VisionLanguageModel,
) -> None:
    pad = model.image_token_id
    # A 56 px picture is 4 x 4 patches of 14 px, merged 2 x 2: four pads.
    first, shown = noise(1), noise(2)
    episode = scored(
        told(50, pad, 51, media=(first,)),
        wrote(60, 61),
        told(52, pad, 53, media=(shown,)),
        wrote(62),
        told(54),
        wrote(63, 64),
        advantage=-0.5,
    )
    (batch,) = pack([episode], model, 1000)
    ids = [50, *[pad] * 4, 51, 60, 61, 52, *[pad] * 4, 53, 62, 54, 63, 64]
    assert batch.token_ids_BT.tolist() == [ids]
    assert batch.loss_mask_BT.nonzero()[:, 1].tolist() == [6, 7, 14, 16, 17]
    assert batch.targets_N.tolist() == [60, 61, 62, 63, 64]
    assert batch.old_logprobs_BT[batch.loss_mask_BT].tolist() == pytest.approx(
        [-6.0, -6.1, -6.2, -6.3, -6.4]
    )
    assert (batch.old_logprobs_BT[~batch.loss_mask_BT] == 0).all()
    assert (batch.weights_BT == batch.loss_mask_BT.float()).all()
    assert batch.images == ((0, 1, first), (0, 9, shown))
    assert batch.advantages_B.tolist() == [-0.5]
    assert batch.num_targets == 5
    # Text counts on by one; an image takes one time step, and text goes on after its longer side:
    # 0 | 1..2 | 3, 4, 5, 6 | 7..8 | 9, 10, 11, 12, 13.
    assert batch.positions_3BT[0, 0].tolist() == [
        0,
        *[1] * 4,
        3,
        4,
        5,
        6,
        *[7] * 4,
        9,
        *range(10, 14),
    ]
    assert batch.positions_3BT[2, 0, 1:5].tolist() == [1, 2, 1, 2]


def test_the_first_token_is_never_a_target() -> None:
    (batch,) = pack([Example((wrote(5, 6), told(7)))], TextOnly(), 100)  # type: ignore[arg-type]
    assert batch.loss_mask_BT.tolist() == [[False, True, False]]
    assert batch.weights_BT.tolist() == [[0.0, 1.0, 0.0]]
    assert batch.old_logprobs_BT[0, 0] == 0


def test_weights_stand_on_the_sampled_tokens_in_order() -> None:
    example = Example((told(1, 2), wrote(3, 4), told(5), wrote(6)), (4.0, 1.0, 2.5))
    (batch,) = pack([example], TextOnly(), 100)  # type: ignore[arg-type]
    assert batch.weights_BT.tolist() == [[0.0, 0.0, 4.0, 1.0, 0.0, 2.5]]


def test_a_wrong_number_of_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="wants 2"):
        Example((told(1), wrote(2, 3)), (1.0,))


@pytest.mark.parametrize("image_token_id", [0, 5])
def test_padding_is_on_the_right_and_never_an_image_pad(image_token_id: int) -> None:
    samples = [Example((told(7), wrote(8))), Example((told(7, 7, 7), wrote(8)))]
    (batch,) = pack(samples, TextOnly(image_token_id), 100)  # type: ignore[arg-type]
    assert batch.rows == (1, 0)
    padding = batch.token_ids_BT[1, 2:].tolist()
    assert batch.token_ids_BT[1, :2].tolist() == [7, 8]
    assert image_token_id not in padding
    assert not batch.loss_mask_BT[1, 2:].any()


@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=40),
    max_tokens=st.integers(1, 200),
)
def test_every_sample_is_packed_once_within_the_limit(lengths: list[int], max_tokens: int) -> None:
    samples = [Example((told(*[9] * (n - 1)), wrote(100 + i))) for i, n in enumerate(lengths)]
    batches = pack(samples, TextOnly(), max_tokens)  # type: ignore[arg-type]
    assert sorted(row for b in batches for row in b.rows) == list(range(len(lengths)))
    for batch in batches:
        rows, width = batch.token_ids_BT.shape
        assert rows * width <= max_tokens or rows == 1
        assert width == lengths[batch.rows[0]]
        assert [int(t) for t in batch.targets_N] == [100 + row for row in batch.rows]


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=60))
def test_padding_wastes_at_most_a_third_beyond_the_first_rows(lengths: list[int]) -> None:
    samples = [Example((told(*[9] * n),)) for n in lengths]
    for batch in pack(samples, TextOnly(), 10**6):  # type: ignore[arg-type]
        real = sum(lengths[row] for row in batch.rows[8:])
        assert real >= 0.75 * batch.token_ids_BT.shape[1] * len(batch.rows[8:])


def test_a_batch_lies_on_the_models_device_in_its_own_types(model: VisionLanguageModel) -> None:
    (batch,) = pack([scored(told(50), wrote(60))], model, 100)
    kinds = {
        "token_ids_BT": torch.int64,
        "positions_3BT": torch.int64,
        "loss_mask_BT": torch.bool,
        "old_logprobs_BT": torch.float32,
        "advantages_B": torch.float32,
        "weights_BT": torch.float32,
    }
    for name, dtype in kinds.items():
        tensor = getattr(batch, name)
        assert tensor.dtype == dtype
        assert tensor.device == model.device


def test_nothing_packs_to_nothing() -> None:
    empty: list[MicroBatch] = pack([], TextOnly(), 10)  # type: ignore[arg-type]
    assert empty == []
    assert pack([Example(())], TextOnly(), 10) == []  # type: ignore[arg-type]


def test_rows_per_micro_batch_can_be_bounded(model: VisionLanguageModel) -> None:
    samples = [scored(told(50), wrote(*range(60, 60 + n))) for n in (3, 9, 5, 7, 4)]
    packed = pack(samples, model, 10_000, 2)
    assert [batch.rows for batch in packed] == [(1, 3), (2, 4), (0,)]
    assert [batch.rows for batch in pack(samples, model, 10_000)] == [(1, 3, 2, 4, 0)]
