"""Runs on PyTorch's meta device, where tensors have shapes and no content: what they can skip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class NormShapes(TorchFunctionMode):
    """A context in which group and layer norms return a tensor of their input's shape at once.

    PyTorch has these two in Python on the meta device, and they take most of the time of a run.
    A weight that does not fit its input is left to PyTorch, which raises the error.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs, fits = kwargs or {}, _FITS.get(func)
        if fits and args and args[0].is_meta and fits(*args, **kwargs):
            return args[0].new_empty(args[0].shape)
        return func(*args, **kwargs)


def _group_fits(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Any = None, eps: float = 0
) -> bool:
    channels = x.shape[1]
    return channels % num_groups == 0 and (weight is None or weight.shape == (channels,))


def _layer_fits(
    x: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Any = None, eps: float = 0
) -> bool:
    shape = tuple(normalized_shape)
    return tuple(x.shape[-len(shape) :]) == shape and (weight is None or weight.shape == shape)


_FITS: dict[Callable[..., Any], Callable[..., bool]] = {
    F.group_norm: _group_fits,
    F.layer_norm: _layer_fits,
}
