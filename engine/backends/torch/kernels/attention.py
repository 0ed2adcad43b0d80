"""Attention on CPUs with AVX-512 BF16, by the kernel in `attention.cpp`.

It reaches more than half of the processor's peak rate for matrix products; PyTorch's kernel reaches
a quarter. Processors that also have AMX use PyTorch's kernel, which is faster there.
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

SOURCE = Path(__file__).with_name("attention.cpp")


@library.custom_op("diffedit_trt::attention", mutates_args=())
def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Compute softmax(q kᵀ / √D) v for every head.

    Args:
        query: [B, L, H·D], bfloat16.
        key: [B, S, H·D], bfloat16.
        value: [B, S, H·D], bfloat16.
        heads: H.

    Returns:
        [B, L, H·D], bfloat16.

    Raises:
        NativeError: the kernel cannot be used on this machine, or memory ran out.
    """
    tensors = [t if t.stride(-1) == 1 else t.contiguous() for t in (query, key, value)]
    batch, queries, channels = query.shape
    width = channels // heads
    out = torch.empty((batch, queries, channels), dtype=query.dtype)
    strides = [s for t in (*tensors, out) for s in (t.stride(0), width, t.stride(1))]
    failed = kernel()(
        *(t.data_ptr() for t in (*tensors, out)),
        batch,
        heads,
        queries,
        key.shape[1],
        width,
        (ctypes.c_int64 * len(strides))(*strides),
        width**-0.5,
        torch.get_num_threads(),
    )
    if failed:
        raise NativeError("The attention kernel can't allocate memory.")
    return out


@attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    return query.new_empty(query.shape)


class KernelAttnProcessor:
    """A diffusers attention processor that calls the kernel."""

    def __init__(self, heads: int) -> None:
        self._heads = heads

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        assert attention_mask is None
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        out = attention(
            attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context), self._heads
        )
        projected: Tensor = attn.to_out[0](out)
        return projected


def install(network: torch.nn.Module) -> int:
    """Use the kernel in a bfloat16 network on a CPU; return the number of changed layers.

    Changes nothing if the kernel is not `usable` here. Layers with a mask, norms or an odd number
    of channels per head keep PyTorch's attention.
    """
    layers: list[Any] = [module for module in network.modules() if _is_supported(module)]
    if not layers or not usable():
        return 0
    for layer in layers:
        layer.set_processor(KernelAttnProcessor(layer.heads))
    return len(layers)


def _is_supported(module: Any) -> bool:
    """Return whether this is a diffusers attention module that the kernel can replace."""
    if not hasattr(module, "set_processor") or not hasattr(module, "to_q"):
        return False
    parts = ("group_norm", "spatial_norm", "norm_q", "norm_k", "norm_cross", "add_k_proj")
    return (
        all(getattr(module, part, None) is None for part in parts)
        and not module.residual_connection
        and module.rescale_output_factor == 1
        and module.to_q.weight.dtype == torch.bfloat16
        and module.to_q.weight.device.type == "cpu"
        and module.to_k is not None
        and module.to_q.out_features % (2 * module.heads) == 0
        and module.to_k.out_features == module.to_q.out_features
        and module.scale == (module.to_q.out_features // module.heads) ** -0.5
    )


@functools.cache
def usable() -> bool:
    """Return whether networks use the kernel here: it works, and is faster on this processor."""
    return is_preferred() and works()


@functools.cache
def works() -> bool:
    """Return whether the kernel can run here."""
    return build.works("attention", kernel)


@functools.cache
def kernel() -> Any:
    """Return the compiled function. Raises NativeError with the compiler's message."""
    function = load(SOURCE, "diffedit_attention")
    strides = ctypes.POINTER(NUMBER)
    function.argtypes = [*[POINTER] * 4, *[NUMBER] * 5, strides, ctypes.c_float, ctypes.c_int]
    return function
