"""Streams, graphs, arithmetic and memory of the PyTorch backend on a real GPU."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffedit import DiffEditPipeline
from engine.backends.torch.networks import TorchBackend, TorchNetworks
from engine.checkpoint import Checkpoint
from engine.cuda import ExecutionStream
from engine.cuda_graphs import Call, CudaGraphs

pytestmark = pytest.mark.gpu
LATENT = (4, 16, 16)
CALL = Call("add", (4,), 1)


def on_gpu(backend: TorchBackend, rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return {
        t.name: torch.rand((rows, *t.shape), generator=generator).to(backend.device)
        for t in backend.spec.inputs
    }


def last_gpu() -> torch.device:
    return torch.device("cuda", torch.cuda.device_count() - 1)


def test_fp32_agrees_with_the_cpu(tiny: Path) -> None:
    """TF32 has 10 bits, an error of 1e-4 and more; fp32 sums in another order, about 1e-6."""
    opened, plain = (
        TorchNetworks.open(Checkpoint.open(tiny), device=device, dtype="fp32")
        for device in ("cuda", "cpu")
    )
    backend = opened.find("unet", LATENT)
    batch = on_gpu(backend, 2)
    (got,) = backend(batch)
    (want,) = plain.find("unet", LATENT)({name: tensor.cpu() for name, tensor in batch.items()})
    assert float((got.cpu() - want).norm() / want.norm()) < 2e-5
    opened.close()


def test_graphs_on_the_last_gpu_equal_eager_calls(tiny: Path) -> None:
    """With two GPUs this is `cuda:1`, while the first one stays the current device."""
    checkpoint, device = Checkpoint.open(tiny), last_gpu()
    before = torch.cuda.current_device()
    with_graphs, without = (
        TorchNetworks.open(checkpoint, device=str(device), dtype="fp16", cuda_graphs=graphs)
        for graphs in (True, False)
    )
    backend = with_graphs.find("unet", LATENT)
    plain = without.find("unet", LATENT)
    for rows in (1, 2, 4):
        batch = on_gpu(backend, rows)
        for _ in range(4):
            (got,) = backend(batch)
            (want,) = plain(batch)
            assert got.device == device
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
    assert torch.cuda.current_device() == before
    with_graphs.close()
    without.close()


def test_after_a_failed_capture_memory_is_still_returned() -> None:
    stream = ExecutionStream(torch.device("cuda", 0))
    graphs = CudaGraphs[Tensor](stream)
    x = torch.ones(4, device="cuda")

    def synchronizes() -> Tensor:
        y = torch.empty(2**24, device="cuda").fill_(2)
        torch.cuda.current_stream().synchronize()  # not permitted while a capture runs
        return x + y[:4]

    for _ in range(3):
        assert graphs.run(CALL, (x.data_ptr(),), synchronizes).tolist() == [3.0] * 4
    graphs.clear()
    torch.cuda.synchronize()
    before = reserved()
    large = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    del large
    assert reserved() <= before


def test_dropped_graphs_are_captured_again() -> None:
    stream = ExecutionStream(torch.device("cuda", 0))
    graphs = CudaGraphs[Tensor](stream, limit=2)
    inputs = [torch.full((4,), float(n), device="cuda") for n in range(4)]
    for _ in range(3):
        for n, x in enumerate(inputs):
            for _ in range(3):
                call = CALL._replace(batch=n)
                result = graphs.run(call, (x.data_ptr(),), lambda x=x: x * 2)  # type: ignore[misc]
                assert result.clone().tolist() == [2.0 * n] * 4


def test_a_closed_pipeline_gives_its_memory_back(tiny: Path) -> None:
    before = reserved()
    pipeline = DiffEditPipeline.from_pretrained(tiny, device="cuda", warm=True)
    assert {name for name, _ in pipeline.costs} == {"text", "vae_encode", "unet", "vae_decode"}
    assert torch.cuda.memory_reserved() > before
    pipeline.close()
    del pipeline
    assert reserved() <= before


def reserved() -> int:
    """Bytes that PyTorch holds, without what it need not hold: caches, workspaces of cuBLAS."""
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()
