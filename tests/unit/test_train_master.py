"""16-bit weights learn what they cannot hold: the optimizer keeps them in float32."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from pyvision_rl.config import TrainConfig
from pyvision_rl.errors import CheckpointError, TrainError
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.train.learner import Learner
from pyvision_rl.train.master import MasterOptimizers
from pyvision_rl.train.optimizers import build_optimizers
from tests.sampled import batch_of, clone
from tests.tiny_models import make_tiny

TRAIN = TrainConfig(master_weights=True, learning_rate=1e-6, weight_decay=0.0)


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    model = make_tiny(tmp_path_factory.mktemp("tiny"))[0]
    model.module.to(torch.bfloat16)
    return model


def weights(model: VisionLanguageModel) -> dict[str, torch.Tensor]:
    return {n: p.detach().float().clone() for n, p in model.module.named_parameters()}


def test_small_steps_add_up_instead_of_being_lost(rounded: VisionLanguageModel) -> None:
    batch, model = batch_of(rounded), clone(rounded)
    learner = Learner(model, TRAIN)
    before = weights(model)
    for _ in range(3):
        learner.update(batch, 1.0)
    assert isinstance(learner.optimizers, MasterOptimizers)
    masters = learner.state_dict()["optimizers"]["masters"]
    moved = torch.cat([(m - m.bfloat16().float()).flatten() for m in masters])
    assert float(moved.abs().max()) > 0, "what bfloat16 cannot hold is in the copies"
    # AdamW moves a parameter by about 1e-6 a step; half the spacing of bfloat16 at 0.1 is 2.4e-4.
    large = {n: p.abs() > 0.1 for n, p in before.items()}
    for name, now in weights(model).items():
        assert torch.equal(now[large[name]], before[name][large[name]])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_copies_move_as_float32_weights_would(
    rounded: VisionLanguageModel, optimizer: str
) -> None:
    batch = batch_of(rounded)
    config = TRAIN.model_copy(update={"learning_rate": 1e-3, "optimizer": optimizer})
    model = clone(rounded)
    learner = Learner(model, config)
    learner.update(batch, 1.0)
    exact = clone(rounded)
    exact.module.float()
    plain = Learner(exact, config.model_copy(update={"master_weights": False}))
    caught = [p.grad for p in plain.optimizers.parameters]
    assert not any(g is not None for g in caught)
    plain.update(batch, 1.0)
    names = [n for n, _ in exact.module.named_parameters()]
    start, end = weights(rounded), weights(exact)
    masters = learner.state_dict()["optimizers"]["masters"]
    by_id = {id(p): m for p, m in zip(learner.optimizers.parameters, masters, strict=True)}
    mine = {n: by_id[id(p)] for n, p in model.module.named_parameters()}
    ours = torch.cat([(mine[n] - start[n]).flatten() for n in names])
    theirs = torch.cat([(end[n] - start[n]).flatten() for n in names])
    # Gradients went through bfloat16: the direction is nearly the same, not the bits.
    assert float(torch.cosine_similarity(ours, theirs, dim=0)) > 0.9
    for name, parameter in model.module.named_parameters():
        assert torch.equal(parameter, mine[name].bfloat16())


def test_moving_them_in_parts_changes_nothing(rounded: VisionLanguageModel) -> None:
    results = []
    for size in (2**28, 1000):
        model = clone(rounded)
        plain = build_optimizers(model.module, TRAIN.model_copy(update={"learning_rate": 1e-2}))
        optimizers = MasterOptimizers(plain, part_size=size)
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            for parameter in optimizers.parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator).bfloat16()
            optimizers.step()
        results.append(weights(model))
    assert all(torch.equal(results[0][n], results[1][n]) for n in results[0])
    assert any(not torch.equal(results[0][n], p) for n, p in weights(rounded).items())


def test_a_resumed_learner_goes_on_with_the_same_bits(rounded: VisionLanguageModel) -> None:
    batch = batch_of(rounded)
    through = clone(rounded)
    learner = Learner(through, TRAIN)
    for _ in range(4):
        learner.update(batch, 1.0)
    stopped = clone(rounded)
    first = Learner(stopped, TRAIN)
    for _ in range(2):
        first.update(batch, 1.0)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    resumed = clone(stopped)
    second = Learner(resumed, TRAIN)
    second.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):
        second.update(batch, 1.0)
    want, got = (x.state_dict()["optimizers"]["masters"] for x in (learner, second))
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


def test_a_step_that_fails_half_way_leaves_copies_and_weights(
    rounded: VisionLanguageModel,
) -> None:
    batch, model = batch_of(rounded), clone(rounded)
    config = TRAIN.model_copy(update={"learning_rate": 1e-2, "epochs": 2})
    learner = Learner(model, config)
    learner.update(batch, 1.0)
    before = weights(model)
    copies = [m.clone() for m in learner.state_dict()["optimizers"]["masters"]]
    passes = iter([False, True])
    clip = learner.accelerator.clip_grad_norm_

    def norm(parameters: list[torch.nn.Parameter], most: float) -> torch.Tensor | None:
        return torch.tensor(float("nan")) if next(passes) else clip(parameters, most)

    learner.accelerator.clip_grad_norm_ = norm
    with pytest.raises(TrainError):
        learner.update(batch, 1.0)
    after = learner.state_dict()["optimizers"]["masters"]
    assert all(torch.equal(a, b) for a, b in zip(copies, after, strict=True))
    assert all(torch.equal(before[n], p) for n, p in weights(model).items())


def test_a_checkpoint_without_copies_is_refused(rounded: VisionLanguageModel) -> None:
    plain = TRAIN.model_copy(update={"master_weights": False})
    state = Learner(clone(rounded), plain).state_dict()
    with pytest.raises(CheckpointError, match=r"train\.master_weights"):
        Learner(clone(rounded), TRAIN).load_state_dict(state)


def test_float32_weights_need_no_copy(tmp_path: Path) -> None:
    model = make_tiny(tmp_path)[0]
    assert not isinstance(Learner(model, TRAIN).optimizers, MasterOptimizers)


def test_who_keeps_copies_is_not_warned(
    rounded: VisionLanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    Learner(clone(rounded), TRAIN)
    assert not caplog.text
    Learner(clone(rounded), TRAIN.model_copy(update={"master_weights": False}))
    assert "master_weights" in caplog.text
