"""LoRA files that are refused: each with the reason, and before any weight is loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.lora.file import Lora
from tests.engine.lora_files import ATTENTION, CONV, draw, fused, kohya, pair, saved

TO_Q = f"{ATTENTION}.to_q"
NAME = kohya(TO_Q)
State = dict[str, Tensor]


def renamed(old: str, new: str) -> State:
    return {name.replace(old, new): tensor for name, tensor in pair(TO_Q).items()}


def without(word: str) -> State:
    return {n: t for n, t in pair(TO_Q, alpha=1).items() if word not in n}


def other(kind: str, *shape: int) -> State:
    """A good pair, and one more tensor for the same layer."""
    return pair(TO_Q) | {f"{NAME}.{kind}": draw(*shape)}


DOES_NOT_FIT: dict[str, tuple[State, str]] = {
    "no layer matches": (
        renamed("mid_block", "nid_block"),
        "2 of its 2 tensors belong to no layer",
    ),
    "one layer does not match": (
        pair(TO_Q) | renamed("mid_block", "down_blocks_7"),
        "2 of its 4 tensors belong to no layer of the model (lora_unet_down_blocks_7_",
    ),
    "a second text encoder": (
        pair(TO_Q) | {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": draw(2, 2)},
        "1 of its 3 tensors belong to no layer",
    ),
    "the UNet's layer in the text encoder": (renamed("lora_unet", "lora_te"), "no layer"),
    "a token embedding": (
        {"lora_te_text_model_embeddings_token_embedding.lora_down.weight": draw(2, 703)},
        "no layer",
    ),
    "an unknown tensor": (other("something", 3), "1 of its 3 tensors"),
    "up without down": (without("down"), "tensors are missing"),
    "down without up": (without("up"), "tensors are missing"),
    "alpha alone": ({f"{NAME}.alpha": torch.tensor(1.0)} | pair(CONV), "no layer|missing|fit"),
    "a core without a convolution": (other("lora_mid.weight", 2, 2, 3, 3), "do not fit"),
    "two methods for one layer": (other("hada_w1_a", 64, 2), "several methods"),
    "half a LoHa": ({f"{NAME}.hada_w1_a": draw(64, 2)}, "tensors are missing"),
    "a LoKr without its second factor": ({f"{NAME}.lokr_w1": draw(4, 4)}, "tensors are missing"),
    "a LoKr whose factors do not divide": (
        {f"{NAME}.lokr_w1": draw(5, 5), f"{NAME}.lokr_w2": draw(12, 12)},
        "do not fit a weight of (64, 64)",
    ),
    "another width": (
        {f"{NAME}.lora_down.weight": draw(2, 48), f"{NAME}.lora_up.weight": draw(48, 2)},
        f"in its layer {TO_Q}, down (2, 48), up (48, 2) do not fit a weight of (64, 64)",
    ),
    "ranks that differ": (
        {f"{NAME}.lora_down.weight": draw(2, 64), f"{NAME}.lora_up.weight": draw(64, 3)},
        "do not fit",
    ),
    "transposed": (
        {f"{NAME}.lora_down.weight": draw(64, 2), f"{NAME}.lora_up.weight": draw(2, 64)},
        "do not fit",
    ),
    "rank 0": (
        {f"{NAME}.lora_down.weight": draw(0, 64), f"{NAME}.lora_up.weight": draw(64, 0)},
        "a tensor is empty",
    ),
    "a kernel of another size": (
        {
            f"{kohya(CONV)}.lora_down.weight": draw(2, 64, 5, 5),
            f"{kohya(CONV)}.lora_up.weight": draw(64, 2, 1, 1),
        },
        "do not fit a weight of (64, 64, 3, 3)",
    ),
    "several alphas": (other("alpha", 2), "alpha is not one number"),
    "magnitudes of another layer": (other("dora_scale", 32, 1), "do not fit"),
    "a bias where there is none": (other("diff_b", 64), "a bias of (64,) does not fit"),
    "a layer in two spellings": (
        pair(TO_Q)
        | {f"unet.{TO_Q}.lora_A.weight": draw(2, 64), f"unet.{TO_Q}.lora_B.weight": draw(64, 2)},
        "two tensors for one",
    ),
}


@pytest.mark.parametrize("case", DOES_NOT_FIT)
def test_files_that_do_not_fit(case: str, tiny: Path, tmp_path: Path) -> None:
    state, words = DOES_NOT_FIT[case]
    lora = Lora.open(saved(tmp_path / "a.safetensors", state), 1.0)
    with pytest.raises(CheckpointError) as error:
        lora.targets(Checkpoint.open(tiny))
    assert "does not fit this model" in str(error.value)
    assert any(word in str(error.value) for word in words.split("|")), error.value
    with pytest.raises(CheckpointError):
        fused(tiny, "unet", (lora.path, 1.0))


def test_three_of_the_unmatched_tensors_are_named(tiny: Path, tmp_path: Path) -> None:
    state = {kohya(f"nowhere.{n}") + ".lora_up.weight": draw(2, 2) for n in range(5)}
    lora = Lora.open(saved(tmp_path / "a.safetensors", state), 1.0)
    with pytest.raises(CheckpointError, match="5 of its 5 tensors") as error:
        lora.targets(Checkpoint.open(tiny))
    assert str(error.value).count("lora_unet_nowhere_") == 3


@pytest.mark.parametrize(
    ("tensor", "method"),
    [
        (f"{NAME}.oft_blocks", "OFT"),
        (f"{NAME}.on_input", "IA3"),
        (f"{NAME}.a1.weight", "GLoRA"),
        (f"{NAME}.lora_B.bias", "biases"),
        (f"{NAME}.bypass", "bypass"),
        ("base_model.model.embeddings.token_embedding.lora_embedding_A", "token embeddings"),
        ("bundle_emb.cat.string_to_param.*", "embeddings"),
    ],
)
def test_other_methods_are_refused_by_name(tensor: str, method: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", pair(TO_Q) | {tensor: draw(2, 2)})
    with pytest.raises(CheckpointError, match=method):
        Lora.open(path, 1.0)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_scales_that_are_no_numbers(scale: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finite number"):
        Lora.open(saved(tmp_path / "a.safetensors", pair(TO_Q)), scale)


@pytest.mark.parametrize("bad", ["nan in down", "nan alpha", "zero norm"])
def test_changes_that_are_not_finite(bad: str, tiny: Path, tmp_path: Path) -> None:
    state = pair(TO_Q, alpha=1.0)
    if bad == "nan in down":
        state[f"{NAME}.lora_down.weight"][1, 3] = math.nan
    elif bad == "nan alpha":
        state[f"{NAME}.alpha"] = torch.tensor(math.nan)
    else:
        state[f"{NAME}.dora_scale"] = torch.full((64, 1), math.inf)
    path = saved(tmp_path / "a.safetensors", state)
    with pytest.raises(CheckpointError, match=f"NaN or infinite weights in the layer {TO_Q}"):
        fused(tiny, "unet", (path, 1.0))


def test_files_that_are_no_loras(tiny: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path / "style.bin", tmp_path):
        with pytest.raises(CheckpointError, match="not a LoRA file"):
            Lora.open(path, 1)
    (model,) = (tiny / "unet").glob("*.safetensors")
    with pytest.raises(CheckpointError, match="has no LoRA weights"):
        Lora.open(model, 1)
    integers = {name: tensor.to(torch.int8) for name, tensor in pair(TO_Q).items()}
    with pytest.raises(CheckpointError, match="I8 numbers"):
        Lora.open(saved(tmp_path / "i.safetensors", integers), 1)
    cut = saved(tmp_path / "cut.safetensors", pair(TO_Q))
    cut.write_bytes(cut.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="is damaged"):
        Lora.open(cut, 1)


SETTINGS: dict[str, tuple[str, str]] = {
    "no json": ("{", "cannot be read"),
    "a list": ("[]", "cannot be read"),
    "no rank": ('{"lora_alpha": 3}', "cannot be read"),
    "rank 0": ('{"r": 0, "lora_alpha": 3}', "cannot be read"),
    "an alpha in words": ('{"r": 2, "lora_alpha": "much"}', "cannot be read"),
    "an infinite alpha": ('{"r": 2, "lora_alpha": Infinity}', "cannot be read"),
    "another method": ('{"peft_type": "OFT", "r": 2, "lora_alpha": 3}', "peft_type OFT"),
    "changed base weights": (
        '{"r": 2, "lora_alpha": 3, "init_lora_weights": "pissa_niter_4"}',
        "init_lora_weights pissa_niter_4",
    ),
    "whole modules": (
        '{"r": 2, "lora_alpha": 3, "modules_to_save": ["conv_in"]}',
        "modules_to_save",
    ),
    "a broken pattern": ('{"r": 2, "lora_alpha": 3, "rank_pattern": {"(": 1}}', "cannot be read"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_of_peft_that_are_not_understood(case: str, tiny: Path, tmp_path: Path) -> None:
    text, words = SETTINGS[case]
    layer = f"base_model.model.{TO_Q}"
    state = {f"{layer}.lora_A.weight": draw(2, 64), f"{layer}.lora_B.weight": draw(64, 2)}
    path = saved(tmp_path / "adapter_model.safetensors", state)
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=words):
        Lora.open(path, 1.0).targets(Checkpoint.open(tiny))


def test_an_alpha_that_is_given_twice(tiny: Path, tmp_path: Path) -> None:
    settings = json.dumps({"unet.r": 2, "unet.lora_alpha": 8})
    metadata = {"lora_adapter_metadata": settings}
    path = saved(tmp_path / "a.safetensors", pair(TO_Q, alpha=1.0), metadata)
    with pytest.raises(CheckpointError, match="alpha is given twice"):
        Lora.open(path, 1.0).targets(Checkpoint.open(tiny))
