"""A network in pieces over all processes (FSDP2), or whole in each; and what goes between the two.

In: a network and the processes. Out: a module that scores micro-batches, its weights as whole
tensors, gradients summed over all processes, and optimizer states from pieces to plain tensors and
back. Every function is called by all processes together.

A layer's pieces are gathered while it computes and dropped afterwards. What lies outside the layers
(embeddings, output head, the ends of the tower) is gathered while a micro-batch passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.train.batching import MicroBatch
from pyvision_rl.train.processes import Processes
from pyvision_rl.train.scoring import score

_BUCKET = 2**26
"""Numbers that are summed over processes at a time."""


class Scorer(nn.Module):
    """``scoring.score`` as a module: everything that uses the network's weights is inside."""

    def __init__(self, network: VisionLanguageModel) -> None:
        super().__init__()
        self.module = network.module
        self._network = network

    def forward(
        self, micro: MicroBatch, temperature: float, max_scores: int
    ) -> tuple[Tensor, Tensor]:
        """Return what ``score`` does."""
        return score(self._network, micro, temperature, max_scores)


def shard(scorer: Scorer, device: torch.device, processes: Processes) -> None:
    """Leave every process with its piece of each weight, on ``device``."""
    mesh = init_device_mesh(device.type, (processes.size,))
    module: Any = scorer.module
    for part in (*module.model.language_model.layers, *module.model.visual.blocks):
        fully_shard(part, mesh=mesh)
    # Not left gathered after a pass: the optimizer and passes without gradients need the pieces.
    fully_shard(scorer, mesh=mesh, reshard_after_forward=True)
    for part in scorer.modules():
        if isinstance(part, FSDPModule):
            # A micro-batch's loss has the divisor of the whole step: gradients are added up.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that may be in pieces as an ordinary one."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def piece(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(full: Tensor, other: Tensor) -> Tensor:
    """Return a whole tensor in pieces if ``other`` is; on its device."""
    if not isinstance(other, DTensor):
        return full
    placed = full.to(other.device)
    return distribute_tensor(placed, other.device_mesh, other.placements, src_data_rank=None)


@torch.no_grad()
def spread_weights(source: nn.Module | None, target: nn.Module, processes: Processes) -> None:
    """Give ``target`` on all processes the weights and buffers of ``source`` on process 0."""
    values = {} if source is None else dict(_tensors(source))
    for name, tensor in _tensors(target):
        sent = processes.spread(values.get(name, tensor), tensor.device)
        piece(tensor).copy_(piece(like(sent, tensor)))


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


@torch.no_grad()
def collect_weights(source: nn.Module, target: nn.Module | None) -> None:
    """Give ``target`` on process 0 the trained weights of ``source``."""
    values = dict(target.named_parameters()) if target is not None else {}
    for name, parameter in source.named_parameters():
        if parameter.requires_grad:
            found = whole(parameter)
            if name in values:
                values[name].copy_(found)


@torch.no_grad()
def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Add up over processes the gradients of weights that each of them holds whole."""
    for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def clip(parameters: Sequence[nn.Parameter], most: float) -> float:
    """Scale gradients down to a norm of ``most`` over all pieces; return the norm before."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return math.nan
    held = [piece(g) for g in gradients]
    norms = torch.stack([torch.linalg.vector_norm(g, dtype=torch.float32) for g in held])
    square = norms.double().square().sum()
    if isinstance(gradients[0], DTensor):
        dist.all_reduce(square)
    norm = float(square.sqrt())
    if math.isfinite(norm):
        # As torch's clip_grad_norm_ does.
        factor = min(1.0, most / (norm + 1e-6))
        for gradient in held:
            gradient.mul_(factor)
    return norm


def gathered_state(value: Any, *, keep: bool) -> Any:
    """Return plain containers with every tensor in them whole, on the CPU.

    Args:
        value: Of this process; all gather the same.
        keep: False for who only helps to gather: its tensors come back empty.
    """
    if isinstance(value, Tensor):
        found = whole(value).detach()
        return found.cpu() if keep else found.new_empty(0)
    if isinstance(value, dict):
        return {key: gathered_state(each, keep=keep) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(gathered_state(each, keep=keep) for each in value)
    return value


def scattered_state(
    state: dict[str, Any], parameters: Sequence[Sequence[Tensor]], processes: Processes
) -> dict[str, Any]:
    """Return the state of ``Optimizers`` that process 0 has, in pieces as the parameters are.

    Tensors go one at a time: no process but 0 ever holds more than one of them whole.

    Args:
        state: As ``gathered_state`` made it; on other processes its ``outline``.
        parameters: Of each optimizer, in the order of its groups.
        processes: All of them call it together.
    """
    made: dict[str, Any] = {**state, "optimizers": []}
    flat = [p for some in parameters for p in some]
    for number, own in enumerate(state["optimizers"]):
        params = parameters[number] if number < len(parameters) else ()
        moments = {
            index: {
                name: _scattered(value, params[index] if index < len(params) else None, processes)
                for name, value in kept.items()
            }
            for index, kept in own["state"].items()
        }
        made["optimizers"].append({**own, "state": moments})
    if "masters" in state:
        several = [*flat, *[None] * len(state["masters"])]
        made["masters"] = [
            _scattered(value, like, processes)
            for value, like in zip(state["masters"], several, strict=False)
        ]
    return made


def outline(value: Any) -> Any:
    """Return plain containers with tensors on the device ``meta``: shapes without numbers."""
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, dict):
        return {key: outline(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(outline(each) for each in value)
    return value


def _scattered(value: Any, parameter: Tensor | None, processes: Processes) -> Any:
    if not isinstance(value, Tensor):
        return value
    sent = processes.spread(value, torch.device("cpu"))
    return sent if parameter is None or parameter.shape != sent.shape else like(sent, parameter)


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield gradients of one type, so many at a time that their copy takes little room."""
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        bucket: list[Tensor] = []
        size = 0
        for gradient in gradients:
            if gradient.dtype != dtype:
                continue
            if bucket and size + gradient.numel() > _BUCKET:
                yield bucket
                bucket, size = [], 0
            bucket.append(gradient)
            size += gradient.numel()
        yield bucket
