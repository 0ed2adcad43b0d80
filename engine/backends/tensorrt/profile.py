"""One profile of one engine: bind once, run, capture, replay; and the scratch memory all share.

It knows execution contexts by their few methods, torch's streams and graphs, and no files. Nothing
here waits for the GPU but a capture and a growing arena, each of which happens once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.backends.engine_folder import check_batch
from engine.backends.tensorrt.contexts import Contexts
from engine.backends.tensorrt.plan import ALIGNMENT
from engine.netspec import NetSpec

log = logging.getLogger(__name__)


class Arena:
    """Scratch memory shared by every context; it only grows, and counts how often it moved."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.generation = 0
        self._memory: Tensor | None = None

    def reserve(self, size: int) -> None:
        """Make room for `size` bytes; raises torch.OutOfMemoryError and then stays as it was."""
        before = 0 if self._memory is None else self._memory.numel()
        if size <= before:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # calls in flight still work in the old memory
        self.free()
        try:
            self._allocate(size)
        except torch.OutOfMemoryError:
            self._allocate(before)
            raise

    def place(self) -> tuple[int, int]:
        """(address, bytes), as `set_device_memory` takes them."""
        assert self._memory is not None, "reserve first"
        return self._memory.data_ptr(), self._memory.numel()

    def free(self) -> None:
        """Give the memory back to torch; whoever was bound to it must bind again."""
        self._memory = None
        self.generation += 1

    def _allocate(self, size: int) -> None:
        if size:
            self._memory = torch.empty(size, dtype=torch.uint8, device=self.device)


@dataclass(frozen=True)
class ExecutionStream:
    """Where all calls run, one after another.

    Attributes:
        arena: the scratch memory.
        stream: a stream of our own. On the default one TensorRT would synchronise the device.
        cuda_graphs: whether calls are captured.
    """

    arena: Arena
    stream: torch.cuda.Stream
    cuda_graphs: bool


class Profile:
    """One batch size of one engine: a context, its output, and the graph of its call.

    The first call with given addresses binds them and runs plainly, which is also the warm-up; the
    second captures; later ones replay. Other addresses, or an arena that moved, start over.
    """

    def __init__(
        self, spec: NetSpec, size: int, index: int, contexts: Contexts, lane: ExecutionStream
    ) -> None:
        self._spec = spec
        self._size = size
        self._contexts = contexts
        self._lane = lane
        self._capture = lane.cuda_graphs
        self._graph: torch.cuda.CUDAGraph | None = None
        self._bound: tuple[int, ...] = ()
        self._context = self._prepare(index)
        shape = (size, *spec.outputs[0].shape)
        self.output = torch.empty(shape, dtype=torch.float32, device=lane.arena.device)
        self._address(spec.outputs[0].name, self.output)

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """`inputs` in the order of the spec; the result lies in `self.output` until the next."""
        addresses = (self._lane.arena.generation, *(tensor.data_ptr() for tensor in inputs))
        if addresses != self._bound:
            self._bind(inputs)
            self._run()
            self._bound = addresses
            self._contexts.save_cache()
            return self.output
        if self._graph is None and self._capture:
            self._graph = self._captured()
        if self._graph is None:
            self._run()
        else:
            self._graph.replay()
        return self.output

    def _prepare(self, index: int) -> Any:
        """A context whose profile and shapes are set, once and for all."""
        context = self._contexts.make()
        chosen = context.set_optimization_profile_async(index, self._lane.stream.cuda_stream)
        self._must(chosen, f"profile {index} cannot be selected")
        for tensor in self._spec.inputs:
            fits = context.set_input_shape(tensor.name, (self._size, *tensor.shape))
            self._must(fits, f"the shape of {tensor.name} is refused")
        open_inputs = context.infer_shapes()
        self._must(not open_inputs, f"{open_inputs} have no shape")
        return context

    def _bind(self, inputs: Sequence[Tensor]) -> None:
        check_batch(self._spec, inputs, self._lane.arena.device)
        self._bound, self._graph = (), None
        for spec, tensor in zip(self._spec.inputs, inputs, strict=True):
            self._address(spec.name, tensor)
        self._context.set_device_memory(*self._lane.arena.place())

    def _address(self, name: str, tensor: Tensor) -> None:
        if tensor.data_ptr() % ALIGNMENT:
            raise ValueError(
                f"{self._spec.name}.{name} does not start at a multiple of {ALIGNMENT} bytes, as "
                "TensorRT wants it; pass a tensor of its own, not a part of another"
            )
        taken = self._context.set_tensor_address(name, tensor.data_ptr())
        self._must(taken, f"the address of {name} is refused")

    def _run(self) -> None:
        """Enqueue on our own stream; events, not the host, order it with the caller's."""
        stream = self._lane.stream
        current = torch.cuda.current_stream(stream.device)
        stream.wait_stream(current)
        done = self._context.execute_async_v3(stream.cuda_stream)
        current.wait_stream(stream)
        self._must(done, "the call could not be enqueued")

    def _captured(self) -> torch.cuda.CUDAGraph | None:
        """The call as a CUDA graph; None, and no further try, where it cannot be captured."""
        handle = self._lane.stream.cuda_stream
        capturable = getattr(self._context, "is_stream_capturable", lambda _: True)
        try:
            if not capturable(handle):
                raise RuntimeError("TensorRT says that its work cannot be captured")
            return capture(self._lane.stream, lambda: self._context.execute_async_v3(handle))
        except RuntimeError as error:
            self._capture = False
            reason = str(error).split("\n")[0]
            log.warning(
                "No CUDA graph for %s at batch %d (%s); it runs without one, a little slower.",
                self._spec.name,
                self._size,
                reason,
            )
            return None

    def _must(self, done: bool, otherwise: str) -> None:
        if not done:
            raise self._contexts.error(f"{self._spec.name} at batch {self._size}: {otherwise}")


def capture(stream: torch.cuda.Stream, enqueue: Callable[[], bool]) -> torch.cuda.CUDAGraph:
    """Record what `enqueue` puts on `stream`; raises RuntimeError if it cannot be recorded.

    Other threads may use the GPU meanwhile ("thread_local"); unlike `torch.cuda.graph` this does
    not empty torch's cache of memory.
    """
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize(stream.device)
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            done = enqueue()
        finally:
            graph.capture_end()
    if not done:
        raise RuntimeError("TensorRT could not enqueue while recording")
    return graph
