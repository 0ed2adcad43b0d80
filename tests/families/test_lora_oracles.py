"""LoRAs under the names of several trainers: fused weights equal diffusers' own, with PEFT."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.loader import quiet
from engine.lora.shapes import ModelLayer, model_layers
from engine.models.original_names import original_layers
from tests.engine.lora_files import draw, fused, saved
from tests.shared import Folders
from tests.single_files.transformers import flux_to_original, sd3_to_original

SCALE, ALPHA = 0.7, 1.5
PEFT = ("lora_A", "lora_B")
Spell = Callable[[ModelLayer], str]
"""A layer -> how a file begins the names of its tensors."""


@dataclass(frozen=True)
class Style:
    """One way to spell the layers of one part.

    Attributes:
        kind: of the random checkpoint.
        part: its part.
        layers: part of a layer's path, of those that the file changes. All attention layers of a
            text encoder are among them, because diffusers leaves some out otherwise.
        original: whether the layers are those of the original code.
        spell: see `Spell`.
        names: of A and B.
        alpha: whether each layer has an alpha; otherwise it is the rank.
    """

    kind: str
    part: str
    layers: tuple[str, ...]
    original: bool
    spell: Spell
    names: tuple[str, str] = ("lora_down", "lora_up")
    alpha: bool = True


def kohya(prefix: str) -> Spell:
    return lambda layer: prefix + layer.path.replace(".", "_")


def dotted(prefix: str) -> Spell:
    return lambda layer: f"{prefix}{layer.path}"


UNET = ("attn", "proj_in", "in_layers.2", "out_layers.3", "emb_layers", "skip_conn", ".op", "ff.")
JOINT = (".attn.to_", ".ff.net", "add_q_proj", "to_add_out")
STYLES: dict[str, Style] = {
    "SGM names in kohya's SDXL": Style("tiny-sdxl", "unet", UNET, True, kohya("lora_unet_")),
    "SDXL's first encoder": Style(
        "tiny-sdxl", "text_encoder", ("_proj", "mlp"), False, kohya("lora_te1_text_model_")
    ),
    "SDXL's second encoder": Style(
        "tiny-sdxl", "text_encoder_2", ("_proj", "mlp"), False, kohya("lora_te2_")
    ),
    "kohya's FLUX": Style(
        "tiny-flux",
        "transformer",
        ("img_attn", "txt_attn", "mlp", "_mod.lin", "linear2", "modulation.lin"),
        True,
        kohya("lora_unet_"),
    ),
    "OneTrainer's FLUX": Style(
        "tiny-flux", "transformer", JOINT[:1], False, kohya("lora_transformer_")
    ),
    "ai-toolkit's FLUX": Style(
        kind="tiny-flux",
        part="transformer",
        layers=(*JOINT, "proj_mlp"),
        original=False,
        spell=dotted("transformer."),
        names=PEFT,
        alpha=False,
    ),
    "XLabs' FLUX": Style(
        kind="tiny-flux",
        part="transformer",
        layers=("processor",),
        original=True,
        spell=dotted(""),
        names=("down", "up"),
        alpha=False,
    ),
    "XLabs' FLUX in ComfyUI": Style(
        kind="tiny-flux",
        part="transformer",
        layers=("processor",),
        original=True,
        spell=dotted("diffusion_model."),
        names=("down", "up"),
        alpha=False,
    ),
    "PEFT's SD 3": Style(
        kind="tiny-sd3",
        part="transformer",
        layers=JOINT,
        original=False,
        spell=dotted("transformer."),
        names=PEFT,
        alpha=False,
    ),
}


def layers_of(folder: Path, style: Style) -> list[ModelLayer]:
    """The layers that a file of this style changes."""
    every = model_layers(Checkpoint.open(folder))[style.part].values()

    def is_original(layer: ModelLayer) -> bool:
        return [piece.layer for piece in layer.pieces] != [layer.path]

    return [
        layer
        for layer in every
        if is_original(layer) == style.original
        and len(layer.weight) > 1
        and any(word in layer.path for word in style.layers)
    ]


def tensors(layers: list[ModelLayer], style: Style, rank: int = 2) -> dict[str, Tensor]:
    """A and B of every layer."""
    down, up = style.names
    state: dict[str, Tensor] = {}
    for seed, layer in enumerate(layers):
        name, (outputs, *inner) = style.spell(layer), layer.weight
        ones = [1] * (len(inner) - 1)
        state[f"{name}.{down}.weight"] = draw(rank, *inner, seed=seed)
        state[f"{name}.{up}.weight"] = draw(outputs, rank, *ones, seed=seed + 500)
        if style.alpha:
            state[f"{name}.alpha"] = torch.tensor(ALPHA)
    return state


def theirs(folder: Path, part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a part after diffusers loaded and fused the LoRA."""
    from diffusers import DiffusionPipeline

    with quiet():
        pipe: Any = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
        pipe.load_lora_weights({name: tensor.clone() for name, tensor in state.items()})
        pipe.fuse_lora(lora_scale=SCALE)
    found = {
        name.replace(".base_layer", "").removeprefix("text_model."): tensor
        for name, tensor in getattr(pipe, part).state_dict().items()
    }
    return {name: tensor for name, tensor in found.items() if ".lora_" not in name}


@pytest.mark.parametrize("name", STYLES)
def test_fused_weights_are_those_of_diffusers(name: str, folders: Folders, tmp_path: Path) -> None:
    style = STYLES[name]
    folder = folders(style.kind)
    layers = layers_of(folder, style)
    state = tensors(layers, style)
    assert layers
    path = saved(tmp_path / "a.safetensors", state)
    ours, wanted = fused(folder, style.part, (path, SCALE)), theirs(folder, style.part, state)
    own = fused(folder, style.part)
    changed = [n for n in own if not torch.equal(ours[n], own[n])]
    assert len(changed) >= len(layers)
    for weight in own:
        torch.testing.assert_close(ours[weight], wanted[weight], rtol=0, atol=1e-6, msg=weight)


@pytest.mark.parametrize(
    ("kind", "prefix", "least"),
    [("tiny-flux", "lora_unet_", 20), ("tiny-sd3", "diffusion_model.", 20)],
)
def test_original_layers_change_by_definition(
    kind: str, prefix: str, least: int, folders: Folders, tmp_path: Path
) -> None:
    """Every layer, the model written back into the original layout: W + scale * alpha / rank * B A.

    diffusers' converter has FLUX's full widths written into it, and it has none for SD 3.
    """
    folder = folders(kind)
    spell = dotted(prefix) if prefix.endswith(".") else kohya(prefix)
    style = Style(kind, "transformer", ("",), True, spell)
    layers = [layer for layer in layers_of(folder, style) if "processor" not in layer.path]
    assert len(layers) >= least
    state = tensors(layers, style)
    file = saved(tmp_path / "a.safetensors", state)
    write = flux_to_original if "flux" in kind else sd3_to_original
    own, ours = (write(fused(folder, "transformer", *files)) for files in ((), ((file, SCALE),)))
    for layer in layers:
        down, up = (
            state[f"{spell(layer)}.{name}.weight"].flatten(1) for name in ("lora_down", "lora_up")
        )
        name = f"{layer.path}.weight"
        change = (SCALE * ALPHA / len(down) * up @ down).reshape(own[name].shape)
        torch.testing.assert_close(ours[name], own[name] + change, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("kind", "part", "prefix", "layer"),
    [
        ("tiny-flux", "text_encoder", "lora_te1_", "q_proj"),
        ("tiny-flux", "text_encoder_2", "lora_te2_", "SelfAttention.q"),
        ("tiny-flux", "text_encoder_2", "text_encoders.t5xxl.transformer.", "DenseReluDense.wo"),
        ("tiny-sd3", "text_encoder_2", "lora_te2_", "fc1"),
        ("tiny-sd3", "text_encoder_3", "lora_te3_", "SelfAttention.v"),
    ],
)
def test_text_encoders_change_by_definition(
    kind: str, part: str, prefix: str, layer: str, folders: Folders, tmp_path: Path
) -> None:
    """Those that diffusers does not load: it looks for a level that transformers has dropped."""
    folder = folders(kind)
    spell = dotted(prefix) if prefix.endswith(".") else kohya(prefix)
    style = Style(kind, part, (layer,), False, spell)
    layers = layers_of(folder, style)
    state = tensors(layers, style)
    file = saved(tmp_path / "a.safetensors", state)
    own, ours = fused(folder, part), fused(folder, part, (file, SCALE))
    assert layers
    for found in layers:
        down, up = (state[f"{spell(found)}.{name}.weight"] for name in ("lora_down", "lora_up"))
        name = f"{found.path}.weight".removeprefix("text_model.")
        change = SCALE * ALPHA / len(down) * up @ down
        torch.testing.assert_close(ours[name], own[name] + change, rtol=1e-5, atol=1e-6, msg=name)


def test_fused_and_single_names_of_one_layer_in_two_files(folders: Folders, tmp_path: Path) -> None:
    """Both changes count, whichever file comes first."""
    folder = folders("tiny-flux")
    every = model_layers(Checkpoint.open(folder))["transformer"]
    whole = Style("tiny-flux", "transformer", (), True, kohya("lora_unet_"))
    single = Style("tiny-flux", "transformer", (), False, kohya("lora_transformer_"))
    qkv = every["double_blocks_0_img_attn_qkv"]
    key = every["transformer_blocks_0_attn_to_k"]
    first = saved(tmp_path / "qkv.safetensors", tensors([qkv], whole))
    second = saved(tmp_path / "k.safetensors", tensors([key], single))
    one, two = (
        fused(folder, "transformer", *files)
        for files in (((first, 0.5), (second, 1.0)), ((second, 1.0), (first, 0.5)))
    )
    alone = [fused(folder, "transformer", file) for file in ((first, 0.5), (second, 1.0))]
    own = fused(folder, "transformer")
    for name in own:
        assert torch.allclose(one[name], two[name], atol=1e-6)
        wanted = alone[0][name] + alone[1][name] - own[name]
        torch.testing.assert_close(one[name], wanted, rtol=1e-5, atol=1e-6)


def test_a_file_with_both_names_counts_once(folders: Folders, tmp_path: Path) -> None:
    folder = folders("tiny-sdxl")
    every = model_layers(Checkpoint.open(folder))["unet"].values()
    style = Style("tiny-sdxl", "unet", (), False, kohya("lora_unet_"))
    layer = next(la for la in every if la.path.endswith("attn1.to_q") and "down" in la.path)
    original = next(
        la for la in every if la.path != layer.path and [p.layer for p in la.pieces] == [layer.path]
    )
    state = tensors([layer], style)
    both = state | tensors([original], style)
    alone, twice = (saved(tmp_path / f"{n}.safetensors", s) for n, s in (("1", state), ("2", both)))
    one, two = (fused(folder, "unet", (path, 1.0)) for path in (alone, twice))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_every_layer_of_a_transformer_has_an_original_name() -> None:
    """But SD 3's modulation of the context, whose order differs in the last block."""
    rows = {"transformer_blocks.0.norm1_context.linear": 4, "transformer_blocks.0.ff.net.2": 4}
    assert list(original_layers("SD3Transformer2DModel", {}, rows)) == [
        "joint_blocks.0.x_block.mlp.fc2"
    ]
