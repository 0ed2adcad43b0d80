"""Streams, graph capture and device numbers, on a substitute for `torch.cuda`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.cuda import ExecutionStream, capture, cuda_device, numbered, try_capture
from engine.errors import EngineMismatch
from tests.engine.fake_cuda import FakeCuda

CPU = torch.device("cpu")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    fake.install(monkeypatch)
    return fake


def test_events_order_the_execution_stream_with_the_callers_stream(cuda: FakeCuda) -> None:
    stream = ExecutionStream(CPU)
    assert stream.handle == 7
    with stream.running():
        cuda.record("kernel")
    assert cuda.log == ["own waits for caller", "kernel on own", "caller waits for own"]
    assert cuda.current is cuda.caller


def test_a_failed_call_restores_the_callers_stream(cuda: FakeCuda) -> None:
    with pytest.raises(ValueError, match="kernel"), ExecutionStream(CPU).running():
        raise ValueError("kernel failed")
    assert cuda.current is cuda.caller
    assert cuda.log[-1] == "caller waits for own"


def test_a_capture_records_on_the_execution_stream(cuda: FakeCuda) -> None:
    stream = ExecutionStream(CPU)
    graph: Any

    def kernel() -> str:
        cuda.record("kernel")
        return "output"

    graph, result = capture(stream, kernel, pool="memory")
    assert cuda.log == [
        "synchronize",
        "capture_begin thread_local on own",
        "kernel on own",
        "capture_end on own",
    ]
    assert result == "output"
    assert [graph] == cuda.graphs
    assert graph.pool == "memory"
    assert cuda.current is cuda.caller


@pytest.mark.parametrize("failure", ["capture_begin", "kernel", "capture_end"])
def test_a_failed_capture_restores_the_callers_stream(cuda: FakeCuda, failure: str) -> None:
    cuda.fail = failure
    with pytest.raises(RuntimeError, match=f"{failure} is not permitted"):
        capture(ExecutionStream(CPU), lambda: cuda.record("kernel"))
    assert cuda.current is cuda.caller
    ended = any("capture_end" in event for event in cuda.log)
    assert ended == (failure != "capture_begin")


def test_a_failed_capture_reports_the_error_of_the_call(cuda: FakeCuda) -> None:
    """Ending an invalid capture fails as well; that error is not the cause."""
    cuda.fail = "capture_end"

    def refuse() -> None:
        raise RuntimeError("the kernel cannot be captured")

    with pytest.raises(RuntimeError, match="the kernel cannot be captured"):
        capture(ExecutionStream(CPU), refuse)


def test_try_capture_warns_in_one_line(cuda: FakeCuda, caplog: pytest.LogCaptureFixture) -> None:
    cuda.fail = "capture_end"
    assert try_capture(ExecutionStream(CPU), lambda: None, label="unet at batch 2") is None
    assert "No CUDA graph for unet at batch 2 (capture_end is not permitted)" in caplog.text
    assert "stack trace" not in caplog.text


def test_only_a_plain_cuda_device_gets_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert numbered(torch.device("cuda")) == torch.device("cuda", 3)
    assert numbered(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert numbered(CPU) == CPU


def test_the_gpu_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert cuda_device(None, "TensorRT") == torch.device("cuda", 1)
    assert cuda_device("cuda:0", "TensorRT") == torch.device("cuda", 0)
    with pytest.raises(EngineMismatch, match=r"no cuda:2: this machine has 2 GPU"):
        cuda_device("cuda:2", "TensorRT")
    with pytest.raises(EngineMismatch, match="TensorRT runs on NVIDIA GPUs only, not on cpu"):
        cuda_device("cpu", "TensorRT")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineMismatch, match=r"need an NVIDIA GPU, and .*backend='torch' here"):
        cuda_device(None, "TensorRT")
