"""Muon (K. Jordan, 2024) whose Newton-Schulz iteration runs in a precision the device is fast at.

In: 2-D parameters with gradients. Out: the parameters moved. ``torch.optim.Muon`` orthogonalises in
bfloat16 everywhere; a CPU without bfloat16 arithmetic emulates it, about 16 times slower than
float32, which made it the larger part of a tiny model's training step. Everything else is torch's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


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
            updates = [self._momentum(p, group["momentum"]) for p in moved]
            directions = orthogonalized(updates, group["ns_coefficients"], group["ns_steps"])
            decay = 1 - group["lr"] * group["weight_decay"]
            for parameter, direction in zip(moved, directions, strict=True):
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


def orthogonalized(
    matrices: Sequence[Tensor], coefficients: tuple[float, float, float], num_steps: int
) -> list[Tensor]:
    """Return about U V^T of each matrix [m, n] = U S V^T: the singular values drawn towards 1.

    Matrices of one shape, lying or standing, go together: a small network has dozens of small ones.
    """
    together: dict[tuple[int, ...], list[int]] = {}
    for index, matrix in enumerate(matrices):
        together.setdefault(tuple(sorted(matrix.shape)), []).append(index)
    done: dict[int, Tensor] = {}
    for indices in together.values():
        wide = torch.stack([_wide(matrices[index]) for index in indices])
        for index, x in zip(indices, _newton_schulz(wide, coefficients, num_steps), strict=True):
            matrix = matrices[index]
            done[index] = (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)
    return [done[index] for index in range(len(matrices))]


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
