"""A backend without a network: a per-row function, so that batching, cancelling and serving are
tested in milliseconds. Shipped, because users test their own code with it too.

Every output is a smooth, deterministic function of its own row alone. Faults are injected by a
function that sees each call: it may sleep, raise `torch.OutOfMemoryError`, or answer NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from engine.errors import EngineMismatch
from engine.netspec import UNET_BATCH_SIZES, NetSpec, Size, TensorSpec, batch_sizes_for

Fault = Callable[[str, Mapping[str, Tensor], Tensor], Tensor | None]
"""`fault(net, batch, output)`: may sleep, raise, or return another output (None: keep it)."""

Dims = tuple[int, ...]
TOKENS, WIDTH, CHANNELS = 77, 8, 4


class FakeBackend:
    """One fake network; the name in its `spec` decides what it computes."""

    def __init__(self, spec: NetSpec, fault: Fault | None = None) -> None:
        self.spec = spec
        self.device = torch.device("cpu")
        self.calls: list[int] = []
        self._fault = fault

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        self.calls.append(len(next(iter(batch.values()))))
        output = _COMPUTE[self.spec.name](batch, self.spec.output.shape)
        if self._fault is not None:
            changed = self._fault(self.spec.name, batch, output)
            output = output if changed is None else changed
        return output


class FakeNetworks:
    """The four networks of Stable Diffusion's shapes (4 channels, 77 tokens) at any size.

    Args:
        factor: pixels a latent cell is wide.
        unet_batch_sizes: the UNet's profiles.
        pin_batch_size: run every network in this one profile.
        fault: see `Fault`.
    """

    name = "fake"
    sizes: tuple[Size, ...] | None = None

    def __init__(
        self,
        *,
        factor: int = 8,
        unet_batch_sizes: tuple[int, ...] = UNET_BATCH_SIZES,
        pin_batch_size: int | None = None,
        fault: Fault | None = None,
    ) -> None:
        self.device = torch.device("cpu")
        self.backends: dict[tuple[str, tuple[int, ...]], FakeBackend] = {}
        self._factor = factor
        self._batches = unet_batch_sizes
        self._pin = pin_batch_size
        self._fault = fault

    def find(self, net: str, shape: tuple[int, ...]) -> FakeBackend:
        if net not in _COMPUTE:
            raise EngineMismatch(f"The fake backend has no network named {net!r}.")
        if (net, shape) not in self.backends:
            spec = _spec(net, shape, batch_sizes_for(net, self._batches), self._factor)
            spec = spec.pinned(self._pin) if self._pin else spec
            self.backends[net, shape] = FakeBackend(spec, self._fault)
        return self.backends[net, shape]

    def describe(self) -> str:
        return "fake (a function per row, no network)"

    def close(self) -> None:
        self.backends.clear()


def _text(batch: Mapping[str, Tensor], dims: Dims) -> Tensor:
    ids = batch["input_ids"].float()
    scale = torch.linspace(0.01, 0.1, WIDTH)
    return torch.sin(ids[:, :, None] * scale)


def _vae_encode(batch: Mapping[str, Tensor], dims: Dims) -> Tensor:
    pooled = torch.nn.functional.adaptive_avg_pool2d(batch["image"], (dims[1], dims[2]))
    return torch.cat([pooled, pooled[:, :1] - pooled[:, 1:2]], 1)


def _vae_decode(batch: Mapping[str, Tensor], dims: Dims) -> Tensor:
    return torch.nn.functional.interpolate(batch["latent"][:, :3].clamp(-1, 1), dims[1:])


def _unet(batch: Mapping[str, Tensor], dims: Dims) -> Tensor:
    x, t, c = batch["latent"], batch["timestep"], batch["embedding"]
    shift = c.mean(1)[:, :CHANNELS, None, None]
    wave = torch.linspace(0, 3, x.shape[-1])
    return 0.9 * x + torch.sin(wave * shift * 10) * 0.1 + (t / 1e4)[:, None, None, None]


_COMPUTE: dict[str, Callable[[Mapping[str, Tensor], Dims], Tensor]] = {
    "text": _text,
    "vae_encode": _vae_encode,
    "vae_decode": _vae_decode,
    "unet": _unet,
}


def _spec(net: str, shape: tuple[int, ...], batch_sizes: tuple[int, ...], factor: int) -> NetSpec:
    embedding = TensorSpec("embedding", (TOKENS, WIDTH))
    if net == "text":
        return NetSpec(net, (TensorSpec("input_ids", shape, "int64"),), embedding, batch_sizes)
    if net == "unet":
        latent = TensorSpec("latent", shape)
        inputs = (latent, TensorSpec("timestep", ()), embedding)
        return NetSpec(net, inputs, TensorSpec("prediction", shape), batch_sizes)
    _, height, width = shape
    if net == "vae_encode":
        latent = TensorSpec("latent", (CHANNELS, height // factor, width // factor))
        return NetSpec(net, (TensorSpec("image", shape),), latent, batch_sizes)
    image = TensorSpec("image", (3, height * factor, width * factor))
    return NetSpec(net, (TensorSpec("latent", shape),), image, batch_sizes)
