"""Failures, cancellation and callbacks affect their own request only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine.backends.fake import FakeNetworks
from engine.batcher import Batcher
from engine.errors import Cancelled, EngineMismatch
from engine.flow_handle import FlowHandle
from engine.rows import Flow, Row
from tests.engine.flows import alone, asks, drain, row


def test_an_exception_in_a_flow_is_its_own() -> None:
    def breaks() -> Flow[None]:
        yield [row(1.0)]
        raise ValueError("broken flow")

    batcher = Batcher(FakeNetworks())
    kept, broken = batcher.submit(asks([[1.0], [2.0]])), batcher.submit(breaks())
    drain(batcher)
    assert len(kept.future.result()) == 2
    with pytest.raises(ValueError, match="broken flow"):
        broken.future.result()


def refuses(value: float) -> Any:
    """A fault that raises for any call with a row of `value`."""

    def fault(net: str, batch: Mapping[str, Tensor], output: Tensor) -> None:
        if (batch["timestep"] == value).any():
            raise RuntimeError("this row cannot be run")

    return fault


def test_a_row_that_fails_takes_only_its_request_along() -> None:
    batcher = Batcher(FakeNetworks(fault=refuses(-7.0)))
    good = [batcher.submit(asks([[i, i + 0.5], [i]])) for i in range(5)]
    bad = batcher.submit(asks([[2.5, -7.0, 3.5], [1.0]]))
    drain(batcher)
    for i, job in enumerate(good):
        got = job.future.result()
        assert [a.equal(alone(v)) for a, v in zip(got, (i, i + 0.5, i), strict=True)] == [True] * 3
    with pytest.raises(RuntimeError, match="cannot be run"):
        bad.future.result()
    assert len(batcher._queues) == 0


def test_a_batch_too_large_for_the_memory_runs_in_parts() -> None:
    def fault(net: str, batch: Mapping[str, Tensor], output: Tensor) -> None:
        if len(output) > 4:
            raise torch.OutOfMemoryError("too large")

    batcher = Batcher(FakeNetworks(denoiser_batch_sizes=(1, 2, 4, 8, 16), fault=fault))
    job = batcher.submit(asks([[float(i) for i in range(16)]]))
    drain(batcher)
    got = job.future.result()
    assert all(a.equal(alone(i)) for i, a in enumerate(got)) and job.calls["unet"] == 4


def test_a_network_that_does_not_exist_fails_who_asks_for_it() -> None:
    def asks_for_nothing_known() -> Flow[None]:
        yield [Row("upscaler", (torch.zeros(1),))]

    batcher = Batcher(FakeNetworks())
    bad, good = batcher.submit(asks_for_nothing_known()), batcher.submit(asks([[1.0]]))
    drain(batcher)
    with pytest.raises(EngineMismatch, match="upscaler"):
        bad.future.result()
    assert good.future.result()[0].equal(alone(1.0))


def test_a_cancelled_job_leaves_no_row_and_closes_its_flow() -> None:
    closed = []

    def watched() -> Flow[None]:
        try:
            while True:
                yield [row(1.0)] * 3
        finally:
            closed.append(True)

    networks = FakeNetworks(denoiser_batch_sizes=(1, 2))
    batcher = Batcher(networks)
    job, other = batcher.submit(watched()), batcher.submit(asks([[1.0], [2.0]]))
    batcher.step()
    assert len(batcher._queues) > 0
    job.cancel()
    before = job.rows["unet"]
    drain(batcher)
    with pytest.raises(Cancelled):
        job.future.result()
    assert closed == [True] and job.rows["unet"] == before and len(batcher._queues) == 0
    assert len(other.future.result()) == 2


def test_a_job_cancelled_before_it_began_runs_nothing() -> None:
    networks = FakeNetworks()
    batcher = Batcher(networks)
    job = batcher.submit(asks([[1.0]]))
    job.cancel()
    drain(batcher)
    with pytest.raises(Cancelled):
        job.future.result()
    assert not networks.backends


@given(cancel_at=st.lists(st.integers(0, 12), min_size=4, max_size=4))
def test_cancelling_at_any_time_leaves_the_others_alone(cancel_at: list[int]) -> None:
    batcher = Batcher(FakeNetworks(denoiser_batch_sizes=(1, 2, 3)))
    doomed = [batcher.submit(asks([[i, 1.0], [2.0], [3.0]])) for i in range(4)]
    kept = batcher.submit(asks([[1.0, 2.0], [3.0]]))
    for tick in range(60):
        for job, when in zip(doomed, cancel_at, strict=True):
            if tick == when:
                job.cancel()
        batcher.step()
    assert all(a.equal(alone(v)) for a, v in zip(kept.future.result(), (1, 2, 3), strict=True))
    assert all(job.done for job in doomed) and len(batcher._queues) == 0


def test_progress_counts_answered_rows() -> None:
    seen: list[int] = []

    def report(job: FlowHandle[Any]) -> None:
        seen.append(job.rows["unet"])

    batcher = Batcher(FakeNetworks(denoiser_batch_sizes=(1, 2)))
    batcher.submit(asks([[1.0, 2.0, 3.0], [4.0]]), on_progress=report)
    drain(batcher)
    assert seen == [2, 3, 4]


def test_a_progress_callback_that_raises_ends_its_own_job() -> None:
    def report(job: FlowHandle[Any]) -> None:
        raise KeyError("the caller's own mistake")

    batcher = Batcher(FakeNetworks())
    bad = batcher.submit(asks([[1.0], [2.0]]), on_progress=report)
    good = batcher.submit(asks([[1.0], [2.0]]))
    drain(batcher)
    with pytest.raises(KeyError):
        bad.future.result()
    assert len(good.future.result()) == 2
