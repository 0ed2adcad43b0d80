"""Streams, arithmetic, memory and device numbers, on a substitute for `torch.cuda`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.cuda import (
    ExecutionStream,
    cuda_device,
    device_queue,
    fp32_arithmetic,
    give_back_memory,
    numbered,
    wait_for,
)
from engine.errors import EngineMismatch
from tests.engine.fake_cuda import FakeCuda

CPU = torch.device("cpu")
SECOND_GPU = torch.device("cuda", 1)


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


def test_work_on_the_second_gpu_leaves_the_first_one_current(cuda: FakeCuda) -> None:
    with ExecutionStream(SECOND_GPU).running():
        cuda.record("kernel")
        assert cuda.gpu == 1
    assert (cuda.gpu, cuda.current) == (0, cuda.caller)
    assert cuda.log == [
        "own of gpu 1 waits for caller of gpu 1",
        "kernel on own of gpu 1",
        "caller of gpu 1 waits for own of gpu 1",
    ]


def test_the_queue_records_on_its_own_gpu(cuda: FakeCuda) -> None:
    queue = device_queue(SECOND_GPU)
    assert queue.in_flight == 2
    queue.record()
    assert cuda.log == ["event on caller of gpu 1"]
    assert device_queue(CPU).in_flight == 1


def switches() -> list[object]:
    """PyTorch's old and new switches; reading the old ones raises if they contradict the new."""
    cudnn: Any = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul
    new = [cudnn.conv, cudnn.rnn, matmul]
    old = [cudnn.allow_tf32, matmul.allow_tf32, torch.get_float32_matmul_precision()]
    return [*(switch.fp32_precision for switch in new), *old]


def test_fp32_is_fp32_in_convolutions_and_products_and_the_switches_are_restored() -> None:
    """PyTorch's default is TF32 in cuDNN's convolutions."""
    before = switches()
    assert before[0] == "tf32"
    with fp32_arithmetic(allow_tf32=False):
        assert switches() == ["ieee", "ieee", "ieee", False, False, "highest"]
    assert switches() == before
    with fp32_arithmetic(allow_tf32=True):
        assert switches() == ["tf32", "tf32", "tf32", True, True, "high"]
    assert switches() == before


def test_the_switches_are_restored_after_an_error() -> None:
    before = switches()
    with pytest.raises(ValueError, match="kernel"), fp32_arithmetic(allow_tf32=False):
        raise ValueError("kernel failed")
    assert switches() == before


def test_memory_is_given_back_even_if_the_gpu_failed(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access\nand a stack trace")

    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    wait_for(SECOND_GPU)
    give_back_memory(SECOND_GPU)
    assert "illegal memory access" in caplog.text
    assert "stack trace" not in caplog.text
    assert cuda.log == ["empty_cache of gpu 1"]


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
    with pytest.raises(EngineMismatch, match=r"needs an NVIDIA GPU for cuda, and "):
        cuda_device(None, "TensorRT")
