"""Memory is freed when a batcher is deleted, also if errors and handles are kept."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from engine.backends.fake import FakeNetworks
from engine.batcher import Batcher
from engine.buffers import to_host
from engine.flow_handle import FlowHandle, without_frames
from engine.rows import Flow
from tests.engine.flows import asks, drain, row
from tests.waiting import eventually


def engine_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "engine"}


def used() -> tuple[weakref.ref[FakeNetworks], threading.Thread, FlowHandle[list[Tensor]]]:
    """A batcher that was used and dropped: its networks, its thread, and a handle."""
    before = engine_threads()
    batcher = Batcher(FakeNetworks())
    batcher.start()
    handle = batcher.submit(asks([[1.0]]))
    handle.future.result(timeout=20)
    (thread,) = engine_threads() - before
    return weakref.ref(batcher.networks), thread, handle  # type: ignore[arg-type]


def test_a_dropped_batcher_frees_its_networks_and_ends_its_thread() -> None:
    networks, thread, handle = used()
    thread.join(timeout=20)
    assert not thread.is_alive()
    gc.collect()
    assert networks() is None
    assert len(handle.future.result(timeout=0)) == 1


def test_a_flow_that_runs_when_the_batcher_is_dropped_is_finished() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(net: str, batch: Mapping[str, Tensor], output: Tensor) -> None:
        entered.set()
        assert go_on.wait(20)

    batcher = Batcher(FakeNetworks(fault=slow))
    networks = weakref.ref(batcher.networks)
    batcher.start()
    handle = batcher.submit(asks([[1.0], [2.0]]))
    waiting = batcher.submit(asks([[3.0]]))
    del batcher
    assert entered.wait(20)
    gc.collect()
    assert networks() is not None
    go_on.set()
    assert len(handle.future.result(timeout=20)) == 2
    assert len(waiting.future.result(timeout=20)) == 1


def test_a_flow_whose_handle_is_dropped_too_is_finished() -> None:
    done = threading.Event()
    batcher = Batcher(FakeNetworks())
    batcher.start()
    batcher.submit(asks([[1.0], [2.0]])).future.add_done_callback(lambda _: done.set())
    del batcher
    gc.collect()
    assert done.wait(20)


def test_a_batcher_may_be_collected_on_its_own_thread() -> None:
    """The last reference is in a callback: the thread ends without waiting for itself."""
    before = engine_threads()
    kept = [Batcher(FakeNetworks())]
    kept[0].start()
    networks = weakref.ref(kept[0].networks)
    handle = kept[0].submit(asks([[1.0], [2.0]]), on_progress=lambda _: kept.clear())
    assert len(handle.future.result(timeout=20)) == 2
    for thread in engine_threads() - before:
        thread.join(timeout=20)
        assert not thread.is_alive()
    assert networks() is None


def test_an_object_that_closes_the_batcher_when_it_is_collected() -> None:
    """`__del__` may run on any thread, in the middle of anything."""
    batcher = Batcher(FakeNetworks())
    batcher.start()

    class Owner:
        def __del__(self) -> None:
            batcher.close()

    owner = Owner()
    handle = batcher.submit(asks([[float(i)] for i in range(1000)]))
    del owner
    assert handle.future.exception(timeout=20) is not None
    assert not batcher.alive


def failing_flow(tensors: list[weakref.ref[Tensor]]) -> Flow[None]:
    """A flow that fails with a tensor in its frame, and in the frame of an error below."""
    big = torch.zeros(1000)
    tensors.append(weakref.ref(big))

    def inner(value: Tensor) -> None:
        other = value + 1
        tensors.append(weakref.ref(other))
        raise ZeroDivisionError

    yield [row(1.0)]
    try:
        inner(big)
    except ZeroDivisionError as error:
        raise ValueError("broken flow") from error


@pytest.mark.parametrize("started", [False, True])
def test_an_error_that_is_kept_keeps_neither_tensors_nor_the_engine(started: bool) -> None:
    tensors: list[weakref.ref[Tensor]] = []
    batcher = Batcher(FakeNetworks())
    networks = weakref.ref(batcher.networks)
    handle = batcher.submit(failing_flow(tensors))
    if started:
        batcher.start()
        handle.future.exception(timeout=20)
    else:
        drain(batcher)
    error = handle.future.exception(timeout=20)
    assert isinstance(error, ValueError) and error.__cause__ is not None
    assert [tensor() for tensor in tensors] == [None, None]
    del batcher
    assert eventually(lambda: networks() is None)  # the thread may still be in its last step
    assert "in failing_flow" in error.__notes__[0]  # it still says where
    assert "ZeroDivisionError" in error.__notes__[0]


def test_an_error_of_a_network_keeps_nothing_either() -> None:
    inputs: list[weakref.ref[Tensor]] = []

    def fault(net: str, batch: Mapping[str, Tensor], output: Tensor) -> None:
        inputs.append(weakref.ref(output))
        raise RuntimeError("out of luck")

    batcher = Batcher(FakeNetworks(fault=fault))
    networks = weakref.ref(batcher.networks)
    handles = [batcher.submit(asks([[1.0, 2.0]])) for _ in range(2)]
    drain(batcher)
    errors = [handle.future.exception(timeout=0) for handle in handles]
    assert all(str(error) == "out of luck" for error in errors)
    del batcher
    gc.collect()
    assert networks() is None and all(tensor() is None for tensor in inputs)


def test_frames_of_a_chain_of_errors_that_is_a_circle() -> None:
    first, second = ValueError("first"), ValueError("second")
    try:
        raise first from second
    except ValueError:
        second.__cause__ = first
    assert without_frames(first) is first and first.__traceback__ is None


def test_a_finished_handle_drops_its_flow_and_its_callback() -> None:
    class Callback:
        def __call__(self, handle: FlowHandle[list[Tensor]]) -> None: ...

    callback = Callback()
    kept = weakref.ref(callback)
    batcher = Batcher(FakeNetworks())
    handle = batcher.submit(asks([[1.0]]), on_progress=callback)
    drain(batcher)
    del callback
    gc.collect()
    assert kept() is None and handle.done


def test_a_copy_to_the_host_is_an_ordinary_tensor() -> None:
    with torch.inference_mode():
        cached = torch.ones(3)
        copy = to_host(cached)
        view = to_host(cached[1:])
    copy += 1
    copy.requires_grad_()
    (copy * 2).sum().backward()
    assert copy.grad is not None and not copy.is_inference()
    assert cached.tolist() == [1, 1, 1] and view.tolist() == [1, 1]
