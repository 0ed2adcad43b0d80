"""LoRAs under the names of several trainers: fused weights equal diffusers' own, with PEFT."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from demo import random_checkpoint
from engine.checkpoint import Checkpoint
from engine.loader import quiet
from engine.lora.shapes import ModelLayer, model_layers
from engine.models.original_names import Piece, original_layers
from tests.engine.lora_files import draw, fused, saved

SCALE, ALPHA = 0.7, 1.5
Spell = Callable[[ModelLayer], str]
"""A layer -> how a file begins the names of its tensors."""


@dataclass(frozen=True)
class Style:
    """One way to spell the layers of one part.

    Attributes:
        kind: of the random checkpoint.
        part: its part.
        layers: part of a layer's path, of those that the file changes.
        original: whether the layers are those of the original code.
        spell: see `Spell`.
        peft: whether A and B are called so, without alpha.
    """

    kind: str
    part: str
    layers: tuple[str, ...]
    original: bool
    spell: Spell
    peft: bool = False


def kohya(prefix: str) -> Spell:
    return lambda layer: prefix + layer.path.replace(".", "_")


def dotted(prefix: str) -> Spell:
    return lambda layer: f"{prefix}{layer.path}"


UNET = ("attn", "proj_in", "in_layers.2", "out_layers.3", "emb_layers", "skip_conn", ".op", "ff.")
JOINT = (".attn.to_", ".ff.net", "add_q_proj", "to_add_out")
STYLES: dict[str, Style] = {
    "SGM names in kohya's SDXL": Style("tiny-sdxl", "unet", UNET, True, kohya("lora_unet_")),
    "SDXL's first encoder": Style(
        "tiny-sdxl", "text_encoder", ("q_proj", "mlp"), False, kohya("lora_te1_text_model_")
    ),
    "SDXL's second encoder": Style(
        "tiny-sdxl", "text_encoder_2", ("q_proj", "mlp"), False, kohya("lora_te2_")
    ),
    "kohya's FLUX": Style(
        "tiny-flux",
        "transformer",
        ("img_attn", "txt_attn", "mlp", "_mod.lin", "linear2", "modulation"),
        True,
        kohya("lora_unet_"),
    ),
    "FLUX's CLIP": Style(
        "tiny-flux", "text_encoder", ("q_proj", "mlp"), False, kohya("lora_te1_text_model_")
    ),
    "OneTrainer's FLUX": Style(
        "tiny-flux", "transformer", (*JOINT, "proj_mlp"), False, kohya("lora_transformer_")
    ),
    "ai-toolkit's FLUX": Style(
        "tiny-flux", "transformer", (*JOINT, "proj_mlp"), False, dotted("transformer."), peft=True
    ),
    "PEFT's SD 3": Style(
        "tiny-sd3", "transformer", JOINT, False, dotted("transformer."), peft=True
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = random_checkpoint.make(tmp_path_factory.mktemp("lora") / kind, kind)
        return made[kind]

    return folder


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
    down, up = ("lora_A", "lora_B") if style.peft else ("lora_down", "lora_up")
    state: dict[str, Tensor] = {}
    for seed, layer in enumerate(layers):
        name, (outputs, *inner) = style.spell(layer), layer.weight
        ones = [1] * (len(inner) - 1)
        state[f"{name}.{down}.weight"] = draw(rank, *inner, seed=seed)
        state[f"{name}.{up}.weight"] = draw(outputs, rank, *ones, seed=seed + 500)
        if not style.peft:
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
def test_fused_weights_are_those_of_diffusers(
    name: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
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
        torch.testing.assert_close(ours[weight], wanted[weight], rtol=0, atol=2e-6, msg=weight)


def by_definition(
    folder: Path, part: str, layer: ModelLayer, state: Mapping[str, Tensor]
) -> Iterator[tuple[Piece, Tensor]]:
    """The change of each piece of an original layer."""
    up, down = (
        next(t for n, t in state.items() if f".{k}." in n) for k in ("lora_up", "lora_down")
    )
    change = SCALE * ALPHA / len(down) * up @ down
    for piece in layer.pieces:
        yield piece, change[piece.original]


@pytest.mark.parametrize(
    ("kind", "path", "prefix"),
    [
        ("tiny-flux", "single_blocks.0.linear1", "lora_unet_"),
        ("tiny-flux", "final_layer.adaLN_modulation.1", "lora_unet_"),
        ("tiny-sd3", "joint_blocks.0.x_block.attn.qkv", "lora_unet_"),
        ("tiny-sd3", "joint_blocks.1.context_block.attn.qkv", "diffusion_model."),
        ("tiny-sd3", "joint_blocks.0.x_block.attn2.qkv", "lora_unet_"),
    ],
)
def test_layers_that_diffusers_cannot_read_at_this_size(
    kind: str, path: str, prefix: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its converter has FLUX's full widths written into it, and none for SD 3's original names."""
    folder = folders(kind)
    every = model_layers(Checkpoint.open(folder))["transformer"]
    layer = every[path.replace(".", "_")]
    spell = dotted(prefix) if prefix.endswith(".") else kohya(prefix)
    style = Style(kind, "transformer", (), True, spell)
    state = tensors([layer], style)
    file = saved(tmp_path / "a.safetensors", state)
    ours, own = fused(folder, "transformer", (file, SCALE)), fused(folder, "transformer")
    for piece, change in by_definition(folder, "transformer", layer, state):
        name = f"{piece.layer}.weight"
        torch.testing.assert_close(
            ours[name][piece.own], own[name][piece.own] + change, rtol=1e-5, atol=1e-6
        )


def test_fused_and_single_names_of_one_layer_in_two_files(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
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


def test_a_file_with_both_names_counts_once(folders: Callable[[str], Path], tmp_path: Path) -> None:
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
