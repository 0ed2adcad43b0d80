"""Attention on CPUs with AVX-512 BF16 by a kernel of our own, `attention.cpp`.

PyTorch's reaches a quarter of such a processor's matrix rate; this one more than half. The
machine's C++ compiler makes it when it is first wanted, into the user's cache folder, and it is
used where it is the faster of the two.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, library
from torch.nn.functional import scaled_dot_product_attention

from engine.backends.caches import user_cache

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("attention.cpp")
INSTRUCTIONS = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512bf16", "fma")
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-fopenmp"),
    *(f"-m{name}" for name in INSTRUCTIONS),
)
COMPILING_AT_MOST = 120  # seconds


class AttentionError(RuntimeError):
    """The kernel cannot be had here; one sentence."""


@library.custom_op("diffedit_trt::attention", mutates_args=())
def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """softmax(q kᵀ / √D) v of every head; query [B, L, H·D], key and value [B, S, H·D], bfloat16.

    Raises AttentionError where the kernel cannot be had, or memory is short.
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
        raise AttentionError("The attention kernel can't allocate memory.")
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


def install(unet: torch.nn.Module) -> bool:
    """Have a UNet in bfloat16 on a CPU use the kernel where that pays; whether it does.

    Only plain attention is changed: no mask, no norms of its own, an even number of channels in
    each head.
    """
    chosen: list[Any] = [module for module in unet.modules() if _plain(module)]
    if not chosen or not usable():
        return False
    for module in chosen:
        module.set_processor(Processor(module.heads))
    return True


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
    """Whether the kernel can be had here and beats PyTorch's; measured once a process."""
    if not torch.cpu._is_avx512_bf16_supported():
        return False
    try:
        kernel()
    except AttentionError as error:
        log.info("attention stays PyTorch's: %s", error)
        return False
    with torch.inference_mode():
        q = torch.randn(1, 1024, 512).to(torch.bfloat16)
        split = q.view(1, 1024, 8, 64).transpose(1, 2)
        ours = _fastest(lambda: attention(q, q, q, 8))
        theirs = _fastest(lambda: scaled_dot_product_attention(split, split, split))
    log.info("attention: %.1f ms by our kernel, %.1f ms by PyTorch's", 1e3 * ours, 1e3 * theirs)
    return ours < theirs


def _fastest(call: Callable[[], object]) -> float:
    taken = []
    for _ in range(4):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return min(taken)


@functools.cache
def kernel() -> Callable[..., int]:
    """The compiled function. Raises AttentionError with what the compiler said."""
    try:
        found = ctypes.CDLL(str(_library())).diffedit_attention
    except (OSError, AttributeError) as error:
        raise AttentionError(f"its library cannot be loaded ({error}).") from None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    strides = ctypes.POINTER(number)
    found.argtypes = [*[pointer] * 4, *[number] * 5, strides, ctypes.c_float, ctypes.c_int]
    found.restype = ctypes.c_int
    return found


def _library() -> Path:
    """The shared library, compiled if this source was not yet with this compiler."""
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if compiler is None:
        raise AttentionError("there is no C++ compiler (g++, or what CXX names).")
    known = "\n".join([SOURCE.read_text(), compiler, *FLAGS])
    path = user_cache() / f"attention-{hashlib.sha256(known.encode()).hexdigest()[:16]}.so"
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            command = [compiler, *FLAGS, str(SOURCE), "-o", str(made)]
            done = subprocess.run(
                command, text=True, capture_output=True, timeout=COMPILING_AT_MOST
            )
            if done.returncode:
                first = (done.stderr.strip() or "no message").splitlines()[0]
                raise AttentionError(f"{compiler} could not compile it ({first}).")
            os.replace(made, path)
    except (OSError, subprocess.SubprocessError) as error:
        raise AttentionError(f"it could not be compiled into {path.parent} ({error}).") from None
    return path
