"""`from_pretrained(warm=True)`: engines that do not run are found before the first request."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffedit import DiffEditPipeline, EngineMismatch, auto_backend
from engine.backends.onnxruntime.networks import OnnxBackend
from engine.manifest import FusedFile, Manifest

NATIVE = (64, 64)


@pytest.fixture
def auto_chooses_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    """As "auto" chooses TensorRT where there is a GPU."""
    choice = ("onnxruntime", "for this test")
    monkeypatch.setattr(auto_backend, "fastest", lambda *engines_and_device: choice)


@pytest.fixture
def damaged(onnx_folder: Path, tmp_path: Path) -> Path:
    """A copy of the engines, in which the U-Net was changed after it was built."""
    folder = Path(shutil.copytree(onnx_folder, tmp_path / "engines"))
    (file,) = folder.glob("unet-*.onnx")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return folder


@pytest.fixture
def unet_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The U-Net's engine loads, and fails when it runs."""
    run = OnnxBackend._run

    def fail(self: OnnxBackend, binding: object) -> None:
        if self.spec.role == "denoiser":
            raise RuntimeError("no kernel image is available for this device")
        run(self, binding)

    monkeypatch.setattr(OnnxBackend, "_run", fail)


def test_the_costs_of_every_network_are_known_when_it_is_open(
    tiny: Path, onnx_folder: Path
) -> None:
    with DiffEditPipeline.from_pretrained(tiny, device="cpu", dtype="fp32", warm=True) as pipe:
        assert pipe.networks.name == "torch"
        assert set(pipe.costs) == {
            ("text", None),
            *((net, NATIVE) for net in ("vae_encode", "unet", "vae_decode")),
        }
        assert all(s > 0 for calls in pipe.costs.values() for s in calls.values())
    with DiffEditPipeline.from_pretrained(tiny, backend="onnxruntime", engines=onnx_folder) as cold:
        assert cold.costs == {}


def test_an_engine_that_cannot_be_loaded_is_replaced_by_auto(
    tiny: Path, damaged: Path, auto_chooses_onnxruntime: None
) -> None:
    with DiffEditPipeline.from_pretrained(tiny, engines=damaged, device="cpu", warm=True) as pipe:
        assert pipe.networks.name == "torch"
        assert "was changed since it was built" in pipe.describe()
        assert pipe.costs


def test_an_engine_that_cannot_be_loaded_is_an_error_if_it_was_asked_for(
    tiny: Path, damaged: Path
) -> None:
    options: dict[str, Any] = {"backend": "onnxruntime", "engines": damaged, "device": "cpu"}
    with pytest.raises(EngineMismatch, match="was changed since it was built"):
        DiffEditPipeline.from_pretrained(tiny, warm=True, **options)
    DiffEditPipeline.from_pretrained(tiny, **options).close()  # without it, the first edit fails


def test_an_engine_that_fails_when_it_runs_is_replaced_by_auto(
    tiny: Path, onnx_folder: Path, auto_chooses_onnxruntime: None, unet_fails: None
) -> None:
    with DiffEditPipeline.from_pretrained(
        tiny, engines=onnx_folder, device="cpu", warm=True
    ) as pipe:
        assert pipe.networks.name == "torch"
        assert "do not run on this machine (no kernel image is available" in pipe.describe()


def test_engines_with_a_lora_that_fail_are_not_replaced_by_weights_without_it(
    tiny: Path, onnx_folder: Path, tmp_path: Path, unet_fails: None
) -> None:
    folder = Path(shutil.copytree(onnx_folder, tmp_path / "engines"))
    manifest = Manifest.load(folder)
    assert manifest.model is not None
    lora = FusedFile("style.safetensors", "0" * 64, 0.8)
    replace(manifest, model=replace(manifest.model, loras=(lora,))).save(folder)
    with pytest.raises(EngineMismatch, match=r"the LoRA style\.safetensors at 0\.8.*no kernel"):
        DiffEditPipeline.from_pretrained(tiny, engines=folder, device="cpu", warm=True)


def test_lack_of_memory_for_pytorch_is_raised(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.backends.torch.networks import TorchBackend

    def full(self: TorchBackend, batch: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(TorchBackend, "__call__", full)
    with pytest.raises(torch.OutOfMemoryError):
        DiffEditPipeline.from_pretrained(tiny, device="cpu", warm=True)
