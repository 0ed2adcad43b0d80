"""Engines with a LoRA equal torch with the same LoRA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError, EngineMismatch
from engine.lora.file import Lora
from engine.manifest import FusedFile, Manifest
from export.build import Event
from export.lora import weights_digest
from export.networks import load, sample

Run = Callable[..., tuple[Manifest, list[Event]]]
Made = Callable[[list[Event]], list[tuple[str, str]]]
RANK = 2


def make(path: Path, module: nn.Module, prefix: str, layers: tuple[str, ...]) -> dict[str, Any]:
    """Write a LoRA over the named linear layers; returns layer -> its change at scale 1."""
    generator = torch.Generator().manual_seed(3)
    state: dict[str, torch.Tensor] = {}
    changes: dict[str, torch.Tensor] = {}
    style = "lora" if prefix.startswith("unet") else "lora_linear_layer"
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and name.endswith(layers):
            down = torch.randn(RANK, layer.in_features, generator=generator)
            up = torch.randn(layer.out_features, RANK, generator=generator)
            state[f"{prefix}.{name}.{style}.down.weight"] = down
            state[f"{prefix}.{name}.{style}.up.weight"] = up
            changes[name] = up @ down
    assert changes
    save_file(state, path)
    return changes


def add(module: nn.Module, changes: dict[str, Any], scale: float) -> None:
    """The definition of a LoRA: W + scale * up @ down."""
    with torch.no_grad():
        for name, change in changes.items():
            module.get_parameter(f"{name}.weight").add_(scale * change)


@pytest.fixture
def unet_lora(micro: Path, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    module = load(Checkpoint.open(micro), "unet")
    path = tmp_path / "style.safetensors"
    return path, make(path, module, "unet", ("to_q", "to_v", "to_out.0"))


@pytest.mark.slow
def test_the_exported_unet_is_the_one_with_fused_weights(
    micro: Path, micro_engines: Path, run: Run, made: Made, unet_lora: tuple[Path, dict[str, Any]]
) -> None:
    path, changes = unet_lora
    out = micro_engines
    plain = Manifest.load(out)
    fused, events = run(micro, out, verify=False, loras=[(path, 0.5)])
    assert made(events) == [("export", "unet")]
    keys = [{e.spec.name: e.key for e in m.entries} for m in (plain, fused)]
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {"unet"}
    assert fused.model is not None
    assert fused.model.loras == (FusedFile(str(path), Lora.open(path, 1).sha256, 0.5),)

    checkpoint = Checkpoint.open(micro)
    spec = checkpoint.spec("unet", (16, 16))
    inputs = sample(spec, 2, vocabulary=9)
    module = load(checkpoint, "unet")
    call = checkpoint.network("unet").call
    with torch.inference_mode():
        before = call(module, torch.float32, *inputs)
    add(module, changes, 0.5)
    with torch.inference_mode():
        want = call(module, torch.float32, *inputs)
    session = onnxruntime.InferenceSession(out / "unet-16x16-fp32.onnx")
    feed = {t.name: x.numpy() for t, x in zip(spec.inputs, inputs, strict=True)}
    got = torch.from_numpy(session.run(None, feed)[0])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert (want - before).norm() / before.norm() > 0.01

    assert made(run(micro, out, verify=False, loras=[(path, 0.5)])[1]) == []

    def digest(part: str, *scales: float) -> str:
        return weights_digest(checkpoint, part, "w", [Lora.open(path, s) for s in scales])

    assert len({digest("unet", 0.5), digest("unet", 0.6), digest("unet"), "w"}) == 3
    assert digest("vae", 0.5) == "w"


def test_a_lora_that_does_not_fit_is_refused_before_anything_is_built(
    micro: Path, tiny: Path, tmp_path: Path, run: Run
) -> None:
    other = tmp_path / "other.safetensors"
    make(other, load(Checkpoint.open(tiny), "unet"), "unet", ("to_q",))
    with pytest.raises(CheckpointError, match="12 of its 16 tensors belong to no layer"):
        run(micro, tmp_path / "engines", loras=[(other, 1.0)])
    assert not (tmp_path / "engines").exists()
    with pytest.raises(ValueError, match="finite"):
        run(micro, tmp_path / "engines", loras=[(other, float("nan"))])


@pytest.mark.slow
def test_engines_with_a_lora_are_not_replaced(
    micro: Path, tmp_path: Path, run: Run, made: Made, unet_lora: tuple[Path, dict[str, Any]]
) -> None:
    path, _ = unet_lora
    out = tmp_path / "engines"
    before, _ = run(micro, out, verify=False, loras=[(path, 0.5)])
    for loras in ([], [(path, 0.6)], [(path, 0.5), (path, 0.5)]):
        with pytest.raises(
            EngineMismatch, match=r"has engines with the LoRA style.* at 0\.5.*--force"
        ):
            run(micro, out, verify=False, loras=loras)
        assert Manifest.load(out) == before
    assert made(run(micro, out, verify=False, loras=[(path, 0.5)])[1]) == []
    forced, _ = run(micro, out, verify=False, force=True)
    assert forced.model is not None and forced.model.loras == ()
