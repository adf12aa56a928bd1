"""One step is one exact gradient of the stated objective, or no step at all."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from pyvision_rl.config import TrainConfig
from pyvision_rl.errors import ConfigError, TrainError
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.train.batching import Example, MicroBatch
from pyvision_rl.train.learner import Learner
from pyvision_rl.types import Batch, EndReason, Scored, Segment, Trajectory
from tests.sampled import batch_of, clone, episode
from tests.tiny_models import FAMILIES, make_tiny

NORMS = ("token_mean", "sequence_mean", "constant")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VisionLanguageModel]:
    return {f: make_tiny(tmp_path_factory.mktemp(f), f)[0] for f in FAMILIES}


@pytest.fixture
def model(models: dict[str, VisionLanguageModel]) -> VisionLanguageModel:
    """A model of its own for each test: learners change weights."""
    return clone(models["qwen2_5_vl"])


def gradients(model: VisionLanguageModel, config: TrainConfig, batch: Batch) -> dict[str, Any]:
    """Parameter name -> gradient of one update, read before the optimizer moves."""
    model = clone(model)
    caught: dict[str, Any] = {}
    learner = Learner(model, config)
    learner.optimizers.step = lambda: caught.update(  # type: ignore[method-assign]
        {n: p.grad.clone() for n, p in model.module.named_parameters() if p.grad is not None}
    )
    learner.update(batch, 1.0)
    return caught


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_do_not_depend_on_the_micro_batches(
    models: dict[str, VisionLanguageModel], family: str, norm: str
) -> None:
    batch = batch_of(models[family])
    config = TrainConfig(loss_norm=norm, constant_tokens=9.0, grad_clip=1e9)  # type: ignore[arg-type]
    one, many = (
        gradients(models[family], config.model_copy(update={"micro_batch_tokens": n}), batch)
        for n in (10_000, 1)
    )
    assert one.keys() == many.keys()
    for name, grad in one.items():
        assert float((many[name] - grad).norm()) <= 1e-5 * float(grad.norm()), name


def reference(
    model: VisionLanguageModel, batch: Batch, config: TrainConfig, temperature: float
) -> tuple[torch.Tensor, dict[str, float]]:
    """The objective token by token, one unpadded trajectory at a time, straight from the papers."""
    total: Any = 0.0
    seen: list[tuple[float, float, float]] = []
    clipped = 0
    tokens = sum(s.trajectory.num_sampled_tokens for s in batch.samples)
    for sample in batch.samples:
        full = model.expand(sample.trajectory.segments)
        ids = torch.tensor([full.token_ids])
        embedded = model.embed(ids, [(0, offset, media) for offset, media in full.images])
        hidden = model.hidden(embedded, torch.from_numpy(full.positions)[:, None])
        row: Any = 0.0
        count = 0
        for t in range(1, len(full.token_ids)):
            if not full.sampled[t]:
                continue
            logits = model.logits(hidden[0, t - 1]).double() / temperature
            new = logits[full.token_ids[t]] - torch.logsumexp(logits, 0)
            p = torch.softmax(logits, 0).detach()
            old = float(full.logprobs[t])
            ratio = torch.exp(new - old)
            low, high = 1 - config.clip_low, 1 + config.clip_high
            value = float(ratio.detach())
            bounded = min(max(value, low), high)
            if value * sample.advantage <= bounded * sample.advantage:
                row = row - ratio * sample.advantage
            else:
                row = row - bounded * sample.advantage
                clipped += 1
            count += 1
            entropy = -float(sum(x * math.log(x) for x in p.tolist() if x > 0))
            k3 = value - 1 - math.log(value)
            seen.append((k3, entropy, abs(float(new.detach()) - old)))
        if config.loss_norm == "token_mean":
            total = total + row / tokens
        elif config.loss_norm == "sequence_mean":
            total = total + row / count / len(batch.samples)
        else:
            total = total + row / config.constant_tokens / len(batch.samples)
    return total, {
        "loss": float(total.detach()),
        "approx_kl": math.fsum(k for k, _, _ in seen) / tokens,
        "clip_fraction": clipped / tokens,
        "entropy": math.fsum(e for _, e, _ in seen) / tokens,
        "mismatch": max(m for _, _, m in seen),
        "num_tokens": tokens,
    }


@pytest.mark.parametrize("norm", NORMS)
def test_an_update_follows_a_slow_reference_written_token_by_token(
    model: VisionLanguageModel, norm: str
) -> None:
    config = TrainConfig(
        loss_norm=norm,  # type: ignore[arg-type]
        constant_tokens=5.0,
        clip_low=0.2,
        clip_high=0.28,
        grad_clip=1e9,
        micro_batch_tokens=40,
    )
    batch = batch_of(model)
    loss, want = reference(model, batch, config, 1.0)
    loss.backward()
    norm_of_all = math.sqrt(
        sum(float(p.grad.square().sum()) for p in model.module.parameters() if p.grad is not None)
    )
    expected = {n: p.grad.clone() for n, p in model.module.named_parameters() if p.grad is not None}
    model.module.zero_grad()
    got = gradients(model, config, batch)
    assert got.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(got[name], grad, rtol=1e-3, atol=1e-5 * float(grad.abs().max()))
    stats = Learner(model, config).update(batch, 1.0)
    assert 0 < want["clip_fraction"] < 1
    assert {k: getattr(stats, k) for k in want} == pytest.approx(want, rel=1e-4, abs=1e-6)
    assert stats.grad_norm == pytest.approx(norm_of_all, rel=1e-4)
    assert stats.step == 1


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_samples_of_the_same_weights_and_temperature_do_not_mismatch(
    model: VisionLanguageModel, temperature: float
) -> None:
    batch = batch_of(model, temperature, drift=0.0)
    config = TrainConfig(micro_batch_tokens=40)
    stats = Learner(clone(model), config).update(batch, temperature)
    assert stats.mismatch < 1e-4
    assert stats.approx_kl == pytest.approx(0.0, abs=1e-6)
    assert stats.clip_fraction == 0.0
    other = Learner(clone(model), config).update(batch, temperature * 1.5)
    assert other.mismatch > 0.1


def test_given_tokens_after_the_last_turn_change_nothing(model: VisionLanguageModel) -> None:
    batch = batch_of(model)
    tail = Segment((60, 61, 62), sampled=False)
    longer = Batch(
        tuple(
            Scored(replace(s.trajectory, segments=(*s.trajectory.segments, tail)), s.advantage)
            for s in batch.samples
        )
    )
    config = TrainConfig()
    plain, padded = (Learner(clone(model), config).update(b, 1.0) for b in (batch, longer))
    assert padded.loss == pytest.approx(plain.loss, rel=1e-5)
    assert padded.num_tokens == plain.num_tokens


def test_credit_raises_what_was_rewarded_and_lowers_what_was_not(
    model: VisionLanguageModel,
) -> None:
    batch = batch_of(model, drift=0.0)
    learner = Learner(model, TrainConfig(learning_rate=1e-3))
    trajectories = [s.trajectory for s in batch.samples]
    before = [sum(p) for p in learner.logprobs(trajectories)]
    learner.update(batch, 1.0)
    after = [sum(p) for p in learner.logprobs(trajectories)]
    gained = sum(
        s.advantage * (b - a) for s, a, b in zip(batch.samples, before, after, strict=True)
    )
    assert gained > 0


def test_logprobs_come_in_the_order_of_the_trajectories(model: VisionLanguageModel) -> None:
    trajectories = [s.trajectory for s in batch_of(model).samples]
    together = Learner(model, TrainConfig()).logprobs(trajectories)
    learner = Learner(model, TrainConfig(micro_batch_tokens=1))
    for trajectory, found in zip(trajectories, together, strict=True):
        assert len(found) == trajectory.num_sampled_tokens
        assert found == pytest.approx(learner.logprobs([trajectory])[0], abs=1e-4)


class NotesRows(Learner):
    """Notes the rows of every forward pass."""

    def _score(self, micro: MicroBatch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        self.passes = (*getattr(self, "passes", ()), micro.rows)
        return super()._score(micro, temperature)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_the_rows_of_every_forward_pass_are_bounded(model: VisionLanguageModel, rows: int) -> None:
    batch, config = batch_of(model), TrainConfig(micro_batch_rows=rows)
    trajectories = [s.trajectory for s in batch.samples]
    plain, bounded = Learner(clone(model), TrainConfig()), NotesRows(clone(model), config)
    for found, want in zip(
        bounded.logprobs(trajectories), plain.logprobs(trajectories), strict=True
    ):
        assert found == pytest.approx(want, abs=1e-4)
    learnt = [Example(t.segments) for t in trajectories]
    assert bounded.sft_step(learnt).loss == pytest.approx(plain.sft_step(learnt).loss, rel=1e-5)
    bounded.update(batch, 1.0)
    assert {len(each) for each in bounded.passes} == {rows or 4}


def test_scoring_the_vocabulary_in_chunks_changes_nothing(model: VisionLanguageModel) -> None:
    batch = batch_of(model)
    results = []
    for chunk in (2**28, 3 * 400):
        own = clone(model)
        learner = Learner(own, TrainConfig(learning_rate=1e-2))
        learner.logits_per_chunk = chunk
        results.append((learner.update(batch, 1.0), own))
    (whole, a), (chunked, b) = results
    assert chunked.entropy == pytest.approx(whole.entropy, rel=1e-5)
    assert chunked.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)
    assert_close(a, b, 2e-3)


def test_gradient_checkpointing_changes_no_gradient(model: VisionLanguageModel) -> None:
    batch = batch_of(model)
    plain = gradients(model, TrainConfig(), batch)
    saved = gradients(model, TrainConfig(gradient_checkpointing=True), batch)
    for name, grad in plain.items():
        torch.testing.assert_close(saved[name], grad, rtol=1e-5, atol=1e-7)


def test_a_frozen_vision_tower_keeps_its_weights(model: VisionLanguageModel) -> None:
    before = weights(model)
    Learner(model, TrainConfig(freeze_vision=True, learning_rate=0.1)).update(batch_of(model), 1.0)
    changed = {n for n, p in weights(model).items() if not torch.equal(p, before[n])}
    assert changed
    assert not any("visual" in name for name in changed)


def weights(model: VisionLanguageModel) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.module.named_parameters()}


def assert_close(a: VisionLanguageModel, b: VisionLanguageModel, atol: float) -> None:
    for (name, x), y in zip(weights(a).items(), weights(b).values(), strict=True):
        assert torch.allclose(x, y, rtol=0, atol=atol), name


def assert_unchanged(model: VisionLanguageModel, before: dict[str, torch.Tensor]) -> None:
    for name, now in weights(model).items():
        assert torch.equal(now, before[name]), name


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights_move(
    model: VisionLanguageModel, bad: float
) -> None:
    batch = batch_of(model)
    broken = Batch((*batch.samples[:3], replace(batch.samples[3], advantage=bad)))
    before = weights(model)
    learner = Learner(model, TrainConfig(learning_rate=0.1))
    with pytest.raises(TrainError, match=r"step 1: the loss of samples \[.*\] is"):
        learner.update(broken, 1.0)
    assert_unchanged(model, before)
    assert learner.step == 0
    assert not model.module.training
    assert learner.update(batch, 1.0).step == 1


def test_a_gradient_that_is_not_finite_stops_before_the_weights_move(
    model: VisionLanguageModel,
) -> None:
    before = weights(model)
    learner = Learner(model, TrainConfig(learning_rate=0.1))
    parameter = learner.optimizers.parameters[0]
    parameter.register_hook(lambda grad: grad * math.nan)
    with pytest.raises(TrainError, match="gradient norm is nan"):
        learner.update(batch_of(model), 1.0)
    assert_unchanged(model, before)
    assert all(p.grad is None for p in model.module.parameters())


def test_nothing_to_learn_from_is_an_error(model: VisionLanguageModel) -> None:
    learner = Learner(model, TrainConfig())
    silent = Trajectory("t", 0, (Segment((50, 51), False),), (), (), EndReason.ANSWERED)
    for batch in (Batch(()), Batch((Scored(silent, 1.0),))):
        with pytest.raises(TrainError, match="no sampled token"):
            learner.update(batch, 1.0)
    with pytest.raises(TrainError, match="no sampled token"):
        learner.sft_step([])
    with pytest.raises(TrainError, match="greedy"):
        learner.update(batch_of(model), 0.0)


def test_fp16_on_a_cpu_is_refused(model: VisionLanguageModel) -> None:
    with pytest.raises(ConfigError, match="fp16"):
        Learner(model, TrainConfig(mixed_precision="fp16"))


def test_loss_scaling_repeats_an_overflowing_step_and_changes_nothing_else(
    model: VisionLanguageModel,
) -> None:
    batch = batch_of(model)
    plain, scaled = clone(model), clone(model)
    Learner(plain, TrainConfig(learning_rate=0.01)).update(batch, 1.0)
    learner = Learner(scaled, TrainConfig(learning_rate=0.01))
    scaler: Any = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    learner.accelerator.scaler = scaler
    overflows = iter((True, True))
    parameter = learner.optimizers.parameters[-1]
    parameter.register_hook(lambda grad: grad * (math.inf if next(overflows, False) else 1.0))
    stats = learner.update(batch, 1.0)
    assert stats.step == 1
    assert scaler.get_scale() == 2.0**10
    assert_close(plain, scaled, 2e-3)


def examples(model: VisionLanguageModel, *, weighted: bool = False) -> list[Example]:
    made = []
    for seed, turns in ((1, 1), (2, 3), (3, 2)):
        trajectory = episode(model, seed, turns)
        n = trajectory.num_sampled_tokens
        made.append(
            Example(trajectory.segments, tuple(1.0 + i for i in range(n)) if weighted else ())
        )
    return made


@pytest.mark.parametrize("tokens", [10_000, 1])
def test_sft_minimises_the_weighted_mean_over_the_whole_batch(
    model: VisionLanguageModel, tokens: int
) -> None:
    batch = examples(model, weighted=True)
    trajectories = [Trajectory("t", 0, e.segments, (), (), EndReason.ANSWERED) for e in batch]
    learner = Learner(model, TrainConfig(micro_batch_tokens=tokens))
    found = learner.logprobs(trajectories)
    pairs = [
        (w, -p)
        for e, ps in zip(batch, found, strict=True)
        for w, p in zip(e.weights, ps, strict=True)
    ]
    stats = learner.sft_step(batch)
    want = math.fsum(w * nll for w, nll in pairs) / math.fsum(w for w, _ in pairs)
    assert stats.loss == pytest.approx(want, rel=1e-4)
    assert stats.nll == pytest.approx(math.fsum(nll for _, nll in pairs) / len(pairs), rel=1e-4)
    assert stats.num_tokens == len(pairs)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_sft_learns_its_examples(model: VisionLanguageModel, optimizer: str) -> None:
    config = TrainConfig(
        optimizer=optimizer,  # type: ignore[arg-type]
        learning_rate=3e-3,
        muon_learning_rate=0.01,
        betas=(0.9, 0.98),
    )
    learner = Learner(model, config)
    batch = examples(model)
    losses = [learner.sft_step(batch).loss for _ in range(30)]
    assert losses[-1] < 0.2 * losses[0]


def test_the_rate_follows_the_curve_of_the_stage(model: VisionLanguageModel) -> None:
    config = TrainConfig(learning_rate=0.5, warmup_steps=10, schedule="cosine", min_lr_ratio=0.1)
    learner = Learner(model, config, total_steps=4, learning_rate=0.001)
    # The warm-up is capped at the stage's 4 steps.
    rates = [learner.sft_step(examples(model)).learning_rate for _ in range(4)]
    assert rates == pytest.approx([0.00025, 0.0005, 0.00075, 0.001])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_learner_goes_on_with_the_same_bits(
    model: VisionLanguageModel, optimizer: str
) -> None:
    config = TrainConfig(
        optimizer=optimizer,  # type: ignore[arg-type]
        learning_rate=1e-3,
        warmup_steps=3,
        schedule="cosine",
        steps=6,
    )
    batch = batch_of(model)
    through = clone(model)
    learner = Learner(through, config)
    for _ in range(4):
        learner.update(batch, 1.0)
    stopped = clone(model)
    learner = Learner(stopped, config)
    for _ in range(2):
        learner.update(batch, 1.0)
    saved = io.BytesIO()
    torch.save(learner.state_dict(), saved)
    saved.seek(0)
    resumed = clone(stopped)
    learner = Learner(resumed, config)
    learner.load_state_dict(torch.load(saved, weights_only=True))
    assert learner.step == 2
    for _ in range(2):
        learner.update(batch, 1.0)
    assert_unchanged(resumed, weights(through))


def test_the_environment_changes_no_gradient(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(model)
    plain = Learner(clone(model), TrainConfig()).update(batch, 1.0)
    # What accelerate's launcher sets from its own config.
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert Learner(clone(model), TrainConfig()).update(batch, 1.0) == plain


def test_bf16_autocast_stays_near_float32(model: VisionLanguageModel) -> None:
    from accelerate.state import AcceleratorState

    batch = batch_of(model)
    exact = Learner(clone(model), TrainConfig()).update(batch, 1.0)
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        rough = Learner(clone(model), TrainConfig(mixed_precision="bf16")).update(batch, 1.0)
        with pytest.raises(ConfigError, match="mixed_precision"):
            Learner(clone(model), TrainConfig(mixed_precision="no"))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert rough.loss == pytest.approx(exact.loss, rel=0.1)
    assert rough.entropy == pytest.approx(exact.entropy, rel=0.05)
    assert rough.mismatch != exact.mismatch


def test_training_half_precision_weights_is_warned_about(
    model: VisionLanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    model.module.to(torch.bfloat16)
    Learner(model, TrainConfig())
    assert "mixed_precision" in caplog.text
