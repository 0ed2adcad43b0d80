"""CUDA graphs: one launch replays all kernels of a call.

PyTorch and TensorRT calls are captured in the same way.
"""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from engine.cuda import ExecutionStream
from engine.errors import DiffEditError, first_line, out_of_memory

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_GRAPHS = 64
"""Maximum number of graphs of one pipeline, enough for four picture sizes with the default
profiles. It is limited because each graph uses memory."""


class Call(NamedTuple):
    """A call that is captured once: a network, the shape of its rows, and their number."""

    network: str
    shape: tuple[int, ...]
    batch: int

    def __str__(self) -> str:
        return f"{self.network} at batch {self.batch}"


@dataclass
class _Recorded(Generic[T]):
    """A call with given addresses; `graph` is None until it is captured."""

    addresses: tuple[int, ...]
    graph: torch.cuda.CUDAGraph | None = None
    result: T | None = None


class CudaGraphs(Generic[T]):
    """The CUDA graphs of one pipeline. `T` is what a call returns.

    The first run of a call enqueues its work, which also warms up. The second run captures it, and
    later ones replay. New addresses start again with the first run. If there are too many graphs,
    the least recently used one is dropped. A call that cannot be captured, or did not fit into
    memory, is never captured again.

    The graphs share their memory, because calls do not overlap and callers copy the results.

    Args:
        stream: runs all calls.
        limit: the largest number of graphs; 0 captures nothing.
    """

    def __init__(self, stream: ExecutionStream, limit: int = MAX_GRAPHS) -> None:
        self.stream = stream
        self._limit = limit
        self._pool: Any = torch.cuda.graph_pool_handle() if limit else None
        self._recorded: OrderedDict[Call, _Recorded[T]] = OrderedDict()
        self._refused: set[Call] = set()

    def run(self, call: Call, addresses: tuple[int, ...], enqueue: Callable[[], T]) -> T:
        """Run a call on the stream.

        Args:
            call: what is run.
            addresses: the addresses that the graph records; if they change, it is captured again.
            enqueue: launches the work on the current stream; returns tensors that the next run
                overwrites.
        """
        known = self._recorded.get(call)
        if not self._limit or call in self._refused:
            return self._enqueue(enqueue)
        if known is None or known.addresses != addresses:
            self._recorded.pop(call, None)
            result = self._enqueue(enqueue)
            self._remember(call, _Recorded(addresses))
            return result
        self._recorded.move_to_end(call)
        if known.graph is None and not self._capture(call, known, enqueue):
            return self._enqueue(enqueue)
        assert known.graph is not None
        with self.stream.running():
            known.graph.replay()
        return known.result  # type: ignore[return-value]

    def captures_next(self, call: Call) -> bool:
        """Whether the next run of `call` with the same addresses captures it."""
        known = self._recorded.get(call)
        return known is not None and known.graph is None

    def refuse(self, call: Call, reason: str) -> None:
        """Never capture `call`, and log a warning once."""
        if self._limit and call not in self._refused:
            self._refused.add(call)
            self._recorded.pop(call, None)
            log.warning("No CUDA graph for %s (%s); it runs without one, slower.", call, reason)

    def clear(self) -> None:
        """Drop all graphs and their memory. The GPU must be idle."""
        self._recorded.clear()

    def _enqueue(self, enqueue: Callable[[], T]) -> T:
        with self.stream.running():
            return enqueue()

    def _remember(self, call: Call, recorded: _Recorded[T]) -> None:
        self._recorded[call] = recorded
        while len(self._recorded) > self._limit:
            self._recorded.popitem(last=False)

    def _capture(self, call: Call, known: _Recorded[T], enqueue: Callable[[], T]) -> bool:
        """Capture a call. After an error it is refused, and the error is logged."""
        try:
            known.graph, known.result = capture(self.stream, enqueue, self._pool)
            return True
        except (RuntimeError, DiffEditError) as error:
            reason = "its graph does not fit into memory" if out_of_memory(error) else None
            self.refuse(call, reason or first_line(error))
            return False


def capture(
    stream: ExecutionStream, enqueue: Callable[[], T], pool: Any
) -> tuple[torch.cuda.CUDAGraph, T]:
    """Record the work that `enqueue` launches; return the graph and the result of `enqueue`.

    Other threads may use the GPU during the capture ("thread_local" mode). Unlike
    `torch.cuda.graph`, this does not empty PyTorch's memory cache, and it restores the current
    stream after every error.

    Args:
        stream: the stream to record; it becomes the current one.
        enqueue: launches the work.
        pool: the memory pool, from `torch.cuda.graph_pool_handle`.

    Raises:
        RuntimeError: the work cannot be captured.
    """
    with torch.cuda.device(stream.device), torch.cuda.stream(stream.stream):
        torch.cuda.synchronize(stream.device)
        graph = torch.cuda.CUDAGraph()
        try:
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                result = enqueue()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # the error of `enqueue` is the cause
                    graph.capture_end()
                raise
            graph.capture_end()
        except BaseException:
            _leave_pool(stream.device, pool)
            raise
    return graph, result


def _leave_pool(device: torch.device, pool: Any) -> None:
    """End a failed capture in PyTorch's allocator.

    If the capture is invalid, `capture_end` raises before it does this, and the allocator would
    then never return memory to the GPU. If `capture_end` has done it, a second time is an error.
    """
    with contextlib.suppress(RuntimeError):
        torch._C._cuda_endAllocateToPool(device.index, pool)
        torch._C._cuda_releasePool(device.index, pool)
