"""The byte-bounded cache."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from diffedit.algorithm.cache import TensorCache


def tensors(count: int) -> list[torch.Tensor]:
    return [torch.zeros(16) for _ in range(count)]  # 64 bytes each


def test_the_least_recently_used_goes_first() -> None:
    cache: TensorCache[str] = TensorCache(3 * 64)
    for key in "abc":
        cache.put(key, tensors(1))
    assert cache.get("a") is not None
    cache.put("d", tensors(1))
    assert cache.get("b") is None and cache.get("a") is not None and len(cache) == 3


def test_the_longer_tuple_stays() -> None:
    cache: TensorCache[str] = TensorCache(1000)
    cache.put("a", tensors(5))
    cache.put("a", tensors(2))
    assert len(cache.get("a") or ()) == 5 and cache.bytes == 5 * 64
    cache.put("a", tensors(6))
    assert len(cache.get("a") or ()) == 6 and cache.bytes == 6 * 64


def test_what_is_larger_than_the_bound_is_not_kept() -> None:
    cache: TensorCache[str] = TensorCache(100)
    cache.put("a", tensors(2))
    assert cache.get("a") is None and cache.bytes == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=40))
def test_the_bound_always_holds(puts: list[tuple[int, int]]) -> None:
    cache: TensorCache[int] = TensorCache(8 * 64)
    for key, count in puts:
        cache.put(key, tensors(count))
        held = [cache._entries[k] for k in cache._entries]
        assert cache.bytes == sum(64 * len(h) for h in held) <= 8 * 64
    cache.clear()
    assert cache.bytes == 0 and len(cache) == 0
