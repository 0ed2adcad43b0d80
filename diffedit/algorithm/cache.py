"""Caches that edits of one pipeline share: the conditioning of texts, and trajectories."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from torch import Tensor

from diffedit.algorithm.schedule import Schedule

K = TypeVar("K", bound=Hashable)

TextIds = tuple[tuple[int, ...], ...]
"""The token ids of one text, padding included: one tuple per text network."""
Conditioning = tuple[Tensor, ...]
"""The denoiser's conditioning inputs for one text, without a batch axis."""
Texts = Mapping[TextIds, Conditioning]


class TensorCache(Generic[K]):
    """A thread-safe map from keys to tuples of tensors, bounded in bytes.

    The least recently used entry is dropped first. If a key has two tuples, the longer one is kept,
    because a short trajectory is the beginning of a longer one. `max_bytes=0` disables the cache.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[K, tuple[Tensor, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> tuple[Tensor, ...] | None:
        """Return the tensors of a key, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return entry

    def put(self, key: K, tensors: Sequence[Tensor]) -> None:
        """Store tensors, and drop old entries beyond `max_bytes`."""
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
        """Drop every entry."""
        with self._lock:
            self._entries.clear()
            self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


class Trajectory(list[Tensor]):
    """The latents x_0, x_1, ... of one image, each float32 [C, h, w].

    All running edits of one image extend the same trajectory.
    """


TrajectoryKey = tuple[str, Schedule, int]
"""(image key, schedule, inversion stride)."""


@dataclass(frozen=True)
class Caches:
    """Conditioning by token ids, trajectories by image, schedule and stride.

    `active` has the trajectories of running edits. Only the engine thread uses it.
    """

    conditioning: TensorCache[TextIds]
    trajectories: TensorCache[TrajectoryKey]
    active: WeakValueDictionary[TrajectoryKey, Trajectory] = field(
        default_factory=WeakValueDictionary
    )

    def trajectory(self, key: TrajectoryKey) -> Trajectory:
        """The trajectory of an image, as far as any edit has extended it; empty at first."""
        trajectory = self.active.get(key)
        if trajectory is None:
            trajectory = self.active[key] = Trajectory(self.trajectories.get(key) or ())
        return trajectory

    def known_levels(self, key: TrajectoryKey) -> int:
        """How many levels above x_0 are cached."""
        return max(0, len(self.trajectories.get(key) or ()) - 1)

    def keep(
        self,
        key: TrajectoryKey,
        trajectory: Sequence[Tensor],
        conditioning: Mapping[TextIds, Conditioning] | None = None,
    ) -> None:
        """Store a trajectory and conditioning. The caller has checked that they are finite."""
        self.trajectories.put(key, trajectory)
        for ids, tensors in (conditioning or {}).items():
            self.conditioning.put(ids, tensors)

    def clear(self) -> None:
        """Drop everything."""
        self.conditioning.clear()
        self.trajectories.clear()
