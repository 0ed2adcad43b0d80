"""3 x 3 convolutions on CPUs with AVX-512 BF16 by a kernel of our own, `convolution.cpp`.

PyTorch's (oneDNN's) run at the processor's matrix rate already; Winograd's way needs 2.25 times
fewer multiplications for the same sums. It rounds its transformed inputs and weights to bfloat16
once more, so its error is some times that of a plain bf16 convolution, and it is used where bf16
was asked for only.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, library
from torch.nn.functional import conv2d

from engine.backends.torch.kernels.build import NUMBER, POINTER, Call, NativeError, load, wins

SOURCE = Path(__file__).with_name("convolution.cpp")
LANES = 32  # input channels that are transformed together
WIDE = 64  # output channels that are computed together
FILTER = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))  # G


@library.custom_op("diffedit_trt::convolution", mutates_args=())
def convolution(x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """A 3 x 3 convolution, stride 1, padding 1: x [N, C, H, W], bfloat16, to [N, K, H, W].

    Weights as `packed` gives them; bias [K], float32. Raises NativeError where the kernel cannot
    be had, or memory is short.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    images, channels, height, width = x.shape
    out = _like(x, len(bias))
    failed = kernel()(
        *(t.data_ptr() for t in (x, weights, bias, out)),
        *(images, height, width, channels, len(bias)),
        torch.get_num_threads(),
    )
    if failed:
        raise NativeError("The convolution kernel can't allocate memory.")
    return out


@convolution.register_fake
def _(x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    return _like(x, len(bias))


def _like(x: Tensor, channels: int) -> Tensor:
    shape = (x.shape[0], channels, *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def packed(weight: Tensor) -> Tensor:
    """Weights [K, C, 3, 3] as the kernel wants them: G g Gᵀ, int32 [K / 64, 16, C / 2, 64]."""
    out, channels = weight.shape[:2]
    g = torch.tensor(FILTER, device=weight.device)
    turned = (g @ weight.float() @ g.T).bfloat16()  # [K, C, 4, 4]
    # The kernel transforms even and odd channels of 32 apart: 0, 2, .., 30, 1, 3, .., 31.
    order = turned.reshape(out // WIDE, WIDE, channels // LANES, LANES // 2, 2, 16)
    pairs = order.transpose(3, 4).reshape(out // WIDE, WIDE, channels // 2, 2, 16)
    return pairs.permute(0, 4, 2, 1, 3).contiguous().view(torch.int32).squeeze(-1)


class Winograd(torch.nn.Module):
    """Stands in for a `Conv2d` that `fits`."""

    weights: Tensor
    bias: Tensor

    def __init__(self, conv: torch.nn.Conv2d) -> None:
        super().__init__()
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().float()
        self.register_buffer("weights", packed(conv.weight.detach()), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = convolution(x, self.weights, self.bias)
        return out


def install(module: torch.nn.Module) -> int:
    """Have a network in bfloat16 on a CPU use the kernel where that pays; how many layers do."""
    chosen = [(parent, name) for parent in module.modules() for name in _fitting(parent)]
    if not chosen or not usable():
        return 0
    for parent, name in chosen:
        setattr(parent, name, Winograd(getattr(parent, name)))
    return len(chosen)


def _fitting(parent: torch.nn.Module) -> list[str]:
    return [name for name, child in parent.named_children() if fits(child)]


def fits(module: Any) -> bool:
    """Whether it is a convolution that the kernel can stand in for."""
    return (
        type(module) is torch.nn.Conv2d
        and module.kernel_size == (3, 3)
        and module.stride == module.padding == module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and module.in_channels % LANES == 0
        and module.out_channels % WIDE == 0
        and module.weight.dtype == torch.bfloat16
        and module.weight.device.type == "cpu"
    )


@functools.cache
def usable() -> bool:
    """Whether the kernel can be had here and clearly beats PyTorch's; tried once a process."""
    return wins("convolution", kernel, trial)


def trial() -> tuple[Call, Call]:
    """A layer of middling size, by our kernel and by PyTorch's."""
    x = torch.randn(1, 256, 32, 32).bfloat16().to(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3).bfloat16().to(memory_format=torch.channels_last)
    ready, bias, narrow = packed(weight), torch.zeros(256), torch.zeros(256).bfloat16()
    return lambda: convolution(x, ready, bias), lambda: conv2d(x, weight, narrow, padding=1)


@functools.cache
def kernel() -> Any:
    """The compiled function. Raises NativeError with what the compiler said."""
    found = load(SOURCE, "diffedit_convolution")
    found.argtypes = [*[POINTER] * 4, *[NUMBER] * 5, ctypes.c_int]
    return found
