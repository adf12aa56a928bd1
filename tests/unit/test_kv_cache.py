"""The pool of keys and values: what is in it stays, and growing takes little beside it."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch

from pyvision_rl.policy.kv_cache import KVCache

LAYERS, HEADS, SIZE = 4, 2, 3


def pool() -> KVCache:
    return KVCache(LAYERS, HEADS, SIZE, dtype=torch.float32, device=torch.device("cpu"))


def saved(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        LAYERS, 2, HEADS, length, SIZE, generator=torch.Generator().manual_seed(seed)
    )


def test_rows_stay_what_they_were_while_the_pool_grows() -> None:
    cache = pool()
    cache.reserve(2, 10)
    rows = saved(10, 1), saved(7, 2)
    for number, row in enumerate(rows):
        cache.load(number, row)
    cache.reserve(3, 500)
    for number, row in enumerate(rows):
        assert cache.save(number, row.shape[3]).equal(row)
    cache.copy(0, 2, 1, 10)
    assert cache.save(2, 10).equal(rows[0])
    cache.clear(0)
    assert not cache.save(0, 10).any()


def test_the_pool_has_no_more_rows_than_are_decoded_together() -> None:
    cache = pool()
    for rows in range(1, 9):
        cache.reserve(rows, 100)
    assert cache.nbytes == LAYERS * 2 * 8 * HEADS * 164 * SIZE * 4


def test_growing_has_one_layer_twice_and_not_all(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = pool()
    cache.reserve(2, 10)
    layers: Any = cache._layers
    old = [weakref.ref(layer) for layer in layers]
    alive: list[int] = []
    make = torch.Tensor.new_zeros

    def counted(self: torch.Tensor, *size: Any) -> Any:
        alive.append(sum(ref() is not None for ref in old))
        return make(self, *size)

    monkeypatch.setattr(torch.Tensor, "new_zeros", counted)
    cache.reserve(2, 500)
    assert alive == [4, 3, 2, 1]


@pytest.mark.parametrize("fails", range(LAYERS))
def test_a_lack_of_memory_while_growing_loses_nothing(
    fails: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def through(cache: KVCache) -> list[torch.Tensor]:
        """Append a token to both rows, and return what each layer then sees."""
        window = cache.window(0, torch.tensor([10, 7]), 1, 10)
        new = saved(1, 3)[:, 0, None].expand(LAYERS, 2, HEADS, 1, SIZE)
        pairs = [window.update(new[k], -new[k], k) for k in range(LAYERS)]
        return [torch.stack(pair) for pair in pairs]

    caches = pool(), pool()
    for cache in caches:
        cache.reserve(2, 10)
        cache.load(0, saved(10, 1))
        cache.load(1, saved(7, 2))
    calls, make = iter(range(LAYERS)), torch.Tensor.new_zeros

    def lacking(self: torch.Tensor, *size: Any) -> Any:
        if next(calls) == fails:
            raise RuntimeError("out of memory")
        return make(self, *size)

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "new_zeros", lacking)
        with pytest.raises(RuntimeError, match="out of memory"):
            caches[0].reserve(2, 500)
    for one, two in zip(through(caches[0]), through(caches[1]), strict=True):
        assert one.equal(two)
    caches[0].reserve(3, 500)
    assert caches[0].save(0, 10).equal(saved(10, 1))
