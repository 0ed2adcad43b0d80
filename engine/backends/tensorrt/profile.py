"""One profile of one engine, that is, one batch size: bind, run, capture, replay.

This module knows execution contexts, streams and graphs. It does not know files. It waits for the
GPU only when it captures a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.backends.engine_folder import check_batch
from engine.backends.tensorrt.arena import ALIGNMENT, Arena
from engine.backends.tensorrt.context import ContextFactory
from engine.cuda import ExecutionStream, try_capture, warn_no_graph
from engine.dtypes import TORCH_DTYPES
from engine.netspec import NetSpec, TensorSpec


@dataclass(frozen=True)
class SharedResources:
    """What the profiles of all networks share.

    Attributes:
        arena: the scratch memory.
        stream: runs all calls, one after another.
        cuda_graphs: whether calls are captured.
    """

    arena: Arena
    stream: ExecutionStream
    cuda_graphs: bool


class Profile:
    """An execution context for one batch size, its outputs, and the CUDA graph of its call.

    The first call with given input tensors binds their addresses and runs without a graph, which
    also warms up. The second call captures, later calls replay. New addresses, and an arena that
    moved, start again with the first call.

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
        self._can_capture = resources.cuda_graphs
        self._graph: torch.cuda.CUDAGraph | None = None
        self._bound: tuple[int, ...] = ()
        self._context = self._create_context(index)
        self.outputs = tuple(self._allocate(tensor) for tensor in spec.outputs)
        for tensor, output in zip(spec.outputs, self.outputs, strict=True):
            self._bind_address(tensor.name, output)

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run on `inputs`, in the order of the spec, and return `outputs`."""
        arena = self._resources.arena
        addresses = (arena.generation, *(tensor.data_ptr() for tensor in inputs))
        if addresses != self._bound:
            self._bind(inputs)
            self._run()
            self._bound = addresses
            self._contexts.save_cache()
            return self.outputs
        if self._graph is None and self._can_capture:
            self._graph = self._capture()
            self._can_capture = self._graph is not None
        if self._graph is None:
            self._run()
        else:
            with self._resources.stream.running():
                self._graph.replay()
        return self.outputs

    def _create_context(self, index: int) -> Any:
        """Create a context and set its profile and shapes, which never change."""
        context = self._contexts.create()
        selected = context.set_optimization_profile_async(index, self._resources.stream.handle)
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
        self._bound, self._graph = (), None
        for spec, tensor in zip(self._spec.inputs, inputs, strict=True):
            self._bind_address(spec.name, tensor)
        self._context.set_device_memory(*self._resources.arena.address_and_size())

    def _bind_address(self, name: str, tensor: Tensor) -> None:
        if tensor.data_ptr() % ALIGNMENT:
            raise ValueError(
                f"{self._spec.name}.{name} does not start at a multiple of {ALIGNMENT} bytes, as "
                "TensorRT requires; pass a tensor of its own, not a part of another one"
            )
        accepted = self._context.set_tensor_address(name, tensor.data_ptr())
        self._require(accepted, f"the address of {name} is refused")

    def _run(self) -> None:
        with self._resources.stream.running():
            enqueued = self._context.execute_async_v3(self._resources.stream.handle)
        self._require(enqueued, "the call could not be enqueued")

    def _capture(self) -> torch.cuda.CUDAGraph | None:
        """Return the call as a CUDA graph; None, after a warning, if it cannot be captured."""
        stream = self._resources.stream
        label = f"{self._spec.name} at batch {self._size}"
        is_capturable = getattr(self._context, "is_stream_capturable", lambda _: True)
        if not is_capturable(stream.handle):
            warn_no_graph(label, "TensorRT reports that its work cannot be captured")
            return None
        captured = try_capture(stream, self._enqueue_for_capture, label=label)
        return captured[0] if captured else None

    def _enqueue_for_capture(self) -> None:
        if not self._context.execute_async_v3(self._resources.stream.handle):
            raise RuntimeError("TensorRT could not enqueue the call during the capture")

    def _require(self, succeeded: bool, problem: str) -> None:
        if not succeeded:
            raise self._contexts.error(f"{self._spec.name} at batch {self._size}: {problem}")
