"""CUDA graphs of PyTorch networks: warm-up, capture, replay, on a substitute for `torch.cuda`."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from engine.backends.torch.graphs import WARM_UP_CALLS, GraphedCall, GraphPool
from tests.engine.fake_cuda import FakeCuda


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    fake.install(monkeypatch)
    return fake


def graphed(cuda: FakeCuda, inputs: list[Tensor]) -> GraphedCall:
    def network(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        cuda.record("network")
        return (tensors[0] + 1,)

    return GraphedCall(network, inputs, GraphPool(torch.device("cpu")), "unet at batch 2")


def test_a_call_is_captured_once_and_replayed(cuda: FakeCuda) -> None:
    inputs = [torch.zeros(2)]
    call = graphed(cuda, inputs)
    assert cuda.log.count("network on own") == WARM_UP_CALLS + 1
    (graph,) = cuda.graphs
    assert graph.pool == (0, 1)
    cuda.log.clear()
    output = call(inputs)
    assert call(inputs) is output
    assert cuda.log == ["own waits for caller", "replay on own", "caller waits for own"] * 2


def test_other_tensors_run_eagerly(cuda: FakeCuda) -> None:
    call = graphed(cuda, [torch.zeros(2)])
    cuda.log.clear()
    assert torch.equal(call([torch.ones(2)])[0], torch.full((2,), 2.0))
    assert cuda.log == ["network on caller"]


def test_a_network_that_cannot_be_captured_runs_eagerly(
    cuda: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.fail = "capture_end"
    inputs = [torch.zeros(2)]
    call = graphed(cuda, inputs)
    assert "No CUDA graph for unet at batch 2" in caplog.text
    cuda.log.clear()
    call(inputs)
    assert cuda.log == ["network on caller"]
