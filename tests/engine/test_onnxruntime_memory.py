"""Batch sizes that do not fit into a CPU's memory are removed: the process would be killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.backends.onnxruntime import memory
from engine.backends.onnxruntime.networks import OnnxNetworks
from engine.netspec import NetSpec, TensorSpec

SD15 = NetSpec(
    name="unet",
    role="denoiser",
    size=(512, 512),
    inputs=(
        *(TensorSpec("latent", (4, 64, 64)), TensorSpec("timestep", ())),
        TensorSpec("embedding", (77, 768)),
    ),
    outputs=(TensorSpec("prediction", (4, 64, 64)),),
    batch_sizes=(1, 2, 4, 8, 16, 20),
    precision="fp16",
    attention_scores=8 * 4096 * 4096,
)
GIB = 2**30


def test_the_estimate_for_stable_diffusion_is_near_the_measured_memory() -> None:
    assert memory.working_bytes(SD15, 1) == pytest.approx(2.16e9, rel=0.05)
    assert memory.working_bytes(SD15, 4) == 4 * memory.working_bytes(SD15, 1)


@pytest.mark.parametrize(
    ("free", "profiles"),
    [(0, (1, 2, 4, 8, 16, 20)), (1, (1,)), (16, (1, 2, 4)), (64, (1, 2, 4, 8, 16, 20))],
)
def test_batch_sizes_that_fit_and_the_smallest_one_are_kept(
    free: int, profiles: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda: free * GIB)
    assert memory.limited(SD15, 0).batch_sizes == profiles


def test_the_memory_of_the_session_is_subtracted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The UNet of Stable Diffusion in fp16 on a machine with 23 GB free."""
    monkeypatch.setattr(memory, "available", lambda: int(23e9))
    assert memory.limited(SD15, int(1.72e9)).batch_sizes == (1, 2, 4)


def test_the_backend_offers_only_batch_sizes_that_fit(
    onnx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latent = (4, 16, 24)
    networks = OnnxNetworks.open(onnx_folder, device="cpu")
    spec = networks.find("unet", latent).spec
    assert spec.batch_sizes == (1, 2, 4)
    networks.close()
    monkeypatch.setattr(memory, "SESSION_SHARE", 0)
    free = int(2.5 * memory.working_bytes(spec, 1) / memory.SHARE)
    monkeypatch.setattr(memory, "available", lambda: free)
    assert networks.find("unet", latent).spec.batch_sizes == (1, 2)
    pinned = OnnxNetworks.open(onnx_folder, device="cpu", pin_batch_size=4)
    assert pinned.find("unet", latent).spec.batch_sizes == (4,), (
        "a pinned batch size is always kept"
    )
