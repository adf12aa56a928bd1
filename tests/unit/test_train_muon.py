"""Muon moves parameters as torch's own does, up to the precision of the orthogonalisation."""

from __future__ import annotations

import pytest
import torch

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


def test_matrices_of_one_shape_do_not_mix():
    torch.manual_seed(2)
    shapes = [(6, 9), (9, 6), (4, 4), (6, 9), (12, 3)]
    matrices = [torch.randn(shape) * 10.0**i for i, shape in enumerate(shapes)]
    together = orthogonalized(matrices, COEFFICIENTS, 5)
    alone = [orthogonalized([matrix], COEFFICIENTS, 5)[0] for matrix in matrices]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)
    assert orthogonalized([], COEFFICIENTS, 5) == []


def test_a_parameter_without_gradient_stays():
    still = torch.nn.Parameter(torch.ones(2, 3))
    Muon([still], lr=0.1, weight_decay=0.5, momentum=0.9).step()
    assert torch.equal(still.detach(), torch.ones(2, 3))
