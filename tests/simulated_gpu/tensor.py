"""Tensors of the simulated GPU, and the checks of every operation on them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.simulated_gpu.order import (
    HOST,
    GpuFault,
    Memory,
    Stream,
    Use,
    current_stream,
    host_waits,
    merge,
)

COPIES = frozenset({"aten::to", "aten::_to_copy", "aten::copy_", "aten::copy"})
"""Operations between devices. Everything else refuses tensors of two devices."""
INDEXING = frozenset({"aten::index", "aten::index_put_", "aten::index_put"})
"""PyTorch copies indices from the CPU to the GPU, and waits to count those of a mask."""
FILLS = frozenset({"aten::fill_", "aten::masked_fill", "aten::masked_fill_", "aten::where"})
"""Elementwise operations that PyTorch does not mark as such."""
READS = frozenset(
    f"aten::{name}"
    for name in (
        *("item", "_local_scalar_dense", "is_nonzero", "equal", "allclose"),
        *("nonzero", "masked_select", "unique", "_unique2"),
    )
)
"""Operations whose result, or its size, the host has to wait for."""
PINS = frozenset({"aten::pin_memory", "aten::_pin_memory"})

_pinned: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()
"""Address of a pinned storage of the host -> its use."""


class SimulatedTensor(Tensor):
    """A tensor with the device "cuda" and its values in the host's memory.

    Attributes:
        held: the values, a tensor of the CPU that shares memory with others as this one does.
        memory: the uses of that memory; views share it.
    """

    held: Tensor
    memory: Memory

    @staticmethod
    def __new__(cls, held: Tensor, memory: Memory) -> SimulatedTensor:
        with torch.inference_mode(False):  # views of weights are no inference tensors
            made: SimulatedTensor = Tensor._make_wrapper_subclass(
                cls,
                held.shape,
                strides=held.stride(),
                storage_offset=held.storage_offset(),
                dtype=held.dtype,
                device=torch.device("cuda", 0),
                requires_grad=False,
            )
        made.held, made.memory = held, memory
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return dispatch(func, args, kwargs or {})

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def new_tensor(self, data: Any, **options: Any) -> Tensor:  # type: ignore[override]
        device = options.pop("device", self.device)
        return torch.tensor(data, **{"dtype": self.dtype, **options}).to(device)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"simulated({self.held!r})"

    def __deepcopy__(self, memo: Any) -> Any:
        return memo.setdefault(id(self), self.clone())


class GpuMode(TorchDispatchMode):
    """Creates tensors on the simulated GPU, and sees the operations of the CPU, too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


def held(value: Any) -> Any:
    """The tensor of the CPU behind a simulated one; other values as they are."""
    if isinstance(value, SimulatedTensor):
        return value.held
    assert not (isinstance(value, Tensor) and value.is_cuda), f"{type(value)} has no values"
    return value


def tensors(*values: Any) -> list[Tensor]:
    """All tensors in nested arguments."""
    return [one for one in tree_leaves(values) if isinstance(one, Tensor)]


def simulated(*values: Any) -> list[SimulatedTensor]:
    """All tensors of the GPU in nested arguments."""
    return [one for one in tree_leaves(values) if isinstance(one, SimulatedTensor)]


def on_cpu(value: Any) -> Any:
    """The same arguments with the CPU's tensors and the CPU as device."""
    cpu = torch.device("cpu")
    return tree_map(lambda one: cpu if isinstance(one, torch.device) else held(one), value)


def dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Check one operation, run it on the CPU, and return its results on their device."""
    named = {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | kwargs
    target = _target(func, named)
    if target != "cuda" and not simulated(args, kwargs):
        return _on_host(func, args, kwargs)
    _check_devices(func, tensors(args, kwargs))
    stream = current_stream()
    waits = _waits(func, named, target)
    if waits:
        host_waits(stream, func._schema.name)
    use = stream.next(str(func))
    written = list(_written(func, named))
    if stream.capture is not None:
        stream.capture.before(written)
    for read in simulated(args, kwargs):
        if not any(read is other for other in written):
            read.memory.read_by(use, stream.clock)
    kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    made = func(*on_cpu(args), **on_cpu(kwargs))
    for one in written:
        _written_by(one, use, stream)
    result = _results(func, made, (args, kwargs), target, stream, use)
    if stream.capture is not None:
        stream.capture.record(func, args, kwargs, result)
    if waits:
        merge(HOST, stream.clock)
    return result


def _target(func: Any, named: dict[str, Any]) -> str:
    """Where the results of an operation are."""
    if named.get("device") is not None:
        return torch.device(named["device"]).type
    like = {"aten::to": "other", "aten::copy_": "self", "aten::copy": "self"}
    first = named.get(like.get(func._schema.name, ""))
    if isinstance(first, Tensor):
        return first.device.type
    return "cuda" if simulated(named) else "cpu"


def _check_devices(func: Any, found: list[Tensor]) -> None:
    """Single numbers of the CPU may take part in some operations of the GPU, as in PyTorch."""
    name = func._schema.name
    if name in COPIES:
        return
    takes_numbers = torch.Tag.pointwise in func.tags or name in INDEXING | FILLS
    for one in found:
        if isinstance(one, SimulatedTensor) or (takes_numbers and one.dim() == 0):
            continue
        if name in INDEXING and not one.is_floating_point():
            continue
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cpu "
            f"and cuda:0! ({func} with a tensor {tuple(one.shape)} on the CPU)"
        )


def _waits(func: Any, named: dict[str, Any], target: str) -> bool:
    """Whether the host waits for this operation."""
    name = func._schema.name
    if name in COPIES:
        source = named["src"] if "src" in named else named["self"]
        if source.is_cuda == (target == "cuda"):
            return False
        if not source.is_cuda:
            check_host_read(source, name)
        into_pageable = source.is_cuda and "src" in named and not is_pinned(named["self"])
        return into_pageable or not named.get("non_blocking")
    if name in INDEXING:
        indices = [one for one in named["indices"] if isinstance(one, Tensor)]
        return any(one.dtype in (torch.bool, torch.uint8) or not one.is_cuda for one in indices)
    if name == "aten::repeat_interleave":
        return isinstance(named["repeats"], Tensor) and named.get("output_size") is None
    return name in READS


def _written(func: Any, named: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors that an operation changes."""
    for argument in func._schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors(named.get(argument.name))


def _written_by(tensor: Tensor, use: Use, stream: Stream) -> None:
    if isinstance(tensor, SimulatedTensor):
        tensor.memory.written_by(use, stream.clock)
    elif is_pinned(tensor):
        _pinned[_address(tensor)].write = use


def _results(func: Any, made: Any, given: Any, target: str, stream: Stream, use: Use) -> Any:
    """The results as tensors of their device: an argument itself, a view of one, or new memory."""
    here = [one for one in tensors(given) if one.is_cuda == (target == "cuda")]
    known = {id(held(one)): one for one in here}
    memories = {_address(one.held): one.memory for one in simulated(here)}
    elsewhere = {_address(held(one)) for one in tensors(given) if id(held(one)) not in known}

    def result(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in known:
            return known[id(value)]
        if func._schema.name in COPIES and _address(value) in elsewhere:
            value = value.clone()  # the CPU had nothing to copy
        if target != "cuda":
            return value
        memory = memories.get(_address(value))
        size = value.untyped_storage().nbytes()
        return SimulatedTensor(value, memory or stream.allocate(size, use))

    return tree_map(result, made)


# -- the host's memory --------------------------------------------------------------------------


def _on_host(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation of the CPU. It may read what a copy from the GPU writes."""
    for one in tensors(args, kwargs):
        check_host_read(one, str(func))
    if func._schema.name in PINS:
        return _pin(args[0].clone())
    if kwargs.get("pin_memory"):
        return _pin(func(*args, **{**kwargs, "pin_memory": False}))
    return func(*args, **kwargs)


def _pin(tensor: Tensor) -> Tensor:
    memory = Memory(None)
    _pinned[_address(tensor)] = memory
    tensor.pinned_memory = memory  # type: ignore[attr-defined] # as long as the tensor
    return tensor


def is_pinned(tensor: Tensor) -> bool:
    return _address(tensor) in _pinned


def check_host_read(tensor: Tensor, what: str) -> None:
    """Raise unless the copies into a tensor of the host are known to be complete."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        return
    memory = _pinned.get(_address(tensor))
    if memory is not None and memory.write is not None and not memory.write.before(HOST):
        raise GpuFault(f"The host reads ({what}) what {memory.write} may not have written yet.")


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
