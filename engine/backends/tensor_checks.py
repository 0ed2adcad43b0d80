"""Compare tensors with their description: the tensors of a compiled file and those of a call.

The ONNX Runtime and TensorRT backends share it. It imports no runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.dtypes import TORCH_DTYPES
from engine.errors import EngineMismatch
from engine.netspec import NetSpec, TensorSpec


@dataclass(frozen=True)
class TensorInfo:
    """One input or output, as a compiled file states it.

    Attributes:
        name: as in the file.
        dtype: "fp32" or "int64", or the file's own name for any other type.
        shape: without the batch axis; None for a dynamic side.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


def check_tensors(
    spec: NetSpec, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], file: Path
) -> None:
    """Compare the inputs and outputs of a compiled file with its manifest, by name.

    Raises EngineMismatch for the first tensor that differs.
    """
    for kind, wanted, found in (
        ("input", spec.inputs, inputs),
        ("output", spec.outputs, outputs),
    ):
        by_name = {tensor.name: tensor for tensor in found}
        for tensor in wanted:
            there = by_name.pop(tensor.name, None)
            if there is None or not _same(tensor, there):
                what = f"{there.dtype} {there.shape}" if there else "missing"
                raise EngineMismatch(
                    f"The {kind} {tensor.name!r} of {file} is {what}, not {tensor.dtype} "
                    f"{tensor.shape} as its manifest says; delete the file and build again."
                )
        if by_name:
            raise EngineMismatch(
                f"{file} has an {kind} {min(by_name)!r} that is not in its manifest; delete the "
                "file and build again."
            )


def _same(wanted: TensorSpec, found: TensorInfo) -> bool:
    if found.dtype != wanted.dtype or len(found.shape) != len(wanted.shape):
        return False
    return all(f in (None, w) for w, f in zip(wanted.shape, found.shape, strict=True))


def check_batch(spec: NetSpec, inputs: Sequence[Tensor], device: torch.device) -> int:
    """Check the inputs of a call and return their batch size.

    These checks are not assertions, because a runtime reads any memory at the address it is given.
    Raises ValueError for another count, type, shape, device, profile or memory layout.
    """
    size = inputs[0].shape[0] if inputs and inputs[0].dim() else 0
    if size not in spec.batch_sizes or len(inputs) != len(spec.inputs):
        raise ValueError(f"{spec.name} runs batches of {spec.batch_sizes}, not {size}")
    for tensor, wanted in zip(inputs, spec.inputs, strict=True):
        is_as_wanted = (
            tuple(tensor.shape) == (size, *wanted.shape)
            and tensor.dtype == TORCH_DTYPES[wanted.dtype]
            and tensor.device == device
            and tensor.is_contiguous()
        )
        if not is_as_wanted:
            raise ValueError(
                f"{spec.name}.{wanted.name} must be a contiguous {wanted.dtype} tensor of "
                f"{(size, *wanted.shape)} on {device}, not {tensor.dtype} {tuple(tensor.shape)} "
                f"with strides {tensor.stride()} on {tensor.device}"
            )
    return size
