"""Models that cannot be edited with are refused from their JSON files, before a weight is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from tests.engine.checkpoints import Change, config, data, without

SDXL_INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
}
UNET, VAE = "UNet2DConditionModel", "AutoencoderKL"


def folder_for_config(folder: Path) -> None:
    (folder / "unet/config.json").unlink()
    (folder / "unet/config.json").mkdir()


OTHER_FAMILIES: dict[str, tuple[Change, str]] = {
    "SDXL without its second encoder": (
        config("index", **SDXL_INDEX),
        "text_encoder_2 is missing",
    ),
    "SDXL's unet alone": (config("unet", addition_embed_type="text_time"), "this is SDXL"),
    "SD 3": (
        config("index", unet=None, transformer=["diffusers", "SD3Transformer2DModel"]),
        "without a unet",
    ),
    "FLUX": (
        config("index", _class_name="FluxPipeline", unet=["diffusers", "FluxTransformer2DModel"]),
        "without a transformer, which FLUX",
    ),
    "inpainting": (config("unet", in_channels=9), "unet.*an inpainting model"),
    "InstructPix2Pix": (config("unet", in_channels=8), "InstructPix2Pix"),
    "depth": (config("unet", in_channels=5), "a depth model"),
    "x4 upscaler": (config("unet", in_channels=7, num_class_embeds=1000), "an upscaler"),
    "class embeddings": (config("unet", num_class_embeds=1000), "a class or an image.*1000"),
    "unCLIP": (config("unet", class_embed_type="projection"), "as unCLIP models"),
    "unCLIP's pipeline": (
        config("index", image_normalizer=["diffusers", "StableUnCLIPImageNormalizer"]),
        "image_normalizer.*unCLIP",
    ),
    "image embeddings": (config("unet", addition_embed_type="image"), "'image' embeddings"),
    "projected embeddings": (config("unet", encoder_hid_dim=1024), "projected embeddings"),
    "IP-Adapter": (config("unet", encoder_hid_dim_type="ip_image_proj"), "projected embeddings"),
    "GLIGEN": (config("unet", attention_type="gated"), "GLIGEN"),
    "distilled without size": (config("unet", time_cond_proj_dim=0), "time_cond_proj_dim"),
    "AnimateDiff": (config("unet", _class_name="UNetMotionModel"), "UNetMotionModel"),
    "AnimateDiff's adapter": (
        config("index", motion_adapter=["diffusers", "MotionAdapter"]),
        "motion_adapter.*AnimateDiff",
    ),
    "ControlNet": (config("index", controlnet=["diffusers", "ControlNetModel"]), "ControlNet"),
    "a learned variance": (config("unet", out_channels=8), "predicts 8 channels"),
    "16 latent channels": (config("vae", latent_channels=16), "vae.*16 channels"),
    "a shifted VAE": (config("vae", shift_factor=0.06), "shifts its latents"),
    "normalised latents": (config("vae", latents_mean=[0.0] * 4), "normalizes its latents"),
    "a wider text encoder": (
        config("unet", cross_attention_dim=768),
        "text_encoder.*32 numbers per token, but the unet takes 768",
    ),
    "several widths": (config("unet", cross_attention_dim=[32, 64]), "of different models"),
    "a vision model": (config("text_encoder", model_type="clip_vision_model"), "clip_vision_model"),
    "a projecting text encoder": (
        config("text_encoder", architectures=["CLIPTextModelWithProjection"]),
        "CLIPTextModelWithProjection",
    ),
    "a quantized unet": (config("unet", quantization_config={"bits": 4}), "quantized"),
    "another package": (config("index", unet=["my_models", UNET]), "package 'my_models'"),
    "remote code": (config("index", vae=["remote.module", VAE]), "no code of a checkpoint is run"),
    "a video autoencoder": (config("vae", _class_name="AutoencoderKLWan"), "AutoencoderKLWan"),
    "grey pictures": (config("vae", in_channels=1), "3 channels"),
}

DAMAGED: dict[str, tuple[Change, str]] = {
    "empty": (data("unet/config.json", ""), r"unet/config\.json is empty"),
    "blank": (data("vae/config.json", " \n"), r"vae/config\.json is empty"),
    "cut off": (data("unet/config.json", '{"in_channels": '), "cannot be read as JSON"),
    "a list": (data("unet/config.json", "[]"), "not a JSON object"),
    "null": (data("text_encoder/config.json", "null"), "text_encoder/config.json is empty"),
    "not text": (data("unet/config.json", b"\xff\xfe\x00"), "cannot be read as JSON"),
    "UTF-16": (data("unet/config.json", "{}".encode("utf-16")), "cannot be read as JSON"),
    "a byte order mark": (data("unet/config.json", b"\xef\xbb\xbf{}"), "cannot be read as JSON"),
    "NaN": (data("scheduler/scheduler_config.json", '{"beta_end": NaN}'), "contains NaN"),
    "a folder": (folder_for_config, "cannot be read"),
    "index of strings": (config("index", unet="UNet2DConditionModel"), "without a unet"),
    "a word as number": (config("unet", in_channels="four"), "in_channels is 'four'"),
    "true as number": (config("vae", latent_channels=True), "latent_channels is True"),
    "no width": (without("text_encoder", "hidden_size"), "hidden_size is missing"),
    "no blocks": (config("vae", block_out_channels=[]), "block_out_channels is missing"),
    "a size of zero": (config("text_encoder", max_position_embeddings=0), "max_position_embeddin"),
    "a scale of zero": (config("vae", scaling_factor=0), "scaling_factor is 0"),
    "an infinite scale": (config("vae", scaling_factor=float("inf")), "scaling_factor is inf"),
    "no heads": (config("unet", num_attention_heads=[None]), "num_attention_heads is None"),
    "half a head": (config("unet", attention_head_dim=[8, 0.5]), "attention_head_dim is 0.5"),
    "a wrong size": (config("unet", sample_size=[64, "64"]), "sample_size is '64'"),
}

SCHEDULERS: dict[str, tuple[Change, str]] = {
    "flow matching": (
        config("scheduler", _class_name="FlowMatchEulerDiscreteScheduler"),
        "flow matching",
    ),
    "flow matching, as listed": (
        config("index", scheduler=["diffusers", "FlowMatchHeunDiscreteScheduler"]),
        "flow matching",
    ),
    "flow sigmas": (config("scheduler", use_flow_sigmas=True), "flow matching"),
    "flow prediction": (config("scheduler", prediction_type="flow_prediction"), "flow matching"),
    "EDM": (config("scheduler", _class_name="EDMEulerScheduler"), "EDM"),
    "EDM's solver": (config("scheduler", _class_name="EDMDPMSolverMultistepScheduler"), "EDM"),
    "continuous": (
        config("scheduler", _class_name="EulerDiscreteScheduler", timestep_type="continuous"),
        "EDM",
    ),
    "consistency": (
        config("scheduler", _class_name="CMStochasticIterativeScheduler"),
        "a consistency model",
    ),
    "video": (config("scheduler", _class_name="CogVideoXDDIMScheduler"), "video model"),
    "its own": (config("scheduler", _class_name="MyScheduler"), "MyScheduler is not supported"),
    "prediction": (config("scheduler", prediction_type="score"), "prediction_type 'score'"),
    "betas": (config("scheduler", beta_schedule="sigmoid"), "beta_schedule 'sigmoid'"),
    "spacing": (config("scheduler", timestep_spacing="karras"), "timestep_spacing 'karras'"),
    "trained betas": (config("scheduler", trained_betas=[0.1, 0.2]), "a list of 1000 numbers"),
    "rising betas": (config("scheduler", beta_start=0.5, beta_end=0.1), "from 0.5 to 0.1"),
    "text as beta": (config("scheduler", beta_end="0.012"), "beta_end is '0.012'"),
    "no offset": (config("scheduler", steps_offset=None), "steps_offset is None"),
    "half an offset": (config("scheduler", steps_offset=0.5), "steps_offset is 0.5"),
    "no steps": (config("scheduler", num_train_timesteps=0), "num_train_timesteps is 0"),
    "unstated betas": (
        data("scheduler/scheduler_config.json", '{"_class_name": "LCMScheduler"}'),
        "does not state beta_start",
    ),
}

VOCABULARIES: dict[str, tuple[Change, str]] = {
    "too many tokens": (config("text_encoder", vocab_size=300), "tokens, but the text encoder"),
    "another tokenizer": (
        config("text_encoder", vocab_size=49408, eos_token_id=49407),
        "but the text encoder with 49407",
    ),
    "another tokenizer, old config": (
        config("text_encoder", vocab_size=49410, eos_token_id=2),
        "but the text encoder with 49407",
    ),
    "none": (lambda f: shutil.rmtree(f / "tokenizer"), "contains no tokenizer"),
    "added tokens": (
        data("tokenizer/added_tokens.json", json.dumps({"<toy>": 49408})),
        "has 49409 tokens",
    ),
}

CASES = OTHER_FAMILIES | DAMAGED | SCHEDULERS | VOCABULARIES


@pytest.mark.parametrize("case", CASES)
def test_a_model_that_cannot_be_used_is_one_sentence(case: str, tiny: Path, tmp_path: Path) -> None:
    """No weight file is there: nothing but JSON is read."""
    change, words = CASES[case]
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    change(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        Checkpoint.open(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


LEGAL: dict[str, Change] = {
    "Euler": config("scheduler", _class_name="EulerDiscreteScheduler", timestep_type="discrete"),
    "Karras sigmas": config(
        "scheduler", _class_name="DPMSolverMultistepScheduler", use_karras_sigmas=True
    ),
    "minus infinity": config("scheduler", lambda_min_clipped=-float("inf")),
    "LCM": config("scheduler", _class_name="LCMScheduler", original_inference_steps=50),
    "v": config("scheduler", prediction_type="v_prediction", timestep_spacing="trailing"),
    "sample": config("scheduler", prediction_type="sample"),
    "zero SNR": config("scheduler", rescale_betas_zero_snr=True, timestep_spacing="linspace"),
    "trained betas": config("scheduler", trained_betas=[0.01] * 1000, beta_schedule="own"),
    "no class": config("scheduler", _class_name=None),
    "safety checker": config(
        "index", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"]
    ),
    "custom pipeline": config("index", _class_name=["pipeline", "MyPipeline"]),
    "fast tokenizer": config("index", tokenizer=["transformers", "CLIPTokenizerFast"]),
    "one size twice": config("unet", sample_size=[16, 16], cross_attention_dim=[32, 32]),
}


@pytest.mark.parametrize("case", LEGAL)
def test_what_is_legal_stays_so(case: str, tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    LEGAL[case](folder)
    Checkpoint.open(folder)


def test_a_padded_embedding_table_is_legal(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    size: Any = json.loads((folder / "text_encoder/config.json").read_text())["vocab_size"]
    for rows in (size + 1, size + 63, 49408):  # the last as in demo.random_checkpoint's "sd15"
        config("text_encoder", vocab_size=rows)(folder)
        Checkpoint.open(folder)


def test_old_configs_name_another_end_token(tiny: Path, tmp_path: Path) -> None:
    """Those of the published models say 2 for it."""
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    config("text_encoder", eos_token_id=2, bos_token_id=0)(folder)
    Checkpoint.open(folder)
