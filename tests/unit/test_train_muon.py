"""Muon moves parameters as torch's own does, up to the precision of the orthogonalisation."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from pyvision_rl.train import muon
from pyvision_rl.train.muon import Muon, orthogonalized

COEFFICIENTS = (3.4445, -4.775, 2.0315)


def two_steps(optimizer, parameter, gradients):
    """Return the parameter after a step per gradient."""
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (16, 16)])
def test_steps_equal_torchs_up_to_bfloat16(shape):
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(3, *shape).unbind()
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings = {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.95}
    reference = torch.optim.Muon([theirs], **settings, adjust_lr_fn="match_rms_adamw")
    moved = two_steps(Muon([ours], **settings), ours, gradients)
    expected = two_steps(reference, theirs, gradients)
    # bfloat16 keeps 8 bits; a step of this rate moves an entry by about 0.1 * 0.2.
    torch.testing.assert_close(moved, expected, atol=4e-3, rtol=0)
    assert (moved - start).abs().max() > 0.02


def test_singular_values_are_drawn_towards_one_in_full_precision():
    torch.manual_seed(0)
    matrix = torch.randn(12, 30)
    (out,) = orthogonalized([matrix], COEFFICIENTS, 5)
    assert out.shape == matrix.shape
    assert out.dtype == torch.float32
    values = torch.linalg.svdvals(out)
    assert values.min() > 0.5
    assert values.max() < 1.3
    # The singular vectors stay: U^T out V is diagonal.
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    rotated = u.T @ out @ v.T
    assert (rotated - torch.diag(rotated.diagonal())).abs().max() < 1e-4


def test_a_matrix_and_its_transpose_give_transposed_results():
    torch.manual_seed(1)
    matrix = torch.randn(20, 7)
    tall, wide = orthogonalized([matrix, matrix.T], COEFFICIENTS, 5)
    assert tall.shape == matrix.shape
    torch.testing.assert_close(tall, wide.T)


@pytest.mark.parametrize("part", [1, 110, 2**26])
def test_matrices_of_one_shape_do_not_mix(part, monkeypatch):
    monkeypatch.setattr(muon, "PART", part)
    torch.manual_seed(2)
    shapes = [(6, 9), (9, 6), (4, 4), (6, 9), (12, 3)]
    starts = [torch.randn(shape) for shape in shapes]
    gradients = [torch.randn(shape) * 10.0**i for i, shape in enumerate(shapes)]
    settings = {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.95}
    together = [torch.nn.Parameter(start.clone()) for start in starts]
    optimizer = Muon(together, **settings)
    for _ in range(2):
        for parameter, gradient in zip(together, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    for start, gradient, parameter in zip(starts, gradients, together, strict=True):
        single = torch.nn.Parameter(start.clone())
        alone = two_steps(Muon([single], **settings), single, [gradient] * 2)
        torch.testing.assert_close(parameter.detach(), alone)


def test_a_step_takes_little_beside_many_large_matrices(monkeypatch):
    monkeypatch.setattr(muon, "PART", 2**16)
    parameters = [torch.nn.Parameter(torch.randn(128, 256)) for _ in range(32)]
    optimizer = Muon(parameters, lr=1e-3, weight_decay=0.0, momentum=0.9)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()  # makes the moments
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        optimizer.step()
    events = (e for e in found.profiler.kineto_results.events() if e.name() == "[memory]")
    ordered = sorted(events, key=lambda e: e.start_ns())
    most = max(accumulate(event.nbytes() for event in ordered))
    # As much as the plan of a run counts for it (``sizes.memory.stepping``).
    assert 4 * 2**16 < most <= 5 * 4 * 2**16


def test_a_parameter_without_gradient_stays():
    still = torch.nn.Parameter(torch.ones(2, 3))
    Muon([still], lr=0.1, weight_decay=0.5, momentum=0.9).step()
    assert torch.equal(still.detach(), torch.ones(2, 3))
