"""Optimizers and the learning-rate curve.

In: a module and ``TrainConfig``. Out: ``Optimizers``, one object over AdamW, or over Muon and
AdamW together. Knows nothing of losses or steps taken: the learner sets the curve's factor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from pyvision_rl.config import TrainConfig
from pyvision_rl.errors import CheckpointError, ConfigError, TrainError

_MUON_MOMENTUM = 0.95


class Optimizers:
    """Several optimizers over disjoint parameters, stepped as one."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = tuple(optimizers)
        self._settings = [
            {k: v for k, v in group.items() if k != "params"} for group in self._groups()
        ]
        self._factor = 1.0

    def _groups(self) -> Iterator[dict[str, Any]]:
        for optimizer in self.optimizers:
            yield from optimizer.param_groups

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Every parameter that is trained."""
        return [p for group in self._groups() for p in group["params"]]

    @property
    def learning_rate(self) -> float:
        """AdamW's learning rate now, the curve applied; Muon's where it has all parameters."""
        return float(self._settings[-1]["lr"]) * self._factor

    def set_factor(self, factor: float) -> None:
        """Scale every peak learning rate by ``factor`` from now on."""
        self._factor = factor
        for group, settings in zip(self._groups(), self._settings, strict=True):
            group["lr"] = settings["lr"] * factor

    def step(self) -> None:
        """Move the parameters along their gradients."""
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return moments and counters, as plain containers of tensors and numbers."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over moments and counters; rates, betas and decay stay those configured now.

        Raises:
            CheckpointError: The state belongs to other optimizers or another model.
        """
        states = state["optimizers"]
        if len(states) != len(self.optimizers):
            raise CheckpointError(
                f"checkpoint has {len(states)} optimizers, the config makes "
                f"{len(self.optimizers)}: was train.optimizer changed?"
            )
        for optimizer, own in zip(self.optimizers, states, strict=True):
            try:
                optimizer.load_state_dict(own)
            except (ValueError, KeyError) as error:
                raise CheckpointError(f"optimizer state of another model: {error}") from error
        for group, settings in zip(self._groups(), self._settings, strict=True):
            group.update(settings)
        self.set_factor(self._factor)


def build_optimizers(
    module: nn.Module,
    config: TrainConfig,
    *,
    learning_rate: float | None = None,
    muon_learning_rate: float | None = None,
) -> Optimizers:
    """Return the configured optimizers over the parameters of ``module`` that require gradients.

    ``muon`` gives hidden 2-D matrices to Muon (K. Jordan, 2024; learning rates on AdamW's scale as
    in arXiv 2502.16982) and the rest to AdamW. Weight decay acts on matrices and convolution
    kernels only: not on embeddings, the output head, norms or biases.

    Args:
        module: A transformers model.
        config: Which optimizer, and its settings.
        learning_rate: AdamW's peak; None takes ``config.learning_rate``.
        muon_learning_rate: Muon's peak; None takes ``config.muon_learning_rate``.

    Raises:
        TrainError: No parameter requires a gradient.
    """
    lr = learning_rate or config.learning_rate
    trainable = [p for p in module.parameters() if p.requires_grad]
    if not trainable:
        raise TrainError("no parameter of the model requires a gradient: nothing to train")
    hidden = {id(p) for p in hidden_weights(module)}
    muon: list[nn.Parameter] = []
    if config.optimizer == "muon":
        muon = [p for p in trainable if id(p) in hidden and p.ndim == 2]
    by_muon = {id(p) for p in muon}
    rest = [p for p in trainable if id(p) not in by_muon]
    optimizers: list[Optimizer] = []
    if muon:
        from pyvision_rl.train.muon import Muon

        optimizers.append(
            Muon(
                muon,
                lr=muon_learning_rate or config.muon_learning_rate,
                weight_decay=config.weight_decay,
                momentum=_MUON_MOMENTUM,
            )
        )
    groups = [
        ([p for p in rest if id(p) in hidden], config.weight_decay),
        ([p for p in rest if id(p) not in hidden], 0.0),
    ]
    given = [{"params": params, "weight_decay": decay} for params, decay in groups if params]
    # Of adapters Muon takes all, and AdamW refuses to be made of nothing.
    if given:
        optimizers.append(torch.optim.AdamW(given, lr=lr, betas=config.betas))
    return Optimizers(optimizers)


def hidden_weights(module: nn.Module) -> list[nn.Parameter]:
    """Return the weights with two or more axes that are neither embeddings nor the output head."""
    apart = {
        id(p)
        for name, part in module.named_modules()
        if isinstance(part, nn.Embedding) or name.rpartition(".")[2] == "lm_head"
        for p in part.parameters(recurse=False)
    }
    return [p for p in module.parameters() if p.ndim >= 2 and id(p) not in apart]


def freeze_vision(module: nn.Module) -> int:
    """Stop gradients of the vision tower, merger included; return the parameters it has.

    Raises:
        ConfigError: The model has no part named ``visual``.
    """
    frozen = [p for name, p in module.named_parameters() if "visual" in name.split(".")]
    if not frozen:
        raise ConfigError("train.freeze_vision = true, but the model has no part named 'visual'")
    for parameter in frozen:
        parameter.requires_grad_(False)
    return sum(p.numel() for p in frozen)


def lr_factor(
    step: int,
    *,
    warmup_steps: int,
    total_steps: int,
    schedule: Literal["constant", "cosine"],
    min_ratio: float = 0.0,
) -> float:
    """Return the share of the peak learning rate that step ``step`` (the first is 0) uses.

    A linear rise over ``warmup_steps`` that reaches 1 at its last step, then constant, or half a
    cosine that would reach ``min_ratio`` at ``total_steps``.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return min_ratio + (1.0 - min_ratio) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
