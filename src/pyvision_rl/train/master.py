"""Optimizers that move a float32 copy of 16-bit weights.

In: ``Optimizers`` over a module's parameters, before their first step. Out: optimizers that look
the same from outside. Each step takes over the gradients, moves the copy and rounds it into the
network, so that updates far below a weight's precision add up instead of being lost. Moments are
float32 too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pyvision_rl.errors import CheckpointError
from pyvision_rl.train.optimizers import Optimizers

PART_SIZE = 2**28
"""Parameters whose float32 gradients exist together: 1 GiB of them."""


def with_copies(plain: Optimizers) -> Optimizers:
    """Return optimizers that move float32 copies, or the same if all weights are float32."""
    if all(p.dtype == torch.float32 for p in plain.parameters):
        return plain
    return MasterOptimizers(plain)


class MasterOptimizers(Optimizers):
    """``Optimizers`` whose parameters are float32 copies of the network's."""

    def __init__(self, plain: Optimizers, part_size: int = PART_SIZE) -> None:
        """Take over the optimizers of ``plain``, which have made no step yet.

        Args:
            plain: Optimizers of the network's own parameters.
            part_size: Parameters that are moved together, at least; changes no number.
        """
        super().__init__(plain.optimizers)
        self._part_size = part_size
        self._network: list[nn.Parameter] = []
        self._masters: list[Tensor] = []
        for group in self._groups():
            copies = [p.detach().float().clone() for p in group["params"]]
            self._network += group["params"]
            self._masters += copies
            group["params"] = copies

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Every parameter of the network that is trained: where gradients come and are clipped."""
        return list(self._network)

    @torch.no_grad()
    def step(self) -> None:
        """Move the copies along the network's gradients, and round them into the network."""
        for part in self._parts():
            for master, parameter in part:
                master.grad = None if parameter.grad is None else parameter.grad.float()
                parameter.grad = None
            # Optimizers pass over what has no gradient: the other parts.
            super().step()
            for master, parameter in part:
                master.grad = None
                parameter.copy_(master)

    def _parts(self) -> Iterator[list[tuple[Tensor, nn.Parameter]]]:
        """Yield copies and parameters, so many at a time that their gradients take little room."""
        part: list[tuple[Tensor, nn.Parameter]] = []
        size = 0
        for pair in zip(self._masters, self._network, strict=True):
            if part and size + pair[0].numel() > self._part_size:
                yield part
                part, size = [], 0
            part.append(pair)
            size += pair[0].numel()
        yield part

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self._network:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return moments, counters and the copies."""
        return super().state_dict() | {"masters": list(self._masters)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over moments, counters and copies, and round the copies into the network.

        Raises:
            CheckpointError: The state belongs to other optimizers or another model.
        """
        saved = state.get("masters", [])
        if [m.shape for m in saved] != [m.shape for m in self._masters]:
            raise CheckpointError(
                "the checkpoint holds no float32 weights of this model: was train.master_weights "
                "changed?"
            )
        super().load_state_dict(state)
        for master, parameter, new in zip(self._masters, self._network, saved, strict=True):
            master.copy_(new)
            parameter.copy_(master)
