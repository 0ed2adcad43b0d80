"""CUDA graphs of PyTorch networks: one graph replays all kernels of a call with one launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.cuda import ExecutionStream, try_capture

WARM_UP_CALLS = 3


class GraphPool:
    """The stream and the memory that all CUDA graphs of one pipeline share.

    They can share memory because calls never overlap and the caller clones each output.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = ExecutionStream(device)
        self.memory: Any = torch.cuda.graph_pool_handle()


class GraphedCall:
    """A network at one batch size: captured once, replayed for the same input tensors.

    Other input tensors, and a network that cannot be captured, run eagerly on the caller's stream.
    """

    def __init__(
        self,
        call: Callable[[Sequence[Tensor]], tuple[Tensor, ...]],
        inputs: Sequence[Tensor],
        pool: GraphPool,
        label: str,
    ) -> None:
        self._call = call
        self._addresses = [tensor.data_ptr() for tensor in inputs]
        self._stream = pool.stream
        with self._stream.running():
            for _ in range(WARM_UP_CALLS):
                call(inputs)
        self._captured = try_capture(
            pool.stream, lambda: call(inputs), label=label, pool=pool.memory
        )

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if self._captured is None or [t.data_ptr() for t in inputs] != self._addresses:
            return self._call(inputs)
        graph, outputs = self._captured
        with self._stream.running():
            graph.replay()
        return outputs
