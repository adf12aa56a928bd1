"""Value and gradient of the objective are those of plain loops, whatever the options."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyvision_rl.config import TrainConfig
from pyvision_rl.train import losses
from pyvision_rl.train.batching import MicroBatch
from pyvision_rl.train.losses import Normalizer
from pyvision_rl.train.objective import diagnose, token_losses

LOW, HIGH = 0.2, 0.28
RATIOS = (0.05, 0.5, 0.79, 0.81, 0.97, 1.0, 1.1, 1.27, 1.29, 1.6, 2.9, 3.1, 8.0)
"""Beside every bound (0.8, 1.28, 3), none on one: there the derivative is a matter of taste."""


@dataclass(frozen=True)
class Token:
    """One position: whether it is a target, and its log-probabilities."""

    target: bool
    new: float
    ratio: float
    """New to old probability."""
    drift: float
    """Probability of the learner before the first step to the sampler's."""
    apart: float
    """Log-probability of the reference - new."""


@dataclass(frozen=True)
class Row:
    advantage: float
    tokens: tuple[Token, ...]


def slow(
    micros: list[list[Row]], config: TrainConfig
) -> tuple[float, list[list[list[float]]], float]:
    """Return the loss, its derivative by each new log-probability, and the clipped tokens."""
    rows = [row for micro in micros for row in micro]
    all_tokens = sum(t.target for row in rows for t in row.tokens)
    total, slopes, clipped = 0.0, [], 0.0
    for micro in micros:
        micro_tokens = sum(t.target for row in micro for t in row.tokens)
        slopes.append([])
        for row in micro:
            row_tokens = sum(t.target for t in row.tokens)
            slopes[-1].append([])
            for token in row.tokens:
                if not token.target:
                    slopes[-1][-1].append(0.0)
                    continue
                share = {
                    "token_mean": 1 / all_tokens,
                    "sequence_mean": 1 / row_tokens / len(rows),
                    "constant": 1 / config.constant_tokens / len(rows),
                    "micro_batch_mean": 1
                    / micro_tokens
                    / sum(any(t.target for r in m for t in r.tokens) for m in micros),
                }[config.loss_norm]
                value, slope = slow_token(token, row.advantage, config)
                total += share * value
                slopes[-1][-1].append(share * slope)
                clipped += slow_clipped(token.ratio, row.advantage, config)
    return total, slopes, clipped


def slow_clipped(ratio: float, advantage: float, config: TrainConfig) -> bool:
    if advantage > 0:
        return ratio > 1 + HIGH
    above = config.dual_clip > 0 and ratio > config.dual_clip
    return advantage < 0 and (ratio < 1 - LOW or above)


def slow_token(token: Token, advantage: float, config: TrainConfig) -> tuple[float, float]:
    """The papers' case distinctions instead of minima: a bound's value has no slope."""
    ratio = token.ratio
    if not slow_clipped(ratio, advantage, config):
        value, slope = -ratio * advantage, -ratio * advantage
    elif advantage > 0:
        value, slope = -(1 + HIGH) * advantage, 0.0
    elif ratio < 1 - LOW:
        value, slope = -(1 - LOW) * advantage, 0.0
    else:
        value, slope = -config.dual_clip * advantage, 0.0
    if config.tis_cap:
        weight = min(token.drift, config.tis_cap)
        value, slope = weight * value, weight * slope
    if config.kl_coefficient:
        value += config.kl_coefficient * (math.exp(token.apart) - 1 - token.apart)
        slope += config.kl_coefficient * (1 - math.exp(token.apart))
    return value, slope


def tensors(rows: list[Row], config: TrainConfig) -> tuple[torch.Tensor, MicroBatch]:
    """The same in float64, padded; what is no target holds traps instead of zeros."""
    width = max(len(row.tokens) for row in rows)
    trap = Token(False, -3.0, 1e9, 1e9, 40.0)
    full = [[*row.tokens, *[trap] * (width - len(row.tokens))] for row in rows]

    def table(value: Any) -> torch.Tensor:
        return torch.tensor([[value(t) for t in row] for row in full], dtype=torch.float64)

    new_BT = table(lambda t: t.new)
    weights_BT = table(lambda t: float(t.target))
    if config.tis_cap:
        drift_BT = table(lambda t: math.log(t.drift))
        weights_BT = weights_BT * losses.importance_weights(drift_BT, config.tis_cap)
    empty_BT = torch.zeros(new_BT.shape, dtype=torch.int64)
    micro = MicroBatch(
        rows=tuple(range(len(rows))),
        token_ids_BT=empty_BT,
        positions_3BT=empty_BT.expand(3, *empty_BT.shape),
        loss_mask_BT=table(lambda t: t.target).bool(),
        old_logprobs_BT=table(lambda t: t.new - math.log(t.ratio)),
        advantages_B=torch.tensor([row.advantage for row in rows], dtype=torch.float64),
        weights_BT=weights_BT,
        fresh_BT=table(lambda t: t.target).bool(),
        images=(),
        reference_logprobs_BT=table(lambda t: t.new + t.apart) if config.kl_coefficient else None,
    )
    return new_BT.requires_grad_(), micro


tokens = st.builds(
    Token,
    target=st.booleans(),
    new=st.floats(-9.0, -0.01),
    ratio=st.sampled_from(RATIOS),
    drift=st.sampled_from((0.1, 0.9, 1.0, 1.7, 30.0)),
    apart=st.floats(-3.0, 3.0),
)
written = st.builds(
    Row,
    advantage=st.sampled_from((-1.3, -0.5, 0.0, 0.5, 2.0)),
    tokens=st.lists(tokens, min_size=1, max_size=5).map(tuple),
)
WORST = Token(True, -1.0, 8.0, 30.0, 1.0)


@settings(deadline=None)  # a busy machine makes single examples slow, not wrong
@given(
    micros=st.lists(st.lists(written, min_size=1, max_size=3), min_size=1, max_size=3),
    norm=st.sampled_from(("token_mean", "sequence_mean", "constant", "micro_batch_mean")),
    dual_clip=st.sampled_from((0.0, 3.0)),
    tis_cap=st.sampled_from((0.0, 1.5)),
    kl=st.sampled_from((0.0, 0.1)),
)
@example([[Row(-1.0, (WORST,))], [Row(1.0, (WORST, WORST))]], "micro_batch_mean", 3.0, 1.5, 0.1)
def test_value_and_gradient_are_those_of_plain_loops(
    micros: list[list[Row]], norm: str, dual_clip: float, tis_cap: float, kl: float
) -> None:
    config = TrainConfig(
        loss_norm=norm,  # type: ignore[arg-type]
        constant_tokens=7.0,
        clip_low=LOW,
        clip_high=HIGH,
        dual_clip=dual_clip,
        old_logprobs="learner" if tis_cap else "sampler",
        tis_cap=tis_cap,
        kl_coefficient=kl,
    )
    made = [tensors(rows, config) for rows in micros]
    targets = [micro.num_targets for _, micro in made]
    if not sum(targets):
        return
    normalizer = Normalizer(
        config.loss_norm,
        num_rows=sum(map(len, micros)),
        num_tokens=sum(targets),
        constant_tokens=config.constant_tokens,
        num_micro_batches=sum(n > 0 for n in targets),
    )
    loss: Any = 0.0
    clipped = 0.0
    for new_BT, micro in made:
        loss_BT = token_losses(new_BT, micro, config)
        loss = loss + losses.aggregate(loss_BT, micro.loss_mask_BT, normalizer)
        entropy_N = torch.zeros(micro.num_targets)
        clipped += diagnose(new_BT, entropy_N, micro, config)[0].clipped
    loss.backward()
    value, slopes, num_clipped = slow(micros, config)
    assert float(loss.detach()) == pytest.approx(value, rel=1e-9, abs=1e-12)
    assert clipped == num_clipped
    for (new_BT, _), rows in zip(made, slopes, strict=True):
        assert new_BT.grad is not None
        for found, want in zip(new_BT.grad.tolist(), rows, strict=True):
            padded = [*want, *[0.0] * (len(found) - len(want))]
            assert found == pytest.approx(padded, rel=1e-9, abs=1e-12)


def test_the_slopes_of_the_loops_are_those_of_finite_differences() -> None:
    # The loops state derivatives by cases; here they are measured: a step of 1e-6 moves the new
    # log-probability, hence the ratio and the distance from the reference, and nothing else.
    config = TrainConfig(
        clip_low=LOW, clip_high=HIGH, dual_clip=3.0, kl_coefficient=0.1, old_logprobs="learner"
    )
    step = 1e-6
    for advantage in (-1.3, 2.0):
        for ratio in RATIOS:
            values = []
            for move in (step, -step):
                moved = Token(True, -1.0 + move, ratio * math.exp(move), 1.0, 0.4 - move)
                values.append(slow_token(moved, advantage, config)[0])
            slope = slow_token(Token(True, -1.0, ratio, 1.0, 0.4), advantage, config)[1]
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, abs=1e-6)
