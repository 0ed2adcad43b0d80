"""The PyTorch backend on a GPU, with modules on the CPU and a substitute for `torch.cuda`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.backends.torch.networks import TorchBackend, TorchNetworks
from engine.checkpoint import Checkpoint
from engine.errors import EngineMismatch
from engine.netspec import Precision
from tests.engine.fake_cuda import FakeCuda

SECOND_GPU = torch.device("cuda", 1)
LATENT = (4, 16, 16)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    fake.install(monkeypatch)
    return fake


class Denoiser(torch.nn.Module):
    """Records where it runs and in which arithmetic; returns its input."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self.cuda_state = cuda
        self.arithmetic: list[str] = []

    def forward(self, x: Tensor, *others: Tensor, **options: Any) -> tuple[Tensor]:
        conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
        self.arithmetic.append(conv.fp32_precision)
        self.cuda_state.record("denoiser")
        return (x,)


def networks(
    tiny: Path, cuda: FakeCuda, precision: Precision = "fp32", **options: Any
) -> tuple[TorchNetworks, Denoiser]:
    checkpoint = Checkpoint.open(tiny)
    modules: dict[str, torch.nn.Module] = {
        part.name: torch.nn.Module() for part in checkpoint.family.parts
    }
    modules["unet"] = denoiser = Denoiser(cuda)
    opened = TorchNetworks(
        checkpoint,
        modules,
        device=SECOND_GPU,
        precision=precision,
        kernels=(),
        **{"cuda_graphs": True, **options},
    )
    return opened, denoiser


def batch(backend: TorchBackend, rows: int = 2) -> dict[str, Tensor]:
    return {t.name: torch.zeros(rows, *t.shape) for t in backend.spec.inputs}


@pytest.mark.parametrize(("graphs", "runs"), [(True, 2), (False, 4)])
def test_every_call_runs_on_the_pipelines_stream(
    tiny: Path, cuda: FakeCuda, graphs: bool, runs: int
) -> None:
    opened, denoiser = networks(tiny, cuda, cuda_graphs=graphs)
    backend = opened.find("unet", LATENT)
    inputs = batch(backend)
    for _ in range(4):
        (output,) = backend(inputs)
        assert output.shape == (2, *LATENT)
    assert cuda.log.count("denoiser on own of gpu 1") == runs == len(denoiser.arithmetic)
    assert not any("denoiser on caller" in event for event in cuda.log)
    assert cuda.log.count("replay on own of gpu 1") == (3 if graphs else 0)
    assert opened.queue.in_flight == 2


@pytest.mark.parametrize(
    ("precision", "allow_tf32", "arithmetic"),
    [("fp32", False, "ieee"), ("fp32", True, "tf32"), ("fp16", False, "tf32")],
)
def test_fp32_is_fp32(
    tiny: Path, cuda: FakeCuda, precision: Precision, allow_tf32: bool, arithmetic: str
) -> None:
    """fp16 networks do not depend on the switch: it keeps PyTorch's default."""
    opened, denoiser = networks(tiny, cuda, precision, allow_tf32=allow_tf32)
    backend = opened.find("unet", LATENT)
    backend(batch(backend))
    assert denoiser.arithmetic == [arithmetic]
    conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    assert conv.fp32_precision == "tf32", "restored"


def test_closing_gives_the_memory_back(tiny: Path, cuda: FakeCuda) -> None:
    opened, _ = networks(tiny, cuda)
    backend = opened.find("unet", LATENT)
    inputs = batch(backend)
    for _ in range(3):
        backend(inputs)
    del backend
    cuda.log.clear()
    opened.close()
    assert cuda.log == ["synchronize", "empty_cache of gpu 1"]
    assert opened.modules == {}


def test_a_gpu_that_is_not_there_is_refused_before_the_weights_are_loaded(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(EngineMismatch, match=r"no cuda:1: this machine has 1 GPU"):
        TorchNetworks.open(Checkpoint.open(tiny), device="cuda:1")
