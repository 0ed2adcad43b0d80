"""Count the memory that one call of a network needs in addition to its weights.

The module runs on PyTorch's meta device, where tensors have shapes and no content, and every
storage is counted while it is alive. The scratch memory inside a device's kernels is not counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.dtypes import TORCH_DTYPES
from engine.models import Network
from engine.netspec import NetSpec
from engine.shape_run import NormShapes


class LiveBytes(TorchDispatchMode):
    """A context manager that counts the bytes of the storages that operators create.

    Attributes:
        peak: the largest number of bytes that were alive at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        before = {_key(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and _key(tensor) not in before | self._known:
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


class FusedAttention(TorchFunctionMode):
    """Attention as computed by the kernels of CPUs and GPUs, which do not store the scores."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, _, value = (*args, *(kwargs or {}).values())[:3]
        return query.new_empty((*query.shape[:-1], value.shape[-1]))


def working_bytes(network: Network, module: torch.nn.Module, spec: NetSpec, rows: int) -> int:
    """Bytes that a call of `rows` rows needs in PyTorch, including its inputs and outputs.

    Args:
        module: the network's part on the meta device, in the precision of `spec`.
    """
    inputs = [
        torch.empty((rows, *t.shape), dtype=TORCH_DTYPES[t.dtype], device="meta")
        for t in spec.inputs
    ]
    own: int = sum(tensor.nbytes for tensor in inputs)
    counted = LiveBytes()
    with torch.no_grad(), FusedAttention(), NormShapes(), counted:
        network.call(module, TORCH_DTYPES[spec.precision], *inputs)
    return own + counted.peak


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
