"""The simulated GPU itself: it gives right values, and finds the faults that it is made to find."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from diffedit.algorithm.transfer import to_device
from engine.buffers import to_host
from engine.cuda import ExecutionStream
from engine.cuda_graphs import capture
from tests.simulated_gpu import GpuFault, simulated_gpu

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def gpu() -> Iterator[None]:
    with simulated_gpu():
        yield


def test_afterwards_everything_is_as_before() -> None:
    before = dict(vars(torch.cuda)), dict(vars(torch)), threading.Thread.run, Tensor.numpy
    with simulated_gpu():
        assert torch.cuda.Stream is before[0]["Stream"] and torch.tensor is not before[1]["tensor"]
    assert (vars(torch.cuda), vars(torch), threading.Thread.run, Tensor.numpy) == before


def ones(size: int = 4) -> Tensor:
    return torch.ones(size, device="cuda")


def test_values_are_right_and_on_the_gpu() -> None:
    layer: Any = torch.nn.Linear(4, 2)
    want = layer(torch.arange(4.0))
    layer = layer.to("cuda")
    x = torch.arange(4, device="cuda", dtype=torch.float32)
    assert x.is_cuda and layer.weight.is_cuda and layer(x).device == GPU
    assert layer(x).cpu().equal(want)
    x[1:3] = 7
    assert x.tolist() == [0, 7, 7, 3] and x[1:].sum().item() == 17


def test_other_threads_have_the_gpu() -> None:
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(ones() + 1))
    thread.start()
    thread.join()
    assert found[0].is_cuda and found[0].tolist() == [2.0] * 4


def test_tensors_of_two_devices_do_not_mix() -> None:
    assert (ones() * torch.tensor(2.0)).tolist() == [2.0] * 4  # a single number may
    with pytest.raises(RuntimeError, match="on the same device"):
        ones() + torch.ones(4)
    with pytest.raises(RuntimeError, match="on the same device"):
        torch.stack([ones(), torch.ones(4)])
    with pytest.raises(RuntimeError, match="on the same device"):
        torch.stack([ones().sum(), torch.tensor(1.0)])


# -- waits --------------------------------------------------------------------------------------


WAITING: list[Callable[[Tensor], object]] = [
    lambda x: x.sum().item(),
    lambda x: bool(x[0]),
    lambda x: x.tolist(),
    lambda x: x.cpu(),
    lambda x: x.nonzero(),
    lambda x: x[x > 0],
    lambda x: x[torch.tensor([0])],
    lambda x: x.new_tensor([1.0]),
    lambda x: torch.tensor([1.0], device="cuda"),
    lambda x: x.copy_(torch.ones(4)),
    lambda x: torch.empty(4).copy_(x, non_blocking=True),  # its memory is not pinned
]
NOT_WAITING: list[Callable[[Tensor], object]] = [
    lambda x: x + 1,
    lambda x: x[1:].clone(),
    lambda x: x[torch.zeros(2, dtype=torch.long, device="cuda")],
    lambda x: x.to("cuda", torch.float16),
    lambda x: torch.ones(4).to("cuda", non_blocking=True),
    lambda x: to_device(torch.ones(4), GPU),
    to_host,
]


@pytest.mark.parametrize("operation", WAITING)
def test_a_wait_is_an_error_in_debug_mode(operation: Callable[[Tensor], object]) -> None:
    x = ones()
    operation(x)
    torch.cuda.set_sync_debug_mode("error")
    with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
        operation(x)


@pytest.mark.parametrize("operation", NOT_WAITING)
def test_other_operations_do_not_wait(operation: Callable[[Tensor], object]) -> None:
    x = ones()
    torch.cuda.set_sync_debug_mode("error")
    operation(x)


# -- order --------------------------------------------------------------------------------------


def test_a_read_on_another_stream_is_a_race() -> None:
    x, other = ones(), torch.cuda.Stream()
    with torch.cuda.stream(other), pytest.raises(GpuFault, match=r"Race: .*add.* reads"):
        x + 1
    other.wait_stream(torch.cuda.default_stream())
    with torch.cuda.stream(other):
        y = x + 1
    with pytest.raises(GpuFault, match=r"Race: .* overwrites"):
        x.zero_()  # the other stream may still read it
    event = torch.cuda.Event()
    event.record(other)
    event.wait()
    assert x.zero_().tolist() == [0.0] * 4 and y.tolist() == [2.0] * 4


def test_an_execution_stream_is_in_order_with_its_caller() -> None:
    stream, x = ExecutionStream(GPU), ones()
    with stream.running():
        y = x + 1
    assert y.tolist() == [2.0] * 4


def test_the_host_must_not_read_a_copy_before_its_event() -> None:
    x = ones()
    host = to_host(x)
    with pytest.raises(GpuFault, match="The host reads"):
        host.sum()
    with pytest.raises(GpuFault, match=r"The host reads \(numpy\)"):
        host.numpy()
    event = torch.cuda.Event()
    event.record()
    event.synchronize()
    assert host.numpy().sum() == 4


def test_memory_that_another_stream_uses_is_not_free_yet() -> None:
    """PyTorch hands freed memory out again on the stream that allocated it."""
    x, other = ones(), torch.cuda.Stream()
    other.wait_stream(torch.cuda.default_stream())
    with torch.cuda.stream(other):
        y = x * 2
    del x
    with pytest.raises(GpuFault, match="may be handed out again"):
        ones()
    torch.cuda.synchronize()
    assert ones().tolist() == [1.0] * 4 and y.is_cuda


def test_a_later_use_knows_nothing_of_earlier_faults() -> None:
    x, other = ones(), torch.cuda.Stream()
    other.wait_stream(torch.cuda.default_stream())
    with torch.cuda.stream(other):
        x * 2
    del x, other
    with simulated_gpu():
        assert ones().tolist() == [1.0] * 4


# -- graphs -------------------------------------------------------------------------------------


def captured(enqueue: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    stream = ExecutionStream(GPU)
    with stream.running():
        return capture(stream, enqueue, None)


def test_a_graph_runs_at_its_replay_with_new_values() -> None:
    x, total = ones(), torch.zeros((), device="cuda")

    def enqueue() -> Tensor:
        total.add_(x.sum())
        return x * 2

    graph, result = captured(enqueue)
    assert total.item() == 0 and result.isnan().all().item(), "a capture runs nothing"
    for value in (3.0, 5.0):
        x.fill_(value)
        graph.replay()
        assert result.tolist() == [2 * value] * 4
    assert total.item() == 4 * (3 + 5)


@pytest.mark.parametrize(
    "enqueue",
    [
        lambda: ones() * ones().sum().item(),
        lambda: ones() + ones().new_tensor([1.0]),
        lambda: ones() + torch.ones(4).to("cuda", non_blocking=True),
    ],
)
def test_a_capture_allows_no_wait_and_no_copy_from_the_host(enqueue: Callable[[], Tensor]) -> None:
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        captured(enqueue)
    assert captured(lambda: ones() + 1), "the stream works again"


def test_a_graph_does_not_keep_its_inputs() -> None:
    inputs = [ones()]
    graph, result = captured(lambda: inputs[0] * 2)
    graph.replay()
    assert result.tolist() == [2.0] * 4
    inputs.clear()
    with pytest.raises(GpuFault, match="uses freed memory"):
        graph.replay()
