"""The faster vision tower gives transformers' own features and gradients, from the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from pyvision_rl.models.vision_speed import PatchProjection, attention_by_length
from tests.tiny_models import FAMILIES, make_tiny

GRIDS = {
    "equal": [[1, 8, 8]] * 3,
    "mixed": [[1, 8, 8], [1, 4, 6], [1, 10, 8], [1, 4, 6]],
    "one": [[1, 6, 4]],
}


@pytest.fixture(scope="module", params=FAMILIES)
def towers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("tiny")
    ours = make_tiny(folder, request.param)[0].module
    theirs = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa")
    return ours, theirs


@pytest.mark.parametrize("name", GRIDS)
def test_features_and_gradients_are_those_of_the_plain_tower(towers, name: str) -> None:
    ours, theirs = towers
    assert type(ours.model.visual.patch_embed.proj) is PatchProjection
    assert type(theirs.model.visual.patch_embed.proj) is nn.Conv3d
    grids = torch.tensor(GRIDS[name])
    torch.manual_seed(0)
    patch = ours.model.visual.patch_embed.proj.weight[0].numel()
    pixels = torch.randn(int(grids.prod(1).sum()), patch)
    features, gradients = [], []
    for module in (ours, theirs):
        visual = module.model.visual
        out = visual(pixels, grid_thw=grids, return_dict=True).pooler_output
        out.square().sum().backward()
        features.append(out.detach())
        gradients.append(
            {n: p.grad.clone() for n, p in visual.named_parameters() if p.grad is not None}
        )
        module.zero_grad(set_to_none=True)
    torch.testing.assert_close(*features, atol=2e-5, rtol=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for parameter, gradient in gradients[0].items():
        scale = float(gradients[1][parameter].abs().max())
        assert (gradient - gradients[1][parameter]).abs().max() <= 1e-4 * scale, parameter


def test_weights_and_config_are_saved_as_before(towers, tmp_path: Path) -> None:
    ours, theirs = towers
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for folder, module in (("ours", ours), ("theirs", theirs)):
        module.save_pretrained(tmp_path / folder)
    same = [(tmp_path / n / "config.json").read_text() for n in ("ours", "theirs")]
    assert same[0] == same[1]


def test_no_sequence_sees_another() -> None:
    torch.manual_seed(0)
    heads, lengths, width = 2, (3, 5, 3, 1), 4
    ends = torch.tensor([0, *lengths]).cumsum(0)
    q, k, v = torch.randn(3, 1, heads, sum(lengths), width).unbind()
    whole, _ = attention_by_length(nn.Identity(), q, k, v, None, scaling=0.5, cu_seq_lens_q=ends)
    for start, stop in zip(ends.tolist(), ends.tolist()[1:], strict=False):
        part = [x[..., start:stop, :] for x in (q, k, v)]
        alone = nn.functional.scaled_dot_product_attention(*part, scale=0.5)
        torch.testing.assert_close(whole[:, start:stop], alone.transpose(1, 2))
