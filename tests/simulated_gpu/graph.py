"""Graphs of the simulated GPU: they record operations, and run them again."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tests.simulated_gpu.order import DEFAULT, GpuFault, Memory, Stream, current_stream
from tests.simulated_gpu.tensor import SimulatedTensor, on_cpu, simulated, tensors


class Graph:
    """Takes the place of `torch.cuda.CUDAGraph`.

    Nothing that was captured has run before the first replay: until then, captured results are NaN,
    and what the capture has changed is put back.
    """

    def __init__(self, keep_graph: bool = False) -> None:
        self._steps: list[tuple[Any, Any, Any, Any]] = []
        self._made: dict[int, Memory] = {}
        self._outside: dict[int, tuple[weakref.ref[Memory], str]] = {}
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._stream: Stream | None = None

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        if current_stream() is DEFAULT:
            raise RuntimeError("CUDA graphs must be captured on a non-default stream.")
        self._stream = current_stream()
        self._stream.capture = self

    def capture_end(self) -> None:
        assert self._stream is not None
        self._stream.capture = None
        for *_, result in self._steps:
            for one in simulated(result):
                if id(one.memory) in self._made and one.is_floating_point():
                    one.held.fill_(float("nan"))
        for tensor, before in self._before.values():
            tensor.copy_(before)

    def before(self, written: list[Tensor]) -> None:
        """Remember what an operation is about to change, if it existed before the capture."""
        for one in simulated(written):
            if id(one.memory) not in self._made:
                self._before.setdefault(id(one.memory), (one.held, one.held.clone()))

    def record(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Record an operation that has run."""
        for one in tensors(args, kwargs):
            if not isinstance(one, SimulatedTensor) and one.dim():
                raise RuntimeError(
                    f"CUDA error: {func}: operation not permitted when stream is capturing "
                    "(a copy from the host's memory)"
                )
        for one in simulated(args, kwargs):
            if id(one.memory) not in self._made:
                self._outside[id(one.memory)] = weakref.ref(one.memory), str(func)
        given = {id(one.memory) for one in simulated(args, kwargs)}
        made = {id(one.memory): one.memory for one in simulated(result)}
        self._made |= {key: memory for key, memory in made.items() if key not in given}
        # Without the tensors of the GPU, so that the graph keeps nothing alive but its own memory.
        self._steps.append((func, on_cpu(args), on_cpu(kwargs), result))

    def replay(self) -> None:
        """Run everything again, on the values that the inputs have now."""
        stream = current_stream()
        use = stream.next("the replay of a graph")
        for known, name in self._outside.values():
            found = known()
            if found is None:
                raise GpuFault(f"A graph is replayed that uses freed memory, in {name}.")
            found.read_by(use, stream.clock)
        with torch._C._DisableTorchDispatch(), torch.inference_mode():
            for step in self._steps:
                _run_again(*step)
        for memory in self._made.values():
            memory.written_by(use, stream.clock)


def _run_again(func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Run a captured operation again, with its results where they were."""
    given = {one.untyped_storage().data_ptr() for one in tensors(args, kwargs)}
    made = func(*args, **kwargs)
    for old, new in zip(tree_leaves(result), tree_leaves(made), strict=True):
        if isinstance(old, SimulatedTensor) and old.held.untyped_storage().data_ptr() not in given:
            old.held.copy_(new)
