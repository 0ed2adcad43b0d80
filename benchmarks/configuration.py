"""Configurations of this project's networks, and functions that open them and the pipeline."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import options
from benchmarks.networks import CountingNetworks
from diffedit import DiffEditPipeline
from diffedit.backend_selection import Choice, open_backend
from engine.backends import Networks
from engine.backends.torch.networks import KERNELS, TorchNetworks
from engine.checkpoint import Checkpoint
from engine.netspec import Size


@dataclass(frozen=True)
class Configuration:
    """How the networks run: the backend options of `DiffEditPipeline` (a group of options), and
    options of the torch backend that a benchmark may turn off."""

    backend: options.Backend = "torch"
    engines: options.Engines = None
    device: options.Device = None
    dtype: options.DType = None
    compile: options.Compile = False
    cuda_graphs: bool = True
    channels_last: bool = True
    kernels: tuple[str, ...] = tuple(KERNELS)

    def open(self, checkpoint: Checkpoint) -> tuple[Networks, str]:
        """Load the networks. Returns them, and the reason for the backend."""
        plain = self.cuda_graphs and self.channels_last and self.kernels == tuple(KERNELS)
        chosen: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        chosen["compile"] = self.compile
        if self.backend != "torch" or plain:
            return open_backend(
                checkpoint, _pair, backend=self.backend, engines=self.engines, **chosen
            )
        networks = TorchNetworks.open(
            checkpoint, kernels=self.kernels, cuda_graphs=self.cuda_graphs, **chosen
        )
        if not self.channels_last:
            for part in (part.name for part in checkpoint.family.parts if part.convolutional):
                networks.modules[part].to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return networks, "requested"


DEFAULT = Configuration()


def _pair(networks: Networks, choice: Choice) -> tuple[Networks, str]:
    return networks, choice.reason


def open_pipeline(
    model: Path, configuration: Configuration, size: Size | None = None
) -> DiffEditPipeline:
    """Our pipeline on its own networks, which are `CountingNetworks`."""
    checkpoint = Checkpoint.open(model)
    networks, reason = configuration.open(checkpoint)
    return DiffEditPipeline(checkpoint, CountingNetworks(networks), size=size, reason=reason)


class NetworkCache:
    """Keeps the networks of the last configuration, so that they are not loaded and compiled again
    for the next use of the same configuration."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._configuration: Configuration | None = None
        self._networks: Networks | None = None

    def get(self, configuration: Configuration) -> Networks:
        """Return the networks of a configuration. Networks of another one are closed first. Closing
        the returned networks has no effect."""
        if configuration != self._configuration or self._networks is None:
            self.clear()
            self._networks = configuration.open(self.checkpoint)[0]
            self._configuration = configuration
        return CountingNetworks(self._networks, keep_open=True)

    def clear(self) -> None:
        """Close the networks and free their memory."""
        if self._networks is not None:
            self._networks.close()
        self._networks = self._configuration = None
        gc.collect()
