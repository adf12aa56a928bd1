"""The vision tower's own numbers from fewer and larger operations.

In: a loaded network. Out: the same network, parameters and state dict untouched. Many small images
are the usual batch here, and transformers then spends its time on calls: a general 3-D convolution
where kernel and stride are equal (a matrix product), and one attention call per image or window.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

ATTENTION = "pvrl_flash_by_length"
"""transformers hands over whole batches and their lengths where this word holds "flash"."""


class PatchProjection(nn.Conv3d):
    """A convolution whose input is exactly one kernel: a matrix product."""

    def forward(self, input: Tensor) -> Tensor:
        """Return [P, C, 1, 1, 1] of patches [P, 3, T, H, W], as large as the kernel."""
        flat = linear(input.flatten(1), self.weight.flatten(1), self.bias)
        return flat.view(*flat.shape, 1, 1, 1)


def attention_by_length(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each of the packed sequences; those of one length share a call.

    Args:
        module: Unused; transformers' signature.
        query: [1, heads, P, D].
        key: As ``query``.
        value: As ``query``.
        attention_mask: None; the lengths say who sees whom.
        scaling: Of the scores.
        cu_seq_lens_q: [S + 1] where each of the S sequences begins, and P.
        dropout: Probability.

    Returns:
        [1, P, heads, D] and None, as transformers wants.
    """
    lengths = torch.diff(cu_seq_lens_q).tolist()

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # [S, heads, length, D] each
        return scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)

    if len(set(lengths)) == 1:
        heads, width = query.shape[1], query.shape[3]
        shape = (heads, len(lengths), lengths[0], width)
        q, k, v = (x.reshape(shape).transpose(0, 1) for x in (query, key, value))
        return attend(q, k, v).transpose(1, 2).flatten(0, 1)[None], None
    starts = cu_seq_lens_q[:-1]
    pieces, places = [], []
    for length in sorted(set(lengths)):
        begins = starts[[i for i, one in enumerate(lengths) if one == length]]
        place = begins[:, None] + torch.arange(length, device=begins.device)
        q, k, v = (x[0][:, place].transpose(0, 1) for x in (query, key, value))
        pieces.append(attend(q, k, v).transpose(1, 2).flatten(0, 1))
        places.append(place.flatten())
    order = torch.argsort(torch.cat(places))
    return torch.cat(pieces)[order][None], None


def speed_up(visual: nn.Module) -> None:
    """Give the tower these two operations, unless its user chose an attention of their own."""
    from transformers import AttentionInterface

    config: Any = visual.config
    if config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, attention_by_length)
        config._attn_implementation = ATTENTION
    embed: Any = visual.patch_embed
    if type(embed.proj) is nn.Conv3d and embed.proj.kernel_size == embed.proj.stride:
        embed.proj.__class__ = PatchProjection
