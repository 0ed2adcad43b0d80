"""One profile of one engine, that is, one batch size: bind the addresses, and run.

`engine.cuda_graphs` has the streams and graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.backends.tensor_checks import check_batch
from engine.backends.tensorrt.arena import ALIGNMENT, Arena
from engine.backends.tensorrt.context import ContextFactory
from engine.cuda_graphs import Call, CudaGraphs
from engine.dtypes import TORCH_DTYPES
from engine.netspec import NetSpec, TensorSpec


@dataclass(frozen=True)
class SharedResources:
    """The resources that the profiles of all networks share.

    Attributes:
        arena: the scratch memory.
        graphs: runs and captures all calls, one after another on one stream.
    """

    arena: Arena
    graphs: CudaGraphs[None]


class Profile:
    """An execution context for one batch size, and its outputs.

    If the input addresses or the arena's address change, they are bound again: the first call then
    runs without a CUDA graph, and the second captures one.

    Attributes:
        outputs: one tensor per output of the network; every call overwrites them.
    """

    def __init__(
        self,
        spec: NetSpec,
        size: int,
        index: int,
        contexts: ContextFactory,
        resources: SharedResources,
    ) -> None:
        self._spec = spec
        self._size = size
        self._contexts = contexts
        self._resources = resources
        self._stream = resources.graphs.stream.handle
        self._call = Call(*spec.kind, size)
        self._bound: tuple[int, ...] = ()
        self._context = self._create_context(index)
        self.outputs = tuple(self._allocate(tensor) for tensor in spec.outputs)
        for tensor, output in zip(spec.outputs, self.outputs, strict=True):
            self._bind_address(tensor.name, output)

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run on `inputs`, in the order of the spec, and return `outputs`."""
        arena = self._resources.arena
        addresses = (arena.generation, *(tensor.data_ptr() for tensor in inputs))
        bound = addresses == self._bound
        if not bound:
            self._bind(inputs)
        elif self._resources.graphs.captures_next(self._call) and not self._capturable():
            self._resources.graphs.refuse(self._call, "TensorRT reports that it cannot be captured")
        self._resources.graphs.run(self._call, addresses, self._enqueue)
        if not bound:
            self._bound = addresses
            self._contexts.save_cache()
        return self.outputs

    def _create_context(self, index: int) -> Any:
        """Create a context and set its profile and shapes, which never change."""
        context = self._contexts.create()
        selected = context.set_optimization_profile_async(
            index, self._resources.graphs.stream.handle
        )
        self._require(selected, f"profile {index} cannot be selected")
        for tensor in self._spec.inputs:
            accepted = context.set_input_shape(tensor.name, (self._size, *tensor.shape))
            self._require(accepted, f"the shape of {tensor.name} is refused")
        unknown = context.infer_shapes()
        self._require(not unknown, f"{unknown} have no shape")
        return context

    def _allocate(self, tensor: TensorSpec) -> Tensor:
        shape = (self._size, *tensor.shape)
        device = self._resources.arena.device
        return torch.empty(shape, dtype=TORCH_DTYPES[tensor.dtype], device=device)

    def _bind(self, inputs: Sequence[Tensor]) -> None:
        check_batch(self._spec, inputs, self._resources.arena.device)
        self._bound = ()
        for spec, tensor in zip(self._spec.inputs, inputs, strict=True):
            self._bind_address(spec.name, tensor)
        self._context.set_device_memory(*self._resources.arena.address_and_size())

    def _bind_address(self, name: str, tensor: Tensor) -> None:
        if tensor.data_ptr() % ALIGNMENT:
            raise ValueError(
                f"{self._spec.name}.{name} does not start at a multiple of {ALIGNMENT} bytes, as "
                "TensorRT requires; pass a separate tensor instead of a view of another one"
            )
        accepted = self._context.set_tensor_address(name, tensor.data_ptr())
        self._require(accepted, f"the address of {name} is refused")

    def _enqueue(self) -> None:
        enqueued = self._context.execute_async_v3(self._stream)
        self._require(enqueued, "the call could not be enqueued")

    def _capturable(self) -> bool:
        """Whether TensorRT allows a capture; only TensorRT for RTX reports it."""
        is_capturable = getattr(self._context, "is_stream_capturable", lambda _: True)
        return bool(is_capturable(self._stream))

    def _require(self, succeeded: bool, problem: str) -> None:
        if not succeeded:
            raise self._contexts.error(f"{self._spec.name} at batch {self._size}: {problem}")
