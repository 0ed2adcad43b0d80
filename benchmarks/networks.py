"""Shapes, random inputs, operation counts and call counts of a checkpoint's networks.

In this package, only this module uses the names and calling conventions of `engine`, except
`openvino.py` and `overhead.py`, which implement a backend.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from engine.backends import Backend, Details, Networks
from engine.checkpoint import Checkpoint
from engine.dtypes import TORCH_DTYPES
from engine.models import NetworkNames
from engine.models.stable_diffusion import StableDiffusion
from engine.netspec import NetSpec, Size

_FAMILY = StableDiffusion({})
NETWORKS = tuple(network.name for network in _FAMILY.networks)
"""All networks of a checkpoint, in the order of an edit."""
NAMES = NetworkNames.of(_FAMILY)
DENOISER = NAMES.denoiser
"""The network that is called at every step."""
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


def first_shape(checkpoint: Checkpoint, net: str, size: Size) -> tuple[int, ...]:
    """The shape of a network's first input, without the batch axis."""
    return tuple(checkpoint.spec(net, size).inputs[0].shape)


def random_inputs(backend: Backend, batch: int) -> dict[str, torch.Tensor]:
    """Numbers from 0 to 10 for every input of a network, the same on every device."""
    draw = torch.Generator().manual_seed(0)
    return {
        t.name: torch.rand((batch, *t.shape), generator=draw)
        .mul(10)
        .to(backend.device, TORCH_DTYPES[t.dtype])
        for t in backend.spec.inputs
    }


def operations(checkpoint: Checkpoint, spec: NetSpec) -> int:
    """Floating point operations of one row, counted on PyTorch's meta device."""
    return sum(operations_by_kind(checkpoint, spec).values())


def operations_by_kind(checkpoint: Checkpoint, spec: NetSpec) -> dict[str, int]:
    """The same, by the name of PyTorch's operation, e.g. "aten.convolution"."""
    module = _meta_module(checkpoint, spec.name)
    inputs = [
        torch.empty((1, *t.shape), dtype=TORCH_DTYPES[t.dtype], device="meta") for t in spec.inputs
    ]
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        checkpoint.network(spec.name).call(module, torch.float32, *inputs)
    return {str(name): int(count) for name, count in counter.get_flop_counts()["Global"].items()}


def weight_count(checkpoint: Checkpoint, net: str) -> int:
    """How many numbers a call of this network reads."""
    module = _meta_module(checkpoint, net)
    used = [module.get_submodule(path) for path in checkpoint.network(net).compiled] or [module]
    return sum(p.numel() for part in used for p in part.parameters())


def _meta_module(checkpoint: Checkpoint, net: str) -> torch.nn.Module:
    """The network's module without its weights."""
    part = checkpoint.part(checkpoint.network(net).part)
    module_class = getattr(importlib.import_module(part.package), part.class_name)
    config: Any = checkpoint.family.configs[part.name]
    if part.package == "transformers":
        config = module_class.config_class.from_dict(config)
    with torch.device("meta"):
        make = module_class if part.package == "transformers" else module_class.from_config
        module: torch.nn.Module = make(config)
    return module.eval()


@dataclass
class _CountingBackend:
    """A backend that appends the rows of each call to `calls[net]` of its networks."""

    spec: NetSpec
    device: torch.device
    call: Backend
    networks: CountingNetworks

    def __call__(self, batch: dict[str, torch.Tensor]) -> Any:
        net, sizes = self.spec.name, self.networks.calls[self.spec.name]
        sizes.append(len(next(iter(batch.values()))))
        output = self.call(batch)
        if self.networks.on_call is not None:
            self.networks.on_call(net, len(sizes) - 1)
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.call, name)


class CountingNetworks:
    """Networks that count their calls: `calls[net]` holds the rows of each.

    Everything else is the wrapped networks' own. With `keep_open`, `close` does nothing, so that
    several pipelines can use the same networks.
    """

    name: str
    device: torch.device
    sizes: tuple[Size, ...] | None

    def __init__(self, networks: Networks, *, keep_open: bool = False) -> None:
        self._networks, self._keep_open = networks, keep_open
        self.name, self.sizes, self.device = networks.name, networks.sizes, networks.device
        self.calls: defaultdict[str, list[int]] = defaultdict(list)
        self.on_call: Callable[[str, int], None] | None = None
        """Called after each call with the network and the number of the call."""

    def find(self, net: str, shape: tuple[int, ...]) -> Backend:
        backend = self._networks.find(net, shape)
        return _CountingBackend(backend.spec, backend.device, backend, self)

    def describe(self) -> str:
        return self._networks.describe()

    def details(self) -> Details:
        return self._networks.details()

    def close(self) -> None:
        if not self._keep_open:
            self._networks.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._networks, name)
