"""Attention on CPUs with AVX-512 BF16 by a kernel of our own, `attention.cpp`.

PyTorch's reaches a quarter of such a processor's matrix rate; this one more than half. It is used
where it wins a trial.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, library
from torch.nn.functional import scaled_dot_product_attention

from engine.backends.torch.kernels.build import NUMBER, POINTER, Call, NativeError, load, wins

SOURCE = Path(__file__).with_name("attention.cpp")


@library.custom_op("diffedit_trt::attention", mutates_args=())
def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """softmax(q kᵀ / √D) v of every head; query [B, L, H·D], key and value [B, S, H·D], bfloat16.

    Raises NativeError where the kernel cannot be had, or memory is short.
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


class Processor:
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
    """Have a network in bfloat16 on a CPU use the kernel where that pays; how many layers do.

    Only plain attention is changed: no mask, no norms of its own, an even number of channels in
    each head.
    """
    chosen: list[Any] = [module for module in network.modules() if _plain(module)]
    if not chosen or not usable():
        return 0
    for module in chosen:
        module.set_processor(Processor(module.heads))
    return len(chosen)


def _plain(module: Any) -> bool:
    """Whether it is one of diffusers' attention modules that the kernel can stand in for."""
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
    """Whether the kernel can be had here and clearly beats PyTorch's; tried once a process."""
    return wins("attention", kernel, trial)


def trial() -> tuple[Call, Call]:
    """Self-attention of middling size, by our kernel and by PyTorch's."""
    q = torch.randn(1, 1024, 512).bfloat16()
    split = q.view(1, 1024, 8, 64).transpose(1, 2)
    return lambda: attention(q, q, q, 8), lambda: scaled_dot_product_attention(split, split, split)


@functools.cache
def kernel() -> Any:
    """The compiled function. Raises NativeError with what the compiler said."""
    found = load(SOURCE, "diffedit_attention")
    strides = ctypes.POINTER(NUMBER)
    found.argtypes = [*[POINTER] * 4, *[NUMBER] * 5, strides, ctypes.c_float, ctypes.c_int]
    return found
