"""RL steps of several optimizer steps, old log-probabilities, importance weights, the KL term."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyvision_rl.config import TrainConfig
from pyvision_rl.config_file import load_config
from pyvision_rl.errors import ConfigError, TrainError
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.train.learner import Learner
from pyvision_rl.train.passes import split
from pyvision_rl.train.reference import load_reference
from pyvision_rl.types import Batch, EndReason, Scored, Segment, Trajectory
from tests.sampled import batch_of, clone, with_logprobs
from tests.tiny_models import make_tiny

RATE = 1e-2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def made(folder: Path) -> VisionLanguageModel:
    from pyvision_rl.models.load import load_model

    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def batch(made: VisionLanguageModel) -> Batch:
    """Four groups of one: short rows, so that every test is quick."""
    return batch_of(made)


@pytest.fixture
def model(made: VisionLanguageModel) -> VisionLanguageModel:
    return clone(made)


def weights(model: VisionLanguageModel) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.module.named_parameters()}


def assert_same(model: VisionLanguageModel, wanted: dict[str, torch.Tensor]) -> None:
    for name, now in weights(model).items():
        assert torch.equal(now, wanted[name]), name


def part(batch: Batch, indices: Sequence[int]) -> Batch:
    return Batch(tuple(batch.samples[i] for i in indices))


def sampled(batch: Batch) -> list[tuple[float, ...]]:
    """The sampler's log-probabilities of each trajectory's sampled tokens."""
    return [
        tuple(p for s in sample.trajectory.segments if s.sampled for p in s.logprobs)
        for sample in batch.samples
    ]


def differences(a: list[tuple[float, ...]], b: list[tuple[float, ...]]) -> list[float]:
    return [x - y for xs, ys in zip(a, b, strict=True) for x, y in zip(xs, ys, strict=True)]


# How a batch is cut


def members(groups: list[int]) -> list[Scored]:
    """``groups[k]`` trajectories of task k."""
    return [
        Scored(Trajectory(f"t{k}", i, (), (), (), EndReason.ANSWERED), 1.0)
        for k, size in enumerate(groups)
        for i in range(size)
    ]


@given(
    groups=st.lists(st.integers(1, 4), max_size=12),
    count=st.integers(1, 6),
    seed=st.integers(0, 2**63 - 1),
)
def test_minibatches_hold_every_sample_once_and_groups_whole(
    groups: list[int], count: int, seed: int
) -> None:
    samples = members(groups)
    parts = split(samples, count, seed)
    assert sorted(i for indices in parts for i in indices) == list(range(len(samples)))
    tasks = [{samples[i].trajectory.task_id for i in indices} for indices in parts]
    assert sum(map(len, tasks)) == len(groups), "a group lies in two minibatches"
    assert len(parts) == min(count, len(groups))
    assert not tasks or max(map(len, tasks)) - min(map(len, tasks)) <= 1
    assert parts == split(samples, count, seed)


def test_minibatches_differ_from_step_to_step_and_seed_to_seed() -> None:
    samples = members([2] * 8)
    assert len({str(split(samples, 4, seed)) for seed in range(20)}) > 15


# What the optimizer steps are


def test_minibatches_are_updates_of_their_parts_one_after_the_other(
    model: VisionLanguageModel, batch: Batch
) -> None:
    config = TrainConfig(learning_rate=RATE, minibatches=2)
    by_hand = clone(model)
    learner = Learner(model, config, seed=5)
    plan = [sorted(i for m in micros for i in m.rows) for micros in learner._plan(batch.samples)]
    assert sorted(map(len, plan)) == [2, 2]
    stats = learner.update(batch, 1.0)
    other = Learner(by_hand, TrainConfig(learning_rate=RATE))
    parts = [other.update(part(batch, indices), 1.0) for indices in plan]
    assert_same(model, weights(by_hand))
    # Means are over tokens, the largest mismatch is of what was seen before a weight moved.
    shares = [p.num_tokens / stats.num_tokens for p in parts]
    for name in ("loss", "approx_kl", "clip_fraction", "entropy"):
        mean = sum(s * getattr(p, name) for s, p in zip(shares, parts, strict=True))
        assert getattr(stats, name) == pytest.approx(mean, rel=1e-6), name
    assert stats.grad_norm == pytest.approx((parts[0].grad_norm + parts[1].grad_norm) / 2)
    assert (stats.mismatch, stats.mismatch_kl) == (parts[0].mismatch, parts[0].mismatch_kl)
    assert (stats.step, stats.num_optimizer_steps, learner.step) == (1, 2, 1)


def test_epochs_are_repeated_updates_of_one_batch(model: VisionLanguageModel, batch: Batch) -> None:
    by_hand = clone(model)
    stats = Learner(model, TrainConfig(learning_rate=RATE, epochs=2)).update(batch, 1.0)
    other = Learner(by_hand, TrainConfig(learning_rate=RATE))
    first, _ = [other.update(batch, 1.0) for _ in range(2)]
    assert_same(model, weights(by_hand))
    assert (stats.step, stats.num_optimizer_steps) == (1, 2)
    assert stats.num_tokens == first.num_tokens
    assert stats.mismatch == first.mismatch


def test_the_clip_acts_from_the_second_epoch_on(model: VisionLanguageModel, made: Any) -> None:
    exact = batch_of(made, drift=0.0)
    once = Learner(clone(model), TrainConfig(learning_rate=RATE)).update(exact, 1.0)
    twice = Learner(model, TrainConfig(learning_rate=RATE, epochs=2)).update(exact, 1.0)
    assert once.clip_fraction == 0.0
    assert twice.clip_fraction > 0.0
    assert twice.approx_kl > once.approx_kl + 1e-4


def test_the_rate_follows_rl_steps_not_optimizer_steps(
    model: VisionLanguageModel, batch: Batch
) -> None:
    config = TrainConfig(learning_rate=RATE, warmup_steps=2, minibatches=2, epochs=2, steps=5)
    learner = Learner(model, config)
    done = [learner.update(batch, 1.0) for _ in range(3)]
    assert [s.learning_rate for s in done] == pytest.approx([RATE / 2, RATE, RATE])
    assert [s.step for s in done] == [1, 2, 3]
    assert [s.num_optimizer_steps for s in done] == [4, 4, 4]


def test_a_minibatch_without_a_target_makes_no_step(
    model: VisionLanguageModel, batch: Batch
) -> None:
    silent = Trajectory("silent", 0, (Segment((50, 51), False),), (), (), EndReason.ANSWERED)
    larger = Batch((*batch.samples[:1], Scored(silent, 1.0)))
    learner = Learner(model, TrainConfig(minibatches=2))
    stats = learner.update(larger, 1.0)
    assert stats.num_optimizer_steps == 1
    with pytest.raises(TrainError, match="no sampled token"):
        learner.update(Batch((Scored(silent, 1.0),)), 1.0)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_failure_after_the_first_optimizer_step_leaves_no_trace(
    model: VisionLanguageModel, batch: Batch, optimizer: str
) -> None:
    config = TrainConfig(optimizer=optimizer, learning_rate=RATE, minibatches=2, epochs=2)  # type: ignore[arg-type]
    untouched = clone(model)
    learner = Learner(model, config)
    learner.update(batch, 1.0)
    before = weights(model)
    # Each optimizer step sees this gradient once per micro-batch, here one: the third is spoilt.
    calls = iter((1.0, 1.0, math.nan))
    hook = learner.optimizers.parameters[0].register_hook(lambda g: g * next(calls))
    with pytest.raises(TrainError, match="step 2: the gradient norm is nan"):
        learner.update(batch, 1.0)
    assert next(calls, None) is None, "it failed before the third optimizer step"
    assert_same(model, before)
    assert learner.step == 1
    hook.remove()
    learner.update(batch, 1.0)
    # Moments and counters were put back too: the next steps are those of a run without failure.
    other = Learner(untouched, config)
    other.update(batch, 1.0)
    other.update(batch, 1.0)
    assert_same(model, weights(untouched))


def test_a_loss_that_is_not_finite_names_samples_of_the_batch(
    model: VisionLanguageModel, batch: Batch
) -> None:
    broken = Batch((*batch.samples[:3], replace(batch.samples[3], advantage=math.nan)))
    before = weights(model)
    learner = Learner(model, TrainConfig(learning_rate=RATE, minibatches=4))
    with pytest.raises(TrainError, match=r"the loss of samples \[3\] is nan"):
        learner.update(broken, 1.0)
    assert_same(model, before)


# Whose old log-probabilities


def test_the_learners_old_logprobs_are_taken_before_the_first_step(
    model: VisionLanguageModel, batch: Batch
) -> None:
    found = Learner(model, TrainConfig()).logprobs([s.trajectory for s in batch.samples])
    own = Batch(
        tuple(
            Scored(with_logprobs(s.trajectory, p), s.advantage)
            for s, p in zip(batch.samples, found, strict=True)
        )
    )
    by_hand = clone(model)
    config = TrainConfig(learning_rate=RATE, epochs=2)
    stats = Learner(model, config.model_copy(update={"old_logprobs": "learner"})).update(batch, 1.0)
    wanted = Learner(by_hand, config).update(own, 1.0)
    for name in ("loss", "approx_kl", "clip_fraction", "grad_norm"):
        assert getattr(stats, name) == pytest.approx(getattr(wanted, name), rel=1e-3, abs=1e-6)
    # The mismatch stays the one between sampler and learner.
    assert wanted.mismatch < 1e-4
    assert stats.mismatch > 0.5


@pytest.mark.parametrize("minibatches", [1, 2])
def test_mismatch_is_measured_whoever_gives_the_old_logprobs(
    model: VisionLanguageModel, batch: Batch, minibatches: int
) -> None:
    found = Learner(model, TrainConfig()).logprobs([s.trajectory for s in batch.samples])
    drift = differences(found, sampled(batch))
    ratios = [math.exp(d) for d in drift]
    config = TrainConfig(old_logprobs="learner", minibatches=minibatches, learning_rate=RATE)
    learners = Learner(clone(model), config).update(batch, 1.0)
    assert learners.mismatch == pytest.approx(max(map(abs, drift)), rel=1e-4)
    kl = math.fsum(r - 1 - d for r, d in zip(ratios, drift, strict=True)) / len(drift)
    assert learners.mismatch_kl == pytest.approx(kl, rel=1e-3)
    share = math.fsum(ratios) ** 2 / len(ratios) / math.fsum(r * r for r in ratios)
    assert learners.effective_share == pytest.approx(share, rel=1e-3)
    if minibatches == 1:
        samplers = Learner(clone(model), TrainConfig()).update(batch, 1.0)
        assert samplers.mismatch == pytest.approx(learners.mismatch, rel=1e-5)
        assert samplers.effective_share == pytest.approx(share, rel=1e-3)
        assert samplers.approx_kl == pytest.approx(samplers.mismatch_kl, rel=1e-5)


@pytest.mark.parametrize("old", ["sampler", "learner"])
def test_mismatch_leaves_out_what_older_weights_sampled(
    model: VisionLanguageModel, made: VisionLanguageModel, batch: Batch, old: str
) -> None:
    # What is fresh was sampled by the learner's own weights; what was carried in is far from them.
    exact = batch_of(made, drift=0.0)
    mixed = Batch((*exact.samples[:2], *(replace(s, fresh=False) for s in batch.samples[2:])))
    config = TrainConfig(old_logprobs=old, tis_cap=2.0 if old == "learner" else 0.0)
    stats = Learner(clone(model), config).update(mixed, 1.0)
    assert stats.mismatch is not None
    assert stats.mismatch < 1e-4
    assert stats.mismatch_kl == pytest.approx(0.0, abs=1e-6)
    assert stats.effective_share == pytest.approx(1.0)
    late = Batch(tuple(replace(s, fresh=False) for s in batch.samples))
    stats = Learner(clone(model), config).update(late, 1.0)
    assert (stats.mismatch, stats.mismatch_kl, stats.effective_share) == (None, None, None)
    assert stats.num_tokens > 0


def test_importance_weights_scale_the_loss_of_each_token(
    model: VisionLanguageModel, batch: Batch
) -> None:
    found = Learner(model, TrainConfig()).logprobs([s.trajectory for s in batch.samples])
    drift = differences(found, sampled(batch))
    # Every ratio to the learner's own old log-probabilities is 1, so a token's loss is -w A.
    credit = [s.advantage for s, ps in zip(batch.samples, found, strict=True) for _ in ps]
    total = -math.fsum(min(math.exp(d), 1.1) * a for d, a in zip(drift, credit, strict=True))
    config = TrainConfig(old_logprobs="learner", tis_cap=1.1)
    stats = Learner(model, config).update(batch, 1.0)
    assert stats.loss == pytest.approx(total / len(drift), rel=1e-4)


# The KL term


def test_the_kl_term_adds_its_mean_times_the_coefficient(
    model: VisionLanguageModel, batch: Batch
) -> None:
    reference = clone(model)
    with torch.no_grad():
        for parameter in reference.module.parameters():
            parameter.mul_(1.02)
    trajectories = [s.trajectory for s in batch.samples]
    policy, frozen = (
        Learner(m, TrainConfig()).logprobs(trajectories, 0.9) for m in (model, reference)
    )
    apart = [
        r - p for ps, rs in zip(policy, frozen, strict=True) for p, r in zip(ps, rs, strict=True)
    ]
    k3 = math.fsum(math.exp(d) - 1 - d for d in apart) / len(apart)
    before = weights(reference)
    plain = Learner(clone(model), TrainConfig()).update(batch, 0.9)
    config = TrainConfig(kl_coefficient=0.5)
    held = Learner(model, config, reference=reference).update(batch, 0.9)
    assert plain.kl_reference is None
    assert held.kl_reference == pytest.approx(k3, rel=1e-3)
    assert k3 > 1e-3
    assert held.loss - plain.loss == pytest.approx(0.5 * k3, rel=1e-2)
    assert_same(reference, before)


def test_at_the_reference_the_kl_term_has_neither_value_nor_gradient(
    model: VisionLanguageModel, batch: Batch
) -> None:
    free, held = clone(model), clone(model)
    Learner(free, TrainConfig(learning_rate=RATE)).update(batch, 1.0)
    learner = Learner(
        held, TrainConfig(learning_rate=RATE, kl_coefficient=10.0), reference=clone(model)
    )
    first = learner.update(batch, 1.0)
    assert first.kl_reference == pytest.approx(0.0, abs=1e-6)
    for name, now in weights(held).items():
        assert torch.allclose(now, weights(free)[name], rtol=0, atol=2e-3), name
    assert (learner.update(batch, 1.0).kl_reference or 0.0) > 1e-5


def test_a_strong_kl_term_keeps_the_policy_near_its_reference(
    model: VisionLanguageModel, batch: Batch
) -> None:
    far, near = (
        [learner.update(batch, 1.0).kl_reference or 0.0 for _ in range(6)][-1]
        for learner in (
            Learner(
                clone(model),
                TrainConfig(learning_rate=1e-3, kl_coefficient=c),
                reference=clone(model),
            )
            for c in (1e-6, 3.0)
        )
    )
    assert near < 0.5 * far


def test_a_reference_is_frozen_and_sees_pictures_as_the_policy_does(
    folder: Path, model: VisionLanguageModel, batch: Batch
) -> None:
    reference = load_reference(str(folder), model)
    assert not any(p.requires_grad for p in reference.module.parameters())
    assert (reference.banned_ids, reference.vision) == (model.banned_ids, model.vision)
    trajectories = [s.trajectory for s in batch.samples]
    reference.module.requires_grad_()  # a learner wants something to train
    ours, its = (Learner(m, TrainConfig()) for m in (model, reference))
    assert its.logprobs(trajectories) == ours.logprobs(trajectories)


def test_a_reference_that_cannot_serve_is_refused_before_work_starts(
    folder: Path, model: VisionLanguageModel, batch: Batch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"train.kl_reference = '.*nowhere' is not there"):
        load_reference(str(tmp_path / "nowhere"), model)
    make_tiny(tmp_path / "other", "qwen3_vl")
    with pytest.raises(ConfigError, match="is a 'qwen3_vl' model"):
        load_reference(str(tmp_path / "other"), model)
    with pytest.raises(ConfigError, match="kl_coefficient"):
        Learner(model, TrainConfig(kl_coefficient=0.1)).update(batch, 1.0)


# What carries gradient


def test_only_positions_before_a_sampled_token_carry_gradient(
    made: VisionLanguageModel, batch: Batch
) -> None:
    class Watched(VisionLanguageModel):
        """Keeps what left the last layer."""

        def hidden(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            self.last = super().hidden(*args, **kwargs)
            self.last.retain_grad()
            return self.last

    own = clone(made)
    watched = Watched(own.module, own.vision, own.vocab_size)
    reference = clone(made)
    config = TrainConfig(dual_clip=3.0, kl_coefficient=0.1)
    learner = Learner(watched, config, reference=reference)
    (micros,) = learner._plan(batch.samples)
    (micro,) = micros
    learner.update(batch, 1.0)
    grad_BT = watched.last.grad.abs().sum(-1)
    before_target_BT = torch.zeros_like(micro.loss_mask_BT)
    before_target_BT[:, :-1] = micro.loss_mask_BT[:, 1:]
    assert (grad_BT[~before_target_BT] == 0).all()
    assert (grad_BT[before_target_BT] > 0).float().mean() > 0.5


# The config


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("train.dual_clip=0.5", "dual_clip = 0.5: above 1"),
        ("train.tis_cap=2", 'needs old_logprobs = "learner"'),
        ("train.epochs=0", "train.epochs"),
        ("train.minibatches=0", "train.minibatches"),
        ("train.kl_coefficient=-1", "train.kl_coefficient"),
        ("train.old_logprobs=vllm", "train.old_logprobs"),
        ("train.betas=[0.9,1.0]", "betas = .*: each at least 0 and below 1"),
        ("train.betas=[-0.1,0.9]", "betas = .*: each at least 0 and below 1"),
    ],
)
def test_objectives_that_make_no_sense_are_refused(change: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(Path(__file__).parents[2] / "configs" / "tiny_image_rl.toml", [change])
