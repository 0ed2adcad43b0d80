"""Fused weights are W + scale * alpha / rank * B A, in every spelling of every layer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.lora.file import Lora
from tests.engine.lora_files import (
    ATTENTION,
    CONV,
    NORM,
    POINTWISE,
    TEXT_LAYERS,
    UNET_LAYERS,
    check_changes,
    draw,
    fused,
    kohya,
    pair,
    saved,
    weights,
)

Names = Callable[[str], tuple[str, str, str | None]]
"""Layer -> names of A, B and alpha in a file; alpha is None if the style has none."""


def kohya_style(prefix: str) -> Names:
    def names(layer: str) -> tuple[str, str, str]:
        name = kohya(layer, prefix)
        return f"{name}.lora_down.weight", f"{name}.lora_up.weight", f"{name}.alpha"

    return names


def dotted(prefix: str, down: str, up: str, alpha: str | None = None) -> Names:
    return lambda layer: (
        f"{prefix}{layer}{down}",
        f"{prefix}{layer}{up}",
        f"{prefix}{layer}{alpha}" if alpha else None,
    )


def processor(prefix: str) -> Names:
    def names(layer: str) -> tuple[str, str, str]:
        path, name = layer.removesuffix(".0").rsplit(".", 1)
        old = f"{prefix}{path}.processor.{name}_lora"
        return f"{old}.down.weight", f"{old}.up.weight", f"{old}.alpha"

    return names


UNET_STYLES: dict[str, Names] = {
    "kohya": kohya_style("lora_unet_"),
    "lycoris": kohya_style("lycoris_"),
    "diffusers": dotted("unet.", ".lora.down.weight", ".lora.up.weight", ".alpha"),
    "diffusers, alpha of the pair": dotted(
        "unet.", ".lora.down.weight", ".lora.up.weight", ".lora.alpha"
    ),
    "processors": processor("unet."),
    "processors of a UNet alone": processor(""),
    "PEFT in diffusers": dotted("unet.", ".lora_A.weight", ".lora_B.weight", ".alpha"),
    "PEFT with adapter names": dotted("unet.", ".lora_A.default.weight", ".lora_B.default.weight"),
    "PEFT": dotted("base_model.model.", ".lora_A.weight", ".lora_B.weight"),
    "PEFT in a part": dotted("unet.base_model.model.", ".lora_A.weight", ".lora_B.weight"),
}
TEXT_STYLES: dict[str, Names] = {
    "kohya": kohya_style("lora_te_text_model_"),
    "kohya, first encoder": kohya_style("lora_te1_text_model_"),
    "kohya without a level": kohya_style("lora_te_"),
    "diffusers": dotted(
        "text_encoder.text_model.",
        ".lora_linear_layer.down.weight",
        ".lora_linear_layer.up.weight",
        ".alpha",
    ),
    "diffusers without a level": dotted(
        "text_encoder.", ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"
    ),
    "PEFT in diffusers": dotted(
        "text_encoder.text_model.", ".lora_A.weight", ".lora_B.weight", ".alpha"
    ),
    "PEFT": dotted("base_model.model.text_model.", ".lora_A.weight", ".lora_B.weight"),
}


def written(names: Names, layers: dict[str, tuple[int, int]]) -> tuple[dict[str, Tensor], ...]:
    """A LoRA whose layers have different ranks and alphas, and the changes it means."""
    state: dict[str, Tensor] = {}
    changes: dict[str, Tensor] = {}
    for n, (layer, (outputs, inputs)) in enumerate(layers.items()):
        rank, strength = 2 + n, 3.0 + n
        a, b = draw(rank, inputs, seed=n), draw(outputs, rank, seed=9 + n)
        down, up, alpha = names(layer)
        state |= {down: a, up: b} | ({alpha: torch.tensor(strength)} if alpha else {})
        changes[f"{layer}.weight"] = (strength / rank if alpha else 1) * b @ a
    return state, changes


@pytest.mark.parametrize("style", UNET_STYLES)
def test_every_spelling_of_the_unet(style: str, tiny: Path, tmp_path: Path) -> None:
    state, changes = written(UNET_STYLES[style], UNET_LAYERS)
    path = saved(tmp_path / "a.safetensors", state)
    got = fused(tiny, "unet", (path, 0.7))
    check_changes(tiny, "unet", got, {name: 0.7 * c for name, c in changes.items()})
    lora, checkpoint = Lora.open(path, 0.7), Checkpoint.open(tiny)
    assert [lora.changes(checkpoint, p) for p in ("unet", "text_encoder", "vae")] == [
        *(True, False, False)
    ]


@pytest.mark.parametrize("style", TEXT_STYLES)
def test_every_spelling_of_the_text_encoder(style: str, tiny: Path, tmp_path: Path) -> None:
    state, changes = written(TEXT_STYLES[style], TEXT_LAYERS)
    path = saved(tmp_path / "a.safetensors", state)
    check_changes(tiny, "text_encoder", fused(tiny, "text_encoder", (path, 1.0)), changes)
    own = weights(tiny, "unet")
    for name, tensor in fused(tiny, "unet", (path, 1.0)).items():
        assert torch.equal(tensor, own[name])


@pytest.mark.parametrize(
    ("layer", "down", "up", "mid"),
    [
        (CONV, (4, 64, 3, 3), (64, 4, 1, 1), None),
        (CONV, (4, 64, 1, 1), (64, 4, 1, 1), (4, 4, 3, 3)),
        (POINTWISE, (4, 128, 1, 1), (64, 4, 1, 1), None),
        (POINTWISE, (4, 128), (64, 4), None),
        (f"{ATTENTION}.to_q", (4, 64, 1, 1), (64, 4, 1, 1), None),
    ],
)
def test_convolutions(
    layer: str,
    down: tuple[int, ...],
    up: tuple[int, ...],
    mid: tuple[int, ...] | None,
    tiny: Path,
    tmp_path: Path,
) -> None:
    """A LoRA of convolutions is a chain of convolutions; its weight is the answer to impulses."""
    a, b = draw(*down), draw(*up, seed=1)
    name = kohya(layer)
    state = {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b}
    state[f"{name}.alpha"] = torch.tensor(2.0)
    chain = [t if t.dim() == 4 else t[..., None, None] for t in (a, b)]
    if mid is not None:
        state[f"{name}.lora_mid.weight"] = draw(*mid, seed=2)
        chain.insert(1, state[f"{name}.lora_mid.weight"])
    path = saved(tmp_path / "a.safetensors", state)
    own = weights(tiny, "unet")[f"{layer}.weight"]
    change = (fused(tiny, "unet", (path, 1.0))[f"{layer}.weight"] - own) * 2  # alpha / rank is 1/2
    x = draw(1, own.shape[1], 7, 7, seed=3)
    want = x
    for kernel in chain:
        want = torch.nn.functional.conv2d(want, kernel, padding=kernel.shape[-1] // 2)
    change = change if change.dim() == 4 else change[..., None, None]
    got = torch.nn.functional.conv2d(x, change, padding=change.shape[-1] // 2)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


def test_full_differences_and_norms(tiny: Path, tmp_path: Path) -> None:
    conv, norm = draw(64, 64, 3, 3), draw(64, seed=1)
    bias, norm_bias = draw(64, seed=2), draw(64, seed=3)
    state = {
        f"{kohya(CONV)}.diff": conv,
        f"{kohya(CONV)}.diff_b": bias,
        f"{kohya(NORM)}.w_norm": norm,
        f"{kohya(NORM)}.b_norm": norm_bias,
        f"{kohya(POINTWISE)}.diff_b": norm_bias,
    }
    changes = {
        f"{CONV}.weight": conv,
        f"{CONV}.bias": bias,
        f"{NORM}.weight": norm,
        f"{NORM}.bias": norm_bias,
        f"{POINTWISE}.bias": norm_bias,
    }
    got = fused(tiny, "unet", (saved(tmp_path / "a.safetensors", state), 0.5))
    check_changes(tiny, "unet", got, {name: 0.5 * change for name, change in changes.items()})


@pytest.mark.parametrize("scale", [-0.5, 0.0, 2.0])
def test_any_finite_scale(scale: float, tiny: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", pair(f"{ATTENTION}.to_q"))
    name = f"{ATTENTION}.to_q.weight"
    got = fused(tiny, "unet", (path, scale))[name]
    want = weights(tiny, "unet")[name] + scale * draw(64, 2, seed=1) @ draw(2, 64)
    torch.testing.assert_close(got, want)


def test_several_files_add_up_in_any_order(tiny: Path, tmp_path: Path) -> None:
    layer = f"{ATTENTION}.to_q"
    dora = pair(layer, seed=4) | {f"{kohya(layer)}.dora_scale": draw(64, 1).abs() + 1}
    one = (saved(tmp_path / "a.safetensors", pair(layer)), 0.7)
    two = (saved(tmp_path / "b.safetensors", dora), -0.4)
    own = weights(tiny, "unet")[f"{layer}.weight"]
    alone = [fused(tiny, "unet", lora)[f"{layer}.weight"] - own for lora in (one, two)]
    for order in ((one, two), (two, one)):
        got = fused(tiny, "unet", *order)[f"{layer}.weight"]
        torch.testing.assert_close(got, own + alone[0] + alone[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_fused_in_float32(
    dtype: torch.dtype, tiny: Path, tmp_path: Path
) -> None:
    state = {name: tensor.to(dtype) for name, tensor in pair(f"{ATTENTION}.to_q", alpha=3).items()}
    path = saved(tmp_path / "a.safetensors", state)
    down, up, _ = (tensor.float() for tensor in state.values())
    name = f"{ATTENTION}.to_q.weight"
    want = weights(tiny, "unet")[name] + 1.5 * up @ down
    torch.testing.assert_close(fused(tiny, "unet", (path, 1.0))[name], want)
    half = fused(tiny, "unet", (path, 1.0), dtype=torch.bfloat16)[name]
    own = weights(tiny, "unet")[name].bfloat16().float()
    assert torch.equal(half, (own + 1.5 * up @ down).bfloat16())


def test_peft_settings_in_the_metadata_are_used(tiny: Path, tmp_path: Path) -> None:
    """diffusers writes them; without them a LoRA of alpha 8 would be fused as one of alpha 2."""
    names = UNET_STYLES["PEFT in diffusers"]
    state, _ = written(names, UNET_LAYERS)
    state = {name: t for name, t in state.items() if "alpha" not in name}
    settings = {"unet.r": 2, "unet.lora_alpha": 8, "unet.rank_pattern": {"to_out.0": 3}}
    settings |= {"unet.use_rslora": True, "text_encoder.r": 4, "text_encoder.lora_alpha": 1}
    metadata = {"lora_adapter_metadata": json.dumps(settings)}
    path = saved(tmp_path / "a.safetensors", state, metadata)
    changes = {}
    for n, (layer, rank) in enumerate(zip(UNET_LAYERS, (2, 3), strict=True)):
        change = draw(64, 2 + n, seed=9 + n) @ draw(2 + n, 64, seed=n)
        changes[f"{layer}.weight"] = 8 / rank**0.5 * change
    check_changes(tiny, "unet", fused(tiny, "unet", (path, 1.0)), changes)
