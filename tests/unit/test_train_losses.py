"""The objectives equal numbers worked by hand, and a split batch has the whole batch's loss."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pyvision_rl.train import losses
from pyvision_rl.train.losses import Normalizer

KINDS = ("token_mean", "sequence_mean", "constant")


def ratios(*rows: list[float]) -> Tensor:
    """Log ratios of the given ratios."""
    return torch.tensor(rows).log()


def test_surrogate_takes_the_worse_of_the_plain_and_the_clipped_term() -> None:
    # low 0.2, high 0.3; the losses negate these:
    # A = +2: r = 1.5: min(3.0, 1.3 * 2) = 2.6.    r = 0.5: min(1.0, 0.8 * 2) = 1.0.
    # A = -2: r = 1.5: min(-3.0, -2.6) = -3.0.     r = 0.5: min(-1.0, -1.6) = -1.6.
    loss_BT = losses.clipped_surrogate(
        ratios([1.5, 0.5, 1.1], [1.5, 0.5, 1.1]),
        torch.tensor([2.0, -2.0]),
        clip_low=0.2,
        clip_high=0.3,
    )
    assert loss_BT.tolist() == [
        pytest.approx([-2.6, -1.0, -2.2], rel=1e-6),
        pytest.approx([3.0, 1.6, 2.2], rel=1e-6),
    ]


def test_no_gradient_flows_where_the_clipped_term_is_taken() -> None:
    log_ratio_BT = ratios([1.5, 0.5, 1.1], [1.5, 0.5, 1.1]).requires_grad_()
    advantages_B = torch.tensor([2.0, -2.0])
    bounds = {"clip_low": 0.2, "clip_high": 0.3}
    losses.clipped_surrogate(log_ratio_BT, advantages_B, **bounds).sum().backward()
    # d(-r A)/d(log r) = -r A; only (A > 0, r = 1.5) and (A < 0, r = 0.5) are clipped.
    want = [[0.0, -1.0, -2.2], [3.0, 0.0, 2.2]]
    assert log_ratio_BT.grad is not None
    assert torch.allclose(log_ratio_BT.grad, torch.tensor(want))
    clipped_BT = losses.is_clipped(log_ratio_BT, advantages_B, **bounds)
    assert clipped_BT.tolist() == [[True, False, False], [False, True, False]]


def test_dual_clip_bounds_the_loss_of_a_negative_advantage_only() -> None:
    # low 0.2, high 0.3, dual 3; ratios below, inside, above, and beyond every bound.
    # A = +2: -min(2 r, 2 clip(r)) = -0.4, -2.2, -2.6, -2.6: as without dual clip.
    # A = -2: max(2 r, 2 clip(r)) = 1.6, 2.2, 3.0, 10.0; the last is bounded to 3 * 2 = 6.
    log_ratio_BT = ratios([0.2, 1.1, 1.5, 5.0], [0.2, 1.1, 1.5, 5.0]).requires_grad_()
    advantages_B = torch.tensor([2.0, -2.0])
    bounds = {"clip_low": 0.2, "clip_high": 0.3, "dual_clip": 3.0}
    loss_BT = losses.clipped_surrogate(log_ratio_BT, advantages_B, **bounds)
    assert loss_BT.tolist() == [
        pytest.approx([-0.4, -2.2, -2.6, -2.6], rel=1e-6),
        pytest.approx([1.6, 2.2, 3.0, 6.0], rel=1e-6),
    ]
    loss_BT.sum().backward()
    # -r A where no bound is taken, else 0.
    assert log_ratio_BT.grad is not None
    want = torch.tensor([[-0.4, -2.2, 0.0, 0.0], [0.0, 2.2, 3.0, 0.0]])
    assert torch.allclose(log_ratio_BT.grad, want)
    clipped_BT = losses.is_clipped(log_ratio_BT, advantages_B, **bounds)
    assert clipped_BT.tolist() == [[False, False, True, True], [True, False, False, True]]


def test_importance_weights_are_cut_at_the_cap_and_carry_no_gradient() -> None:
    log_ratio_BT = ratios([0.5, 1.0, 1.9, 2.1, 7.0]).requires_grad_()
    weights_BT = losses.importance_weights(log_ratio_BT, 2.0)
    assert weights_BT[0].tolist() == pytest.approx([0.5, 1.0, 1.9, 2.0, 2.0])
    assert not weights_BT.requires_grad


def test_effective_share_is_one_for_equal_weights_and_small_where_one_outweighs() -> None:
    # Weights 3, 1, 1, 1: (6)^2 / (4 * 12) = 0.75.
    assert losses.effective_share(ratios([3.0, 1.0, 1.0, 1.0])[0]) == pytest.approx(0.75)
    assert losses.effective_share(ratios([1.7, 1.7, 1.7])[0]) == pytest.approx(1.0)
    assert losses.effective_share(ratios([1e6, 1.0, 1.0, 1.0])[0]) == pytest.approx(0.25, rel=1e-4)


def test_a_mean_of_micro_batches_weighs_them_alike() -> None:
    # Micro-batches of losses 1, 2, 3 and 4 (9 is masked): (2 + 4) / 2 = 3; the token mean is 2.5.
    kind = Normalizer("micro_batch_mean", num_rows=2, num_tokens=4, num_micro_batches=2)
    three = losses.aggregate(torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3).bool(), kind)
    one = losses.aggregate(torch.tensor([[4.0, 9.0]]), torch.tensor([[True, False]]), kind)
    assert float(three + one) == pytest.approx(3.0)
    nothing = losses.aggregate(torch.tensor([[9.0]]), torch.tensor([[False]]), kind)
    assert float(nothing) == 0.0


def test_a_ratio_beyond_floating_point_leaves_loss_and_gradient_finite() -> None:
    logprobs_BT = torch.tensor([[-0.1], [-0.1], [-200.0]], requires_grad=True)
    old_BT = torch.tensor([[-200.0], [-200.0], [-0.1]])
    log_ratio_BT = losses.log_ratio(logprobs_BT, old_BT)
    loss_BT = losses.clipped_surrogate(
        log_ratio_BT, torch.tensor([1.0, -1.0, 1.0]), clip_low=0.2, clip_high=0.2
    )
    loss_BT.sum().backward()
    assert logprobs_BT.grad is not None
    assert loss_BT.isfinite().all()
    assert logprobs_BT.grad.isfinite().all()


def test_each_normalizer_divides_as_its_paper_says() -> None:
    # Rows with 1 and 3 targets, losses 4 | 1, 2, 3 (the 9s are masked): token mean 10 / 4,
    # mean of row means (4 + 2) / 2, constant 10 / (2 rows * 8).
    loss_BT = torch.tensor([[9.0, 4.0, 9.0, 9.0], [9.0, 1.0, 2.0, 3.0]])
    mask_BT = torch.tensor([[False, True, False, False], [False, True, True, True]])
    got = {
        kind: float(losses.aggregate(loss_BT, mask_BT, Normalizer(kind, 2, 4, 8.0)))
        for kind in KINDS
    }
    assert got == pytest.approx({"token_mean": 2.5, "sequence_mean": 3.0, "constant": 0.625})


@given(
    lengths=st.lists(st.integers(0, 5), min_size=2, max_size=6),
    cut=st.integers(1, 5),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 99),
)
def test_shares_of_micro_batches_add_up_to_the_whole_loss(
    lengths: list[int], cut: int, kind: str, seed: int
) -> None:
    loss_BT = torch.randn(len(lengths), 5, generator=torch.Generator().manual_seed(seed))
    mask_BT = torch.arange(5)[None] < torch.tensor(lengths)[:, None]
    normalizer = Normalizer(kind, len(lengths), max(1, sum(lengths)), 7.0)  # type: ignore[arg-type]
    whole = losses.aggregate(loss_BT, mask_BT, normalizer)
    parts = [
        losses.aggregate(loss_BT[rows], mask_BT[rows], normalizer)
        for rows in (slice(0, cut), slice(cut, None))
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), abs=1e-6)


def test_what_lies_outside_the_mask_never_reaches_the_loss() -> None:
    loss_BT = torch.tensor([[math.nan, 2.0, math.inf]])
    mask_BT = torch.tensor([[False, True, False]])
    for kind in (*KINDS, "micro_batch_mean"):
        normalizer = Normalizer(kind, 1, 1)  # type: ignore[arg-type]
        assert losses.aggregate(loss_BT, mask_BT, normalizer).isfinite()


def test_approx_kl_is_zero_without_change_and_positive_either_way() -> None:
    # Ratio 1.5: 0.5 - ln 1.5 = 0.0945349; ratio 0.5: -0.5 - ln 0.5 = 0.1931472.
    got = losses.approx_kl(ratios([1.0, 1.5, 0.5]))
    assert got[0].tolist() == pytest.approx([0.0, 0.0945349, 0.1931472], abs=1e-6)


def test_approx_kl_has_the_kl_divergence_as_its_mean_under_the_old_policy() -> None:
    old, new = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    mean = (old * losses.approx_kl((new / old).log())).sum()
    assert float(mean) == pytest.approx(float((old * (old / new).log()).sum()), abs=1e-6)


def test_entropy_counts_possible_ids_only() -> None:
    logits_NV = torch.tensor([[0.0, 0.0, 0.0, -math.inf], [5.0, -math.inf, -math.inf, -math.inf]])
    assert losses.entropy(logits_NV).tolist() == pytest.approx([math.log(3), 0.0], abs=1e-6)


def test_target_logprobs_are_log_softmax_at_the_target() -> None:
    # Probabilities 1/4, 3/4 and 1/2, 1/2 with the third id banned.
    logits_NV = torch.tensor([[0.0, math.log(3), -math.inf], [2.0, 2.0, -math.inf]])
    got = losses.target_logprobs(logits_NV, torch.tensor([1, 0]))
    assert got.tolist() == pytest.approx([math.log(0.75), math.log(0.5)], abs=1e-6)


def test_cross_entropy_is_the_weighted_mean_over_the_whole_batch() -> None:
    # (4 * 1.0 + 1 * 2.0 + 1 * 3.0) / 6 = 1.5, in two micro-batches.
    first = losses.weighted_cross_entropy(
        torch.tensor([[0.0, -1.0, -2.0]]), torch.tensor([[0.0, 4.0, 1.0]]), 6.0
    )
    second = losses.weighted_cross_entropy(torch.tensor([[-3.0]]), torch.tensor([[1.0]]), 6.0)
    assert float(first + second) == pytest.approx(1.5)
