"""Keys and values of the episodes that are decoded together.

In: each layer's new keys and values. Out: all keys and values so far, and the mask that says who
sees what. Rows are left-aligned and of different lengths: token t of a row stands in column t.
A chunk may be padded on the right: what pads leave behind lies beyond the row's length, where no
query looks, and is overwritten by the row's next token. Knows nothing of episodes or sampling.

Axes: R rows, C columns, H key-value heads, D head size; one window appends T tokens to B rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SLACK = 64
"""Columns allocated beyond what was asked for, so that decoding rarely reallocates."""


class KVCache:
    """A pool of rows, one tensor [2, R, H, C, D] for each layer, that grows when asked to."""

    def __init__(
        self, layers: int, heads: int, size: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        empty = torch.zeros(2, 0, heads, 0, size, dtype=dtype, device=device)
        self._layers = [empty] * layers

    @property
    def nbytes(self) -> int:
        """Memory of the pool."""
        return sum(layer.nbytes for layer in self._layers)

    def reserve(self, rows: int, columns: int) -> None:
        """Make room for ``rows`` rows of ``columns`` tokens; what is there stays.

        Layer by layer: the old and the new of all would need twice the memory for a moment. Where
        it lacks, some layers have grown and others not, and all of them hold what they held.
        """
        for index, old in enumerate(self._layers):
            _, R, H, C, D = old.shape
            if rows > R or columns > C:
                new_C = C if columns <= C else max(columns + _SLACK, C + C // 4)
                # Zeros, not empty: a masked column still meets a weight of 0.0, and 0 * NaN is NaN.
                self._layers[index] = old.new_zeros(2, max(rows, R), H, new_C, D)
                self._layers[index][:, :R, :, :C] = old

    def load(self, row: int, saved: Tensor) -> None:
        """Put a saved row [layers, 2, H, length, D] back."""
        for layer, part in zip(self._layers, saved, strict=True):
            layer[:, row, :, : part.shape[2]] = part

    def save(self, row: int, length: int) -> Tensor:
        """Return a compact copy [layers, 2, H, length, D] of a row."""
        return torch.stack([layer[:, row, :, :length] for layer in self._layers])

    def copy(self, source: int, target: int, count: int, length: int) -> None:
        """Copy a row of ``length`` tokens to ``count`` rows from ``target`` on."""
        for layer in self._layers:
            row = layer[:, source : source + 1, :, :length]
            layer[:, target : target + count, :, :length] = row

    def clear(self, row: int) -> None:
        """Zero a row, so that nothing non-finite stays in the pool."""
        for layer in self._layers:
            layer[:, row] = 0

    def window(self, start: int, lengths: Tensor, tokens: int, longest: int) -> Window:
        """Return the view through which one forward pass appends to rows ``start``, ...

        Args:
            start: The first row.
            lengths: [B] tokens each row holds already.
            tokens: T, appended to every row (right-padded).
            longest: The largest of ``lengths``, known to the caller without a device sync.
        """
        return Window(self._layers, start, lengths, tokens, longest)


class Window:
    """What transformers' layers see as their cache during one forward pass."""

    def __init__(
        self, pool: list[Tensor], start: int, lengths: Tensor, tokens: int, longest: int
    ) -> None:
        self._pool = pool
        self._rows = slice(start, start + len(lengths))
        self._tokens = tokens
        self._span = longest + tokens
        self._fresh = longest == 0
        if self._fresh:
            self.mask: Tensor | None = None
            """[B, 1, T, S] True where a query may look; None for plain causal attention."""
            return
        device = lengths.device
        H = pool[0].shape[2]
        columns = lengths[:, None] + torch.arange(tokens, device=device)
        heads = torch.arange(start * H, (start + len(lengths)) * H, device=device).view(-1, H, 1)
        # Layers are of one length, but for those that a lack of memory left behind.
        self._index = {
            C: (heads * C + columns[:, None]).flatten() for C in {p.shape[3] for p in pool}
        }
        keys = torch.arange(self._span, device=device)
        # Every query sees its own column, a pad too: no row of the mask is empty, so no NaN.
        self.mask = keys <= columns[:, None, :, None]

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append [B, H, T, D] to one layer; return all keys and values [B, H, S, D]."""
        pair = self._pool[layer_idx]
        if self._fresh:
            pair[0, self._rows, :, : self._tokens] = key
            pair[1, self._rows, :, : self._tokens] = value
            return key, value
        for part, new in zip(pair, (key, value), strict=True):
            index = self._index[part.shape[2]]
            part.view(-1, part.shape[-1]).index_copy_(0, index, new.flatten(0, 2))
        keys, values = pair[:, self._rows, :, : self._span]
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the tokens that every row held before this pass, pads counted."""
        return self._span - self._tokens

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Return where the queries stand among the keys; asked for plain causal masks only."""
        return self._span - self._tokens

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Return (number of keys, their offset); asked for plain causal masks only."""
        return self._span, 0
