"""3 x 3 convolution on CPUs with AVX-512 BF16, by the kernel in `convolution.cpp`.

PyTorch's kernel (oneDNN) already reaches the processor's peak rate for matrix products. Winograd's
algorithm needs 2.25 times fewer multiplications for the same result. It rounds the transformed
inputs and weights to bfloat16 once more, so its error is several times that of a plain bf16
convolution, and it is installed only in networks that run in bf16. Processors that also have AMX
use PyTorch's kernel, which is faster there.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, library

from engine.backends.torch.kernels import build
from engine.backends.torch.kernels.build import NUMBER, POINTER, NativeError, is_preferred, load

SOURCE = Path(__file__).with_name("convolution.cpp")
INPUT_BLOCK = 32
"""Input channels that the kernel transforms together."""
OUTPUT_BLOCK = 64
"""Output channels that the kernel computes together."""
FILTER_TRANSFORM = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
"""G of Winograd's F(2 x 2, 3 x 3)."""


@library.custom_op("diffedit_trt::convolution", mutates_args=())
def convolution(x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """Compute a 3 x 3 convolution with stride 1 and padding 1.

    Args:
        x: [N, C, H, W], bfloat16.
        weights: the result of `pack_weights`.
        bias: [K], float32.

    Returns:
        [N, K, H, W], bfloat16, channels last.

    Raises:
        NativeError: the kernel cannot be used on this machine, or memory ran out.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    images, channels, height, width = x.shape
    out = _empty_output(x, len(bias))
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
    return _empty_output(x, len(bias))


def _empty_output(x: Tensor, channels: int) -> Tensor:
    shape = (x.shape[0], channels, *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def pack_weights(weight: Tensor) -> Tensor:
    """Transform weights [K, C, 3, 3] to G g Gᵀ and pack them for the kernel.

    Returns:
        [K / 64, 16, C / 2, 64], int32; each element is a pair of bfloat16.
    """
    out, channels = weight.shape[:2]
    g = torch.tensor(FILTER_TRANSFORM, device=weight.device)
    transformed = (g @ weight.float() @ g.T).bfloat16()  # [K, C, 4, 4]
    # The kernel separates even and odd channels of a block: 0, 2, .., 30, 1, 3, .., 31.
    order = transformed.reshape(
        out // OUTPUT_BLOCK, OUTPUT_BLOCK, channels // INPUT_BLOCK, INPUT_BLOCK // 2, 2, 16
    )
    pairs = order.transpose(3, 4).reshape(out // OUTPUT_BLOCK, OUTPUT_BLOCK, channels // 2, 2, 16)
    return pairs.permute(0, 4, 2, 1, 3).contiguous().view(torch.int32).squeeze(-1)


class WinogradConv2d(torch.nn.Module):
    """Replaces a `Conv2d` that `is_supported`."""

    weights: Tensor
    bias: Tensor

    def __init__(self, conv: torch.nn.Conv2d) -> None:
        super().__init__()
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().float()
        self.register_buffer("weights", pack_weights(conv.weight.detach()), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = convolution(x, self.weights, self.bias)
        return out


def install(module: torch.nn.Module) -> int:
    """Use the kernel in a bfloat16 network on a CPU; return the number of changed layers.

    Changes nothing if the kernel is not `usable` here.
    """
    layers = [(parent, name) for parent in module.modules() for name in _supported_names(parent)]
    if not layers or not usable():
        return 0
    for parent, name in layers:
        setattr(parent, name, WinogradConv2d(getattr(parent, name)))
    return len(layers)


def _supported_names(parent: torch.nn.Module) -> list[str]:
    return [name for name, child in parent.named_children() if is_supported(child)]


def is_supported(module: Any) -> bool:
    """Return whether this is a convolution that the kernel can replace."""
    return (
        type(module) is torch.nn.Conv2d
        and module.kernel_size == (3, 3)
        and module.stride == module.padding == module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and module.in_channels % INPUT_BLOCK == 0
        and module.out_channels % OUTPUT_BLOCK == 0
        and module.weight.dtype == torch.bfloat16
        and module.weight.device.type == "cpu"
    )


@functools.cache
def usable() -> bool:
    """Return whether networks use the kernel here: it works, and is faster on this processor."""
    return is_preferred() and works()


@functools.cache
def works() -> bool:
    """Return whether the kernel can run here."""
    return build.works("convolution", kernel)


@functools.cache
def kernel() -> Any:
    """Return the compiled function. Raises NativeError with the compiler's message."""
    function = load(SOURCE, "diffedit_convolution")
    function.argtypes = [*[POINTER] * 4, *[NUMBER] * 5, ctypes.c_int]
    return function
