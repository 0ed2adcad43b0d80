"""One profile of one engine: bind once, run, capture, replay; and the scratch memory all share.

It knows execution contexts by their few methods, torch's streams and graphs, and no files. Nothing
here waits for the GPU but a capture and a growing arena, both of which happen once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.backends.contexts import Contexts
from engine.backends.folder import check_batch
from engine.backends.plan import ALIGNMENT
from engine.spec import NetSpec

log = logging.getLogger(__name__)


class Profile:
    """One batch size of one engine: a context, its output, and the graph of its call.

    The first call with given addresses binds them and runs plainly, which is also the warm-up; the
    second captures; later ones replay. Other addresses, or an arena that has grown, start over.
    """

    def __init__(
        self,
        spec: NetSpec,
        size: int,
        context: Any,
        contexts: Contexts,
        arena: Arena,
        stream: torch.cuda.Stream,
        cuda_graphs: bool,
    ) -> None:
        self._spec = spec
        self._context = context
        self._contexts = contexts
        self._arena = arena
        self._stream = stream
        self._capture_wanted = cuda_graphs
        self._graph: torch.cuda.CUDAGraph | None = None
        self._bound: tuple[int, ...] = ()
        shape = (size, *spec.output.shape)
        self.output = torch.empty(shape, dtype=torch.float32, device=arena.device)
        for tensor in spec.inputs:
            self._must(context.set_input_shape(tensor.name, (size, *tensor.shape)), tensor.name)
        self._must(context.set_tensor_address(spec.output.name, self.output.data_ptr()), "output")
        missing = context.infer_shapes()
        self._must(not missing, f"shapes of {missing}")

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        addresses = (self._arena.generation, *(tensor.data_ptr() for tensor in inputs))
        if addresses != self._bound:
            self._bind(inputs)
            self._bound = addresses
            self._run()
            self._contexts.save_cache()
            return self.output
        if self._graph is None and self._capture_wanted:
            self._graph = self._captured()
        if self._graph is None:
            self._run()
        else:
            self._graph.replay()
        return self.output

    def _bind(self, inputs: Sequence[Tensor]) -> None:
        check_batch(self._spec, inputs, self._arena.device)
        self._bound, self._graph = (), None
        self._context.set_device_memory(*self._arena.place())
        for spec, tensor in zip(self._spec.inputs, inputs, strict=True):
            self._must(self._context.set_tensor_address(spec.name, tensor.data_ptr()), spec.name)

    def _run(self) -> None:
        """Enqueue on our own stream (on the default one TensorRT would synchronise the device);
        events, not the host, order it with the caller's."""
        current = torch.cuda.current_stream(self._arena.device)
        self._stream.wait_stream(current)
        done = self._context.execute_async_v3(self._stream.cuda_stream)
        current.wait_stream(self._stream)
        self._must(done, "the call")

    def _captured(self) -> torch.cuda.CUDAGraph | None:
        """The call as a CUDA graph; None, and no further try, where it cannot be captured."""
        handle = self._stream.cuda_stream
        capturable = getattr(self._context, "is_stream_capturable", lambda _: True)
        try:
            if not capturable(handle):
                raise RuntimeError("TensorRT says that its work cannot be captured")
            return capture(self._stream, lambda: self._context.execute_async_v3(handle))
        except RuntimeError as error:
            self._capture_wanted = False
            log.warning(
                "No CUDA graph for %s, batch %d (%s); it runs without one, a little slower.",
                self._spec.name,
                len(self.output),
                str(error).split("\n")[0],
            )
            return None

    def _must(self, done: bool, what: str) -> None:
        if not done:
            raise self._contexts.error(f"{self._spec.name}, batch {len(self.output)}: {what}")


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
        torch.cuda.synchronize(self.device)  # calls in flight still work in the old memory
        self.free()
        try:
            self._allocate(size)
        except torch.OutOfMemoryError:
            self._allocate(before)
            raise

    def place(self) -> tuple[int, int]:
        """(address, bytes) for `set_device_memory`."""
        assert self._memory is not None, "reserve first"
        return self._memory.data_ptr(), self._memory.numel()

    def free(self) -> None:
        self._memory = None
        self.generation += 1

    def _allocate(self, size: int) -> None:
        if size:
            self._memory = torch.empty(size, dtype=torch.uint8, device=self.device)
            assert self._memory.data_ptr() % ALIGNMENT == 0


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
