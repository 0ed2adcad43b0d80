"""A LoRA in the engines is the LoRA in torch."""

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
from engine.errors import BuildError, CheckpointError
from engine.manifest import FusedFile, Manifest
from export.build import Event
from export.lora import Lora, weights_digest
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


@pytest.mark.parametrize("prefix", ["text_encoder", "text_encoder.text_model"])
def test_the_text_encoder_in_both_spellings(micro: Path, tmp_path: Path, prefix: str) -> None:
    checkpoint = Checkpoint.open(micro)
    plain = load(checkpoint, "text_encoder")
    path = tmp_path / "words.safetensors"
    changes = make(path, plain, prefix, ("q_proj", "v_proj"))
    lora = Lora.open(path, 0.7)
    assert [lora.changes(checkpoint, part) for part in ("text_encoder", "unet", "vae")] == [
        *(True, False, False)
    ]
    fused = load(checkpoint, "text_encoder", [lora])
    add(plain, changes, 0.7)
    want = dict(plain.named_parameters())
    got = dict(fused.named_parameters())
    assert sorted(got) == sorted(want)
    for name, tensor in want.items():
        torch.testing.assert_close(got[name], tensor)


def test_two_loras_add_up(micro: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(micro)
    plain = load(checkpoint, "unet")
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    changes = [make(p, plain, "unet", (n,)) for p, n in zip(paths, ("to_q", "to_k"), strict=True)]
    loras = [Lora.open(p, s) for p, s in zip(paths, (1.0, -0.5), strict=True)]
    fused = load(checkpoint, "unet", loras)
    add(plain, changes[0], 1.0)
    add(plain, changes[1], -0.5)
    for (name, a), (_, b) in zip(fused.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_files_that_are_no_lora_of_this_model(
    micro: Path, tiny: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path / "style.bin", tmp_path):
        with pytest.raises(CheckpointError, match="not a LoRA file"):
            Lora.open(path, 1)
    weights = tmp_path / "weights.safetensors"
    save_file({"unet.conv.weight": torch.zeros(1)}, weights)
    with pytest.raises(CheckpointError, match="holds no LoRA weights"):
        Lora.open(weights, 1)
    other = tmp_path / "other.safetensors"
    make(other, load(Checkpoint.open(tiny), "unet"), "unet", ("to_q",))
    with pytest.raises(CheckpointError, match=r"does not fit this model's unet"):
        load(Checkpoint.open(micro), "unet", [Lora.open(other, 1)])
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(BuildError, match="pip install peft"):
        load(Checkpoint.open(micro), "unet", [Lora.open(other, 1)])
