"""What one edit leaves for the next: text embeddings and encoded trajectories.

The cache knows keys and tensors, not what they mean. It belongs to one pipeline, hence to one
checkpoint and one backend.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

from torch import Tensor

K = TypeVar("K", bound=Hashable)


class TensorCache(Generic[K]):
    """A thread-safe map from keys to tuples of tensors, least recently used out first.

    Of two tuples for one key the longer stays: a trajectory of small depth is the beginning of a
    deeper one. `max_bytes` bounds what is kept; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[K, tuple[Tensor, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> tuple[Tensor, ...] | None:
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: K, tensors: Sequence[Tensor]) -> None:
        value = tuple(tensors)
        with self._lock:
            old = self._entries.pop(key, ())
            if len(old) > len(value):
                value = old
            self.bytes += _size(value) - _size(old)
            self._entries[key] = value
            while self.bytes > self.max_bytes:
                _, dropped = self._entries.popitem(last=False)
                self.bytes -= _size(dropped)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
