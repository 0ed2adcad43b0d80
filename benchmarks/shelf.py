"""Our networks, run in one of several ways, opened once for all rungs that run them alike."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import torch

from diffedit.backend_selection import open_backend
from engine.backends import Backend, Networks
from engine.backends.torch.networks import KERNELS, TorchNetworks
from engine.checkpoint import Checkpoint
from engine.netspec import Precision


@dataclass(frozen=True)
class Way:
    """How our networks are run; `kernels` are those of our own for CPUs."""

    device: str
    dtype: Precision | None = None
    backend: str = "torch"
    engines: Path | None = None
    compile: bool = False
    cuda_graphs: bool = True
    channels_last: bool = True
    kernels: tuple[str, ...] = tuple(KERNELS)


class Shelf:
    """The networks of the last rung: the next one takes them where it runs them the same way, so
    that nothing is loaded and compiled twice."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._way: Way | None = None
        self._networks: Networks | None = None

    def take(self, way: Way) -> Networks:
        """Networks run this way; others are closed."""
        if way != self._way or self._networks is None:
            self.clear()
            self._networks, self._way = self._open(way), way
        return _Kept(self._networks)

    def clear(self) -> None:
        """Close what is there, for a rung that brings its own."""
        if self._networks is not None:
            self._networks.close()
        self._networks = self._way = None
        gc.collect()

    def _open(self, way: Way) -> Networks:
        if way.backend != "torch":
            return open_backend(self.checkpoint, backend=way.backend, engines=way.engines)[0]
        networks = TorchNetworks.open(
            self.checkpoint,
            device=way.device,
            dtype=way.dtype,
            kernels=way.kernels,
            compile=way.compile,
            cuda_graphs=way.cuda_graphs,
        )
        if not way.channels_last:
            for part in ("unet", "vae"):
                networks.modules[part].to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return networks


class _Kept:
    """Networks that a pipeline may use but not close."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self.name, self.sizes, self.device = networks.name, networks.sizes, networks.device

    def find(self, net: str, shape: tuple[int, ...]) -> Backend:
        return self._networks.find(net, shape)

    def describe(self) -> str:
        return self._networks.describe()

    def close(self) -> None:
        """They stay open."""
