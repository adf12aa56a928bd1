"""Who trains which parameter, with which decay, and along which curve."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pyvision_rl.config import TrainConfig
from pyvision_rl.errors import CheckpointError, ConfigError, TrainError
from pyvision_rl.train.optimizers import Optimizers, build_optimizers, freeze_vision, lr_factor


class Net(nn.Module):
    """Every kind of parameter that a vision-language model has."""

    def __init__(self, *, tied: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed_tokens = nn.Embedding(7, 4)
        self.visual = nn.ModuleDict(
            {"patch": nn.Conv3d(3, 4, (2, 2, 2)), "pos_embed": nn.Embedding(9, 4)}
        )
        self.layer = nn.Linear(4, 6)
        self.norm = nn.LayerNorm(4)
        self.lm_head = nn.Linear(4, 7, bias=False)
        if tied:
            self.lm_head.weight = self.embed_tokens.weight


def names(net: nn.Module, optimizers: Optimizers) -> dict[str, list[tuple[set[str], float]]]:
    """Optimizer class -> (parameter names, weight decay) of each group."""
    name_of = {id(p): n for n, p in net.named_parameters()}
    return {
        type(o).__name__: [
            ({name_of[id(p)] for p in g["params"]}, g["weight_decay"]) for g in o.param_groups
        ]
        for o in optimizers.optimizers
    }


@pytest.mark.parametrize("tied", [True, False])
def test_muon_takes_hidden_matrices_and_adamw_everything_else(tied: bool) -> None:
    net = Net(tied=tied)
    config = TrainConfig(optimizer="muon", weight_decay=0.1)
    head = set() if tied else {"lm_head.weight"}
    assert names(net, build_optimizers(net, config)) == {
        "Muon": [({"layer.weight"}, 0.1)],
        "AdamW": [
            ({"visual.patch.weight"}, 0.1),
            (
                {
                    "embed_tokens.weight",
                    "visual.pos_embed.weight",
                    "visual.patch.bias",
                    "layer.bias",
                    "norm.weight",
                    "norm.bias",
                    *head,
                },
                0.0,
            ),
        ],
    }


def test_adamw_decays_matrices_and_kernels_only() -> None:
    net = Net()
    groups = names(net, build_optimizers(net, TrainConfig(weight_decay=0.1)))
    assert list(groups) == ["AdamW"]
    assert groups["AdamW"][0] == ({"layer.weight", "visual.patch.weight"}, 0.1)
    assert groups["AdamW"][1][1] == 0.0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_trainable_parameter_is_trained_once(optimizer: str) -> None:
    net = Net()
    parameters = build_optimizers(net, TrainConfig(optimizer=optimizer)).parameters  # type: ignore[arg-type]
    assert len({id(p) for p in parameters}) == len(parameters)
    assert {id(p) for p in parameters} == {id(p) for p in net.parameters()}


def test_where_muon_takes_all_there_is_no_adamw_and_the_rate_is_muons() -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    config = TrainConfig(optimizer="muon", muon_learning_rate=0.25)
    optimizers = build_optimizers(net, config)
    assert list(names(net, optimizers)) == ["Muon"]
    optimizers.set_factor(0.5)
    assert optimizers.learning_rate == 0.125


def test_a_frozen_vision_tower_is_left_out() -> None:
    net = Net()
    frozen = freeze_vision(net)
    assert frozen == sum(p.numel() for p in net.visual.parameters())
    trained = {id(p) for p in build_optimizers(net, TrainConfig(optimizer="muon")).parameters}
    assert trained.isdisjoint({id(p) for p in net.visual.parameters()})


def test_freezing_what_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match="freeze_vision"):
        freeze_vision(nn.Linear(2, 2))


def test_nothing_to_train_is_an_error() -> None:
    net = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(TrainError, match="nothing to train"):
        build_optimizers(net, TrainConfig())


def test_warm_up_rises_in_a_line_to_the_peak() -> None:
    got = [
        lr_factor(s, warmup_steps=4, total_steps=100, schedule="constant") for s in (0, 1, 3, 4, 99)
    ]
    assert got == pytest.approx([0.25, 0.5, 1.0, 1.0, 1.0])


def test_cosine_starts_at_the_peak_after_warm_up_and_ends_at_its_floor() -> None:
    # 10 steps after a warm-up of 2, floor 0.2: halfway (step 7) lies 0.2 + 0.8 / 2 = 0.6.
    got = [
        lr_factor(s, warmup_steps=2, total_steps=12, schedule="cosine", min_ratio=0.2)
        for s in (1, 2, 7, 12, 20)
    ]
    assert got == pytest.approx([1.0, 1.0, 0.6, 0.2, 0.2])


def test_the_factor_scales_every_rate_from_its_own_peak() -> None:
    net = Net()
    config = TrainConfig(optimizer="muon", learning_rate=0.1, muon_learning_rate=0.4)
    optimizers = build_optimizers(net, config)
    for factor in (0.25, 0.5):
        optimizers.set_factor(factor)
    rates = [g["lr"] for o in optimizers.optimizers for g in o.param_groups]
    assert rates == pytest.approx([0.2, 0.05, 0.05])
    assert optimizers.learning_rate == pytest.approx(0.05)


def test_rates_given_for_a_stage_replace_those_of_the_config() -> None:
    optimizers = build_optimizers(
        Net(), TrainConfig(optimizer="muon"), learning_rate=0.3, muon_learning_rate=0.7
    )
    assert [g["lr"] for o in optimizers.optimizers for g in o.param_groups] == [0.7, 0.3, 0.3]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_state_carries_moments_while_settings_stay_those_configured_now(optimizer: str) -> None:
    def step(net: Net, optimizers: Optimizers) -> None:
        optimizers.zero_grad()
        out = net.lm_head(net.norm(net.embed_tokens.weight)) + net.layer(net.norm.weight).sum()
        out.square().sum().backward()
        optimizers.step()

    first = Net()
    ours = build_optimizers(first, TrainConfig(optimizer=optimizer, learning_rate=0.01))  # type: ignore[arg-type]
    step(first, ours)
    second = copy.deepcopy(first)
    other = TrainConfig(optimizer=optimizer, learning_rate=0.02, weight_decay=0.5)  # type: ignore[arg-type]
    theirs = build_optimizers(second, other)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    assert theirs.learning_rate == 0.02
    assert theirs.optimizers[0].param_groups[0]["weight_decay"] == 0.5
    same = build_optimizers(second, TrainConfig(optimizer=optimizer, learning_rate=0.01))  # type: ignore[arg-type]
    same.load_state_dict(copy.deepcopy(ours.state_dict()))
    step(first, ours)
    step(second, same)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_state_of_other_optimizers_is_refused() -> None:
    adamw = build_optimizers(Net(), TrainConfig())
    muon = build_optimizers(Net(), TrainConfig(optimizer="muon"))
    with pytest.raises(CheckpointError, match=r"train\.optimizer"):
        muon.load_state_dict(adamw.state_dict())
    smaller = build_optimizers(nn.Linear(2, 2), TrainConfig())
    with pytest.raises(CheckpointError, match="another model"):
        smaller.load_state_dict(adamw.state_dict())
