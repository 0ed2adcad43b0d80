"""The change that one layer's tensors describe: LoRA, LoHa, LoKr, full difference, and DoRA.

Sources of the formulas: LoRA arXiv 2106.09685, DoRA 2402.09353, LoHa 2108.06098, LoKr and the
Tucker forms of convolutions 2309.14859 (LyCORIS). The functions run on "meta" tensors too, which
check shapes without weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def weight_change(tensors: Tensors, weight: Tensor, factor: float | None = None) -> Tensor:
    """Return the change of a weight at scale 1.

    Args:
        tensors: the layer's tensors by kind, float32; see `engine.lora.names.TensorName`.
        weight: the model's own weight, float32, [out, in] or [out, in, height, width].
        factor: alpha / rank; None computes it from "alpha" (by default the rank).

    Returns:
        A tensor of the shape of `weight`.

    Raises ValueError if the shapes do not fit.
    """
    if "down" in tensors:
        change, rank = _lora(tensors), len(tensors["down"])
    elif "hada_w1_b" in tensors:
        change, rank = _loha(tensors), len(tensors["hada_w1_b"])
    elif "diff" in tensors:
        return _fitted(tensors["diff"], weight)
    else:
        change, rank = _lokr(tensors, weight), _lokr_rank(tensors)
    if factor is None:
        factor = float(tensors["alpha"]) / rank if rank and "alpha" in tensors else 1.0
    change = _fitted(change, weight) * factor
    if "magnitude" in tensors or "dora_scale" in tensors:
        return _with_magnitude(tensors, weight, change)
    return change


def _lora(t: Tensors) -> Tensor:
    """B A. A convolution's B is 1 x 1, and its A or the Tucker core `mid` has the kernel."""
    up, down = t["up"].flatten(1), t["down"]
    if "mid" in t:
        return torch.einsum("or,rs...,si->oi...", up, t["mid"], down.flatten(1))
    return (up @ down.flatten(1)).reshape(len(up), *down.shape[1:])


def _loha(t: Tensors) -> Tensor:
    """(A1 B1) * (A2 B2), element by element."""

    def product(n: int) -> Tensor:
        a, b, core = t[f"hada_w{n}_a"], t[f"hada_w{n}_b"], t.get(f"hada_t{n}")
        return a @ b if core is None else _tucker(core, a, b)

    return product(1) * product(2)


def _lokr(t: Tensors, weight: Tensor) -> Tensor:
    """The Kronecker product of W1 and W2, each of which may be a product itself."""
    first = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    if "lokr_w2" in t:
        second = t["lokr_w2"]
    elif "lokr_t2" in t:
        second = _tucker(t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"])
    else:
        second = t["lokr_w2_a"] @ t["lokr_w2_b"]
    outputs, inputs = (n // m for n, m in zip(weight.shape, first.shape, strict=False))
    second = second.reshape(outputs, inputs, *weight.shape[2:]).contiguous()
    return torch.kron(first.reshape(*first.shape, *[1] * (second.dim() - 2)), second)


def _lokr_rank(t: Tensors) -> int:
    """The rank; 0 if neither factor is decomposed, because alpha then has no effect."""
    return next((len(t[name]) for name in ("lokr_w1_b", "lokr_w2_b") if name in t), 0)


def _tucker(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The weight of a Tucker decomposition: core [r, r, ...], a [r, out], b [r, in]."""
    return torch.einsum("rs...,ro,si->oi...", core, a, b)


def _with_magnitude(t: Tensors, weight: Tensor, change: Tensor) -> Tensor:
    """DoRA: the change after which every column of the weight has the trained norm.

    PEFT has one norm per output; LyCORIS one per output or, in [1, in, ...], one per input.
    """
    magnitude = t["magnitude"] if "magnitude" in t else t["dora_scale"]
    inputs = magnitude.dim() > 1 and len(magnitude) == 1 and magnitude.shape[1] == weight.shape[1]
    kept = 1 if inputs and "magnitude" not in t else 0
    changed: Tensor = weight + change
    axes = [axis for axis in range(weight.dim()) if axis != kept]
    norm: Tensor = torch.linalg.vector_norm(changed, dim=axes, keepdim=True)
    return changed * (magnitude.reshape(norm.shape) / norm) - weight


def _fitted(change: Tensor, weight: Tensor) -> Tensor:
    """Reshape the change to the weight's shape: a 1 x 1 kernel may be stored as a matrix."""
    flat = change.dim() == 2 or weight.dim() == 2
    if change.shape != weight.shape and not (
        flat and change.flatten(1).shape == weight.flatten(1).shape
    ):
        raise ValueError(f"it changes a weight of {tuple(change.shape)}")
    return change.reshape(weight.shape)
