"""Networks that note every call: how many rows' worth of profile it ran, and how long it took."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.backends import Backend, Networks


@dataclass
class Calls:
    """One network's calls: the batch size of each, and its seconds (on a GPU: to queue it)."""

    sizes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def slots(self) -> int:
        """Rows the calls had room for, padding included."""
        return sum(self.sizes)


class _Counted:
    def __init__(self, backend: Backend, calls: Calls) -> None:
        self.spec, self.device = backend.spec, backend.device
        self._backend, self._calls = backend, calls

    def __call__(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        began = time.perf_counter()
        output = self._backend(batch)
        self._calls.seconds.append(time.perf_counter() - began)
        self._calls.sizes.append(len(next(iter(batch.values()))))
        return output


class CountingNetworks:
    """Any networks, counted; `calls[net]` has what happened since `clear`."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._found: dict[tuple[str, tuple[int, ...]], _Counted] = {}
        self.name, self.sizes = networks.name, networks.sizes
        self.device: torch.device = networks.device
        self.calls: defaultdict[str, Calls] = defaultdict(Calls)

    def find(self, net: str, shape: tuple[int, ...]) -> Backend:
        key = (net, shape)
        if key not in self._found:
            self._found[key] = _Counted(self._networks.find(net, shape), self.calls[net])
        return self._found[key]

    def clear(self) -> None:
        """Forget the calls so far."""
        for calls in self.calls.values():
            calls.sizes.clear()
            calls.seconds.clear()

    def describe(self) -> str:
        return self._networks.describe()

    def close(self) -> None:
        self._networks.close()
