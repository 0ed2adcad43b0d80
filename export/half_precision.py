"""Emulate a GPU's half precision on a CPU: sum products in fp32, round the results.

PyTorch's fp16 convolutions on a CPU are hundreds of times slower than fp32 ones. Its fused
attention never rounds the scores, but the exported graph does, so an overflow would not be
detected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

NARROW = (torch.float16, torch.bfloat16)
PRODUCTS = {
    F.conv2d,
    F.linear,
    torch.matmul,
    torch.bmm,
    torch.baddbmm,
    Tensor.matmul,
    Tensor.bmm,
    Tensor.__matmul__,
}


class HalfPrecisionEmulation(TorchFunctionMode):
    """A context manager that computes products of fp16 and bf16 tensors in fp32 and rounds their
    results. It changes nothing else."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        narrow = next((x.dtype for x in tensors if x.dtype in NARROW), None)
        if narrow is None:
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if func in PRODUCTS:
            wide = {name: _widen(value) for name, value in kwargs.items()}
            return func(*map(_widen, args), **wide).to(narrow)
        return func(*args, **kwargs)


def _widen(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in NARROW else value


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention as in the exported graph: query and key are each multiplied by the root of the
    scale, and scores and weights are rounded to the inputs' type."""
    assert not enable_gqa and not dropout_p
    root = (query.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    scores = ((query * root).float() @ (key * root).float().mT).to(query.dtype)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    answer: Tensor = (scores.softmax(-1).float() @ value.float()).to(value.dtype)
    return answer
