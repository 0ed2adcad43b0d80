"""What a safetensors file is, by its header alone, and the published configs of each kind."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from demo.random_checkpoint import KINDS
from diffedit.conditioning.tokenizer import Tokenizer
from engine.errors import CheckpointError
from engine.loader import quiet
from engine.models import Configs
from engine.models.published import published_configs, write_clip_tokenizer
from engine.models.single_file_configs import configs_without_base, part_config, scheduler_config
from engine.models.single_files import SingleFile, identify
from engine.safetensors_header import Header
from tests.single_files.ldm import unet_to_ldm, vae_to_ldm
from tests.single_files.transformers import flux_to_original, sd3_to_original

UNET = "model.diffusion_model."


def header(*names: str, **shapes: tuple[int, ...]) -> Header:
    """A header of tensors with these names; the shapes of some."""
    return {n: {"dtype": "F16", "shape": [*shapes.get(n, (1,))]} for n in names}


def of(state: Mapping[str, Tensor]) -> Header:
    return {n: {"dtype": "F16", "shape": [*t.shape]} for n, t in state.items()}


def meta(kind: str, part: str) -> dict[str, Tensor]:
    """The weights of a part in its published size, without memory."""
    config = {k: v for k, v in KINDS[kind][part].items() if not k.startswith("_")}
    classes = {
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "transformer": "FluxTransformer2DModel" if "flux" in kind else "SD3Transformer2DModel",
    }
    with torch.device("meta"):
        module = getattr(importlib.import_module("diffusers"), classes[part])(**config)
    return dict(module.state_dict())


def unet_file(kind: str, text: str) -> dict[str, Tensor]:
    state = unet_to_ldm(meta(kind, "unet"), KINDS[kind]["unet"])
    state |= vae_to_ldm(meta(kind, "vae"), KINDS[kind]["vae"], "first_stage_model.")
    return state | {name: torch.empty(1, device="meta") for name in text.split()}


FULL = {
    "sd15": ("stable-diffusion-1", "cond_stage_model.transformer.text_model.x"),
    "sd21": ("stable-diffusion-2", "cond_stage_model.model.x"),
    "sdxl": (
        "stable-diffusion-xl",
        "conditioner.embedders.0.transformer.x conditioner.embedders.1.model.x",
    ),
}


@pytest.mark.parametrize("kind", FULL)
def test_published_sizes_are_converted_by_the_published_configs(kind: str) -> None:
    """Names and shapes of every tensor, through diffusers' converters, without weights."""
    from diffusers.loaders.single_file_utils import (
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
    )

    name, texts = FULL[kind]
    with quiet():
        state = unet_file(kind, texts)
        found = identify(of(state), {})
        assert found.kind == name
        configs = configs_without_base(found)
        for part, convert in (
            ("unet", convert_ldm_unet_checkpoint),
            ("vae", convert_ldm_vae_checkpoint),
        ):
            config = part_config(found, part, of(state), configs[part])
            own = {n: t for n, t in state.items() if n.startswith(found.parts[part])}
            converted = convert(own, config=config)
            assert shapes(converted) == shapes(module(part, config))


@pytest.mark.parametrize(
    ("kind", "name"), [("sd35-medium", "stable-diffusion-3"), ("flux", "flux-dev")]
)
def test_sizes_of_transformers_are_read_from_their_tensors(kind: str, name: str) -> None:
    from diffusers.loaders import single_file_utils as loaders

    original, convert = {
        "sd35-medium": (sd3_to_original, loaders.convert_sd3_transformer_checkpoint_to_diffusers),
        "flux": (flux_to_original, loaders.convert_flux_transformer_checkpoint_to_diffusers),
    }[kind]
    with quiet():
        state = original(meta(kind, "transformer"))
        found = identify(of(state), {})
        assert found.kind == name
        template = published_configs(name)["transformer"]
        config = part_config(found, "transformer", of(state), template)
        assert shapes(convert(dict(state))) == shapes(module(config["_class_name"], config))
    wanted = KINDS[kind]["transformer"]
    listed = {k: list(v) if isinstance(v, tuple) else v for k, v in wanted.items()}
    assert {k: config[k] for k in listed} == listed


def module(part: str, config: Mapping[str, Any]) -> dict[str, Tensor]:
    diffusers = importlib.import_module("diffusers")
    classes = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    kind = getattr(diffusers, classes.get(part, part))
    with torch.device("meta"):
        return dict(kind.from_config(dict(config)).state_dict())


def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("kind", "demo"),
    [
        ("stable-diffusion-1", "sd15"),
        ("stable-diffusion-2", "sd21"),
        ("stable-diffusion-xl", "sdxl"),
        ("stable-diffusion-3", "sd35-medium"),
        ("flux-dev", "flux"),
    ],
)
def test_published_configs_are_those_of_the_full_size_models(kind: str, demo: str) -> None:
    published = published_configs(kind)
    for part, config in KINDS[demo].items():
        theirs = published.get(part, config)
        for key, value in config.items():
            if part == "transformer" and key not in theirs:
                continue  # read from the tensors
            listed = list(value) if isinstance(value, tuple) else value
            if key == "_class_name":
                continue
            defaults = {"hidden_act": "quick_gelu", "trained_betas": None, "skip_prk_steps": True}
            assert theirs.get(key, defaults.get(key)) == listed, (part, key)


def test_stable_diffusion_2_for_noise_has_512_pixels() -> None:
    parts = {"unet": UNET}
    noise = SingleFile("stable-diffusion-2", parts, "epsilon")
    assert configs_without_base(noise)["unet"]["sample_size"] == 64
    assert scheduler_config(noise, configs_without_base(noise))["prediction_type"] == "epsilon"
    velocity = SingleFile("stable-diffusion-2", parts)
    configs = configs_without_base(velocity)
    assert configs["unet"]["sample_size"] == 96
    assert scheduler_config(velocity, configs)["prediction_type"] == "v_prediction"


def test_a_flux_file_with_the_other_flux_as_base_has_its_own_schedule() -> None:
    dev = SingleFile("flux-dev", {"transformer": ""})
    base: Configs = {"scheduler": {"shift": 1.0}, "transformer": {"guidance_embeds": False}}
    assert scheduler_config(dev, base)["use_dynamic_shifting"] is True
    same: Configs = {"scheduler": {"shift": 2.0}, "transformer": {"guidance_embeds": True}}
    assert scheduler_config(dev, same) == {"shift": 2.0}


def test_the_published_tokenizer_has_clip_s_ids(tmp_path: Path) -> None:
    """Ids as CLIP's own tokenizer gives them, e.g. in the documentation of transformers."""
    write_clip_tokenizer(tmp_path / "t", {"pad_token": "<|endoftext|>"})
    tokenizer = Tokenizer(tmp_path / "t", 77)
    ids = tokenizer.encode("a photo of a cat")
    assert ids[:8] == (49406, 320, 1125, 539, 320, 2368, 49407, 49407)
    assert tokenizer.encode("a photo of a dog")[5] == 1929
    write_clip_tokenizer(tmp_path / "open", {"pad_token": "!"})
    assert Tokenizer(tmp_path / "open", 77).encode("a photo of a cat")[6:9] == (49407, 0, 0)


def sd(**shapes: tuple[int, ...]) -> Header:
    first, last = f"{UNET}input_blocks.0.0.weight", f"{UNET}out.2.weight"
    sizes = {first: (320, 4, 3, 3), last: (4, 320, 3, 3)} | shapes
    return header(*sizes, "cond_stage_model.transformer.text_model.x", **sizes)


FIRST = f"{UNET}input_blocks.0.0.weight"
REFUSED: dict[str, tuple[Header, str]] = {
    "LoRA": (header("lora_unet_down_blocks_0.lora_down.weight"), "is a LoRA.*--lora"),
    "LoHa": (header("lycoris_x.hada_w1_a"), "is a LoRA"),
    "inversion": (header("emb_params"), "textual inversion.*--embedding"),
    "SDXL inversion": (header("clip_l", "clip_g"), "textual inversion.*--embedding"),
    "diffusers inversion": (header("<toy>"), "textual inversion.*--embedding"),
    "VAE": (header("decoder.conv_in.weight", "encoder.down_blocks.0.x"), "a VAE.*--vae"),
    "ControlNet": (header("control_model.input_hint_block.0"), "ControlNet"),
    "IP-Adapter": (header("image_proj.x", "ip_adapter.1.to_k.weight"), "IP-Adapter"),
    "inpainting": (sd(**{FIRST: (320, 9, 3, 3)}), "is an inpainting model; use the base model"),
    "pix2pix": (sd(**{FIRST: (320, 8, 3, 3)}), "InstructPix2Pix; use the base"),
    "depth": (sd(**{FIRST: (320, 5, 3, 3)}), "depth model; use the base"),
    "refiner": (
        {
            n: t
            for n, t in (sd() | header("conditioner.embedders.0.model.ln_final.bias")).items()
            if "cond_stage" not in n
        },
        "SDXL refiner.*use the base model",
    ),
    "cut": (header(f"{UNET}input_blocks.1.0.x"), "lacks the U-Net's first or last layer"),
    "unknown width": (
        {n: t for n, t in sd().items() if "cond_stage" not in n},
        "takes no numbers per token",
    ),
    "FLUX Fill": (
        header(
            "double_blocks.0.x", "img_in.weight", "final_layer.linear.weight",
            **{"img_in.weight": (3072, 384), "final_layer.linear.weight": (64, 3072)},
        ),
        "FLUX.1 Fill",
    ),
    "Chroma": (header("double_blocks.0.x", "distilled_guidance_layer.x"), "is Chroma"),
    "FLUX.2": (header("double_blocks.0.x", "single_stream_modulation.lin.weight"), r"FLUX\.2"),
    "Playground": (sd() | header("edm_mean"), r"Playground v2\.5"),
    "diffusers transformer": (header("single_transformer_blocks.0.x"), "folder transformer"),
    "U-Net": (header("down_blocks.0.x", "conv_in.weight"), "is a U-Net"),
    "text encoder": (header("text_model.encoder.layers.0.x"), "is a text encoder"),
    "scaled fp8": (sd() | header("scaled_fp8"), "fp8 with scales.*fp16 or bf16 file"),
    "bitsandbytes": (sd() | header(f"{UNET}x.weight.absmax"), "bitsandbytes.*fp16 or bf16 file"),
    "int8": (
        sd() | {f"{UNET}x": {"dtype": "I8", "shape": [2, 2]}},
        "quantized weights .I8..*fp16 or bf16 file",
    ),
    "a U-Net without its beginning": (header(f"{UNET}out.0.weight"), "is an incomplete Stable"),
    "nothing known": (header("x"), "is a safetensors file of an unknown kind"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_named(case: str) -> None:
    names, words = REFUSED[case]
    with pytest.raises(CheckpointError, match=words) as caught:
        identify(names, {})
    assert "\n" not in str(caught.value)


def test_schnell_has_no_guidance() -> None:
    sizes = {"img_in.weight": (3072, 64), "final_layer.linear.weight": (64, 3072)}
    found = identify(header("double_blocks.0.x", *sizes, **sizes), {})
    assert (found.kind, found.family, found.parts) == ("flux-schnell", "flux", {"transformer": ""})
