"""Muon (K. Jordan, 2024) whose Newton-Schulz iteration runs in a precision the device is fast at.

In: 2-D parameters with gradients. Out: the parameters moved. ``torch.optim.Muon`` orthogonalises in
bfloat16 everywhere; a CPU without bfloat16 arithmetic emulates it, about 16 times slower than
float32, which made it the larger part of a tiny model's training step. Everything else is torch's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

PART = 2**26
"""Numbers of the matrices that go through the iteration together, but for a larger one alone."""


class Muon(torch.optim.Muon):
    """``torch.optim.Muon`` with ``adjust_lr_fn="match_rms_adamw"`` (arXiv 2502.16982)."""

    def __init__(
        self, params: list[torch.nn.Parameter], *, lr: float, weight_decay: float, momentum: float
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            adjust_lr_fn="match_rms_adamw",
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            moved: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            for part in _parts(moved):
                self._move(part, group)  # nothing of it is left when the next one begins

    def _move(self, part: list[Tensor], group: dict[str, Any]) -> None:
        updates = [self._momentum(p, group["momentum"]) for p in part]
        directions = orthogonalized(updates, group["ns_coefficients"], group["ns_steps"])
        decay = 1 - group["lr"] * group["weight_decay"]
        for parameter, direction in zip(part, directions, strict=True):
            rate = group["lr"] * 0.2 * math.sqrt(max(parameter.shape))
            parameter.mul_(decay).add_(direction, alpha=-rate)

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        """Return the gradient with Nesterov's momentum."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        average = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)


def _parts(matrices: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the matrices of one shape, lying or standing, together: a small network has dozens.

    Of large ones few at a time: their updates, and what the iteration makes of them, are several
    times as much as they are.
    """
    together: dict[tuple[int, ...], list[Tensor]] = {}
    for matrix in matrices:
        together.setdefault(tuple(sorted(matrix.shape)), []).append(matrix)
    for alike in together.values():
        most = max(1, PART // alike[0].numel())
        yield from (alike[first : first + most] for first in range(0, len(alike), most))


def orthogonalized(
    matrices: Sequence[Tensor], coefficients: tuple[float, float, float], num_steps: int
) -> list[Tensor]:
    """Return about U V^T of each matrix [m, n] = U S V^T: the singular values drawn towards 1.

    Args:
        matrices: Of one shape, lying or standing.
        coefficients: Of the quintic polynomial.
        num_steps: Of Newton and Schulz.
    """
    wide = torch.stack([_wide(matrix) for matrix in matrices])
    drawn = zip(matrices, _newton_schulz(wide, coefficients, num_steps), strict=True)
    return [(x.T if m.shape[0] > m.shape[1] else x).to(m.dtype) for m, x in drawn]


def _wide(matrix: Tensor) -> Tensor:
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    return x.T if x.shape[0] > x.shape[1] else x


def _newton_schulz(
    x_Kmn: Tensor, coefficients: tuple[float, float, float], num_steps: int
) -> Tensor:
    """Return [K, m, n], m <= n."""
    a, b, c = coefficients
    x_Kmn = x_Kmn / x_Kmn.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(num_steps):
        gram_Kmm = x_Kmn @ x_Kmn.mT
        x_Kmn = torch.baddbmm(
            x_Kmn, torch.baddbmm(gram_Kmm, gram_Kmm, gram_Kmm, beta=b, alpha=c), x_Kmn, beta=a
        )
    return x_Kmn
