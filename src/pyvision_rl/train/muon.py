"""Muon (K. Jordan, 2024) whose Newton-Schulz iteration runs in a precision the device is fast at.

In: 2-D parameters with gradients. Out: the parameters moved. ``torch.optim.Muon`` orthogonalises in
bfloat16 everywhere; a CPU without bfloat16 arithmetic emulates it, about 16 times slower than
float32, which made it the larger part of a tiny model's training step. Everything else is torch's.
"""

from __future__ import annotations

import math

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
            decay, momentum = 1 - group["lr"] * group["weight_decay"], group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                average = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
                update = parameter.grad.lerp(average, momentum)  # Nesterov
                update = orthogonalized(update, group["ns_coefficients"], group["ns_steps"])
                rate = group["lr"] * 0.2 * math.sqrt(max(parameter.shape))
                parameter.mul_(decay).add_(update, alpha=-rate)


def orthogonalized(
    matrix: Tensor, coefficients: tuple[float, float, float], num_steps: int
) -> Tensor:
    """Return about U V^T of the matrix [m, n] = U S V^T: the singular values drawn towards 1."""
    a, b, c = coefficients
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(num_steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)
