"""A backend without networks, to test batching, cancelling and serving in milliseconds.

It is part of the package, so that users can test their own code with it. Every output is a smooth,
deterministic function of its row. A fault function is called for each call: it may sleep, raise
`torch.OutOfMemoryError`, or return NaN. With a `FakeDevice`, calls finish after they return, as on
a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from engine.backends import Details, DeviceQueue, HostQueue
from engine.backends.fake_device import FakeDevice
from engine.errors import EngineMismatch
from engine.models.stable_diffusion import StableDiffusion
from engine.netspec import DENOISER_BATCH_SIZES, NetSpec, Role, Size, batch_sizes_for

Fault = Callable[[str, Mapping[str, Tensor], Tensor], Tensor | None]
"""`fault(network, batch, output)`: may sleep, raise, or return another output (None keeps it)."""

TOKENS, TEXT_WIDTH, CHANNELS = 77, 8, 4


class FakeBackend:
    """One fake network; the role in its `spec` decides what it computes."""

    def __init__(
        self, spec: NetSpec, fault: Fault | None = None, clock: FakeDevice | None = None
    ) -> None:
        self.spec = spec
        self.device = torch.device("cpu")
        self.calls: list[int] = []
        self._fault = fault
        self._clock = clock

    def __call__(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        self.calls.append(len(next(iter(batch.values()))))
        if self._clock is not None:
            self._clock.launch(self.spec.name, self.calls[-1])
        output = _COMPUTE[self.spec.role](batch, self.spec.outputs[0].shape)
        if self._fault is not None:
            changed = self._fault(self.spec.name, batch, output)
            output = output if changed is None else changed
        return (output,)


class FakeNetworks:
    """The networks of Stable Diffusion (4 latent channels, 77 tokens) at any size.

    Args:
        factor: pixels per latent cell along one side.
        denoiser_batch_sizes: the denoiser's profiles.
        pin_batch_size: the only profile of every network.
        fault: see `Fault`.
        clock: the device that calls are launched on; by default a call is finished when it returns.
    """

    name = "fake"
    sizes: tuple[Size, ...] | None = None

    def __init__(
        self,
        *,
        factor: int = 8,
        denoiser_batch_sizes: tuple[int, ...] = DENOISER_BATCH_SIZES,
        pin_batch_size: int | None = None,
        fault: Fault | None = None,
        clock: FakeDevice | None = None,
    ) -> None:
        self.device = torch.device("cpu")
        self.queue: DeviceQueue = clock or HostQueue()
        self.backends: dict[tuple[str, tuple[int, ...]], FakeBackend] = {}
        self._family = _family(factor)
        self._batch_sizes = denoiser_batch_sizes
        self._pin = pin_batch_size
        self._fault = fault
        self._clock = clock

    def find(self, net: str, shape: tuple[int, ...]) -> FakeBackend:
        if (net, shape) not in self.backends:
            spec = self._spec(net, shape)
            spec = spec.pinned(self._pin) if self._pin else spec
            self.backends[net, shape] = FakeBackend(spec, self._fault, self._clock)
        return self.backends[net, shape]

    def describe(self) -> str:
        return "fake (a function of each row, no network)"

    def details(self) -> Details:
        return Details("fp32")

    def close(self) -> None:
        self.backends.clear()

    def _spec(self, net: str, shape: tuple[int, ...]) -> NetSpec:
        role = next((n.role for n in self._family.networks if n.name == net), None)
        if role is None:
            raise EngineMismatch(f"The fake backend has no network named {net!r}.")
        size = self._family.size_of(net, shape)
        inputs, outputs = self._family.tensors(net, size or (self._family.size_multiple,) * 2)
        return NetSpec(net, role, size, inputs, outputs, batch_sizes_for(role, self._batch_sizes))


def _family(factor: int) -> StableDiffusion:
    """Stable Diffusion with a short embedding and the wanted VAE factor, a power of 2."""
    blocks = factor.bit_length()
    return StableDiffusion(
        {
            "text_encoder": {"max_position_embeddings": TOKENS, "hidden_size": TEXT_WIDTH},
            "vae": {"block_out_channels": [1] * blocks, "latent_channels": CHANNELS},
        }
    )


def _embed(batch: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    ids = batch["input_ids"].float()
    scale = torch.linspace(0.01, 0.1, TEXT_WIDTH)
    return torch.sin(ids[:, :, None] * scale)


def _encode(batch: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    pooled = torch.nn.functional.adaptive_avg_pool2d(batch["image"], (shape[1], shape[2]))
    return torch.cat([pooled, pooled[:, :1] - pooled[:, 1:2]], 1)


def _decode(batch: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    return torch.nn.functional.interpolate(batch["latent"][:, :3].clamp(-1, 1), shape[1:])


def _predict(batch: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    x, t, c = batch["latent"], batch["timestep"], batch["embedding"]
    shift = c.mean(1)[:, :CHANNELS, None, None]
    wave = torch.linspace(0, 3, x.shape[-1])
    return 0.9 * x + torch.sin(wave * shift * 10) * 0.1 + (t / 1e4)[:, None, None, None]


_COMPUTE: dict[Role, Callable[[Mapping[str, Tensor], tuple[int, ...]], Tensor]] = {
    "text_encoder": _embed,
    "image_encoder": _encode,
    "image_decoder": _decode,
    "denoiser": _predict,
}
