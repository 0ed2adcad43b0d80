"""Check whether configs describe a Stable Diffusion 1.x or 2.x model.

All checks use the JSON files, before weights are read. Each function returns the first problem as a
clause, or None. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.models.family import Configs, Part
from engine.models.reading import whole
from engine.models.values import autoencoder_problem, numbers, value_problem

UNET_INPUTS = {
    9: "an inpainting model",
    8: "an instruction model such as InstructPix2Pix",
    7: "an upscaler",
    5: "a depth model",
}
"""Number of input channels -> kind of U-Net, if it has more than the latent's channels."""
TEXT_MODEL_TYPES = (None, "clip_text_model")


def config_problem(configs: Configs, parts: Sequence[Part]) -> tuple[str, str] | None:
    """(part, clause) of the first problem in the configs of a checkpoint's parts, or None."""
    for part in parts:
        config = configs[part.name]
        try:
            found = part_problem(config, part) or CHECKS[part.name](config, configs)
        except (ValueError, TypeError) as error:
            found = str(error)
        if found:
            return part.name, found
    return None


def part_problem(config: Mapping[str, Any], part: Part) -> str | None:
    """The problem of a config of another class, or with impossible numbers, as a clause."""
    return _class_problem(config, part) or value_problem(config)


def _class_problem(config: Mapping[str, Any], part: Part) -> str | None:
    """Weights that are quantized, or a config of another class."""
    if config.get("quantization_config") is not None:
        return "its weights are quantized; use the checkpoint that it was made from"
    architectures = config.get("architectures") or [None]
    for name in (config.get("_class_name"), architectures[0]):
        if name not in (None, part.class_name):
            return f"its config is of a {name}, not of a {part.class_name}"
    return None


def _text_encoder(config: Mapping[str, Any], configs: Configs) -> str | None:
    if config.get("model_type") not in TEXT_MODEL_TYPES:
        return f"its model_type is {config['model_type']!r}, not 'clip_text_model'"
    if config.get("use_attention_mask"):
        return "it masks the padding of its texts (use_attention_mask), which is not supported"
    width = whole(config, "hidden_size")
    wanted = list(numbers(configs["unet"].get("cross_attention_dim", 1280)))
    if any(dim != width for dim in wanted):
        return (
            f"it returns {width} numbers per token, but the unet takes {wanted[0]} "
            "(cross_attention_dim): they are of different models"
        )
    return None


def _vae(config: Mapping[str, Any], configs: Configs) -> str | None:
    latent, taken = _channels(configs)
    if latent != taken and taken not in UNET_INPUTS:
        return (
            f"its latents have {latent} channels, but the unet takes {taken}: they are of "
            "different models"
        )
    if config.get("shift_factor") is not None:
        return "it shifts its latents, as those of SD 3 and FLUX do"
    return autoencoder_problem(config)


def _unet(config: Mapping[str, Any], configs: Configs) -> str | None:
    latent, taken = _channels(configs)
    if taken != latent:
        return (
            f"it takes {taken} channels, but the latents have {latent}: this is "
            f"{UNET_INPUTS[taken]}; use the base model"
        )
    if whole(config, "out_channels", 4) != latent:
        return f"it predicts {config['out_channels']} channels, but the latents have {latent}"
    return _unet_condition_problem(config)


def _unet_condition_problem(config: Mapping[str, Any]) -> str | None:
    """Describe the input of a U-Net that needs more than latent, timestep and text."""
    if (kind := config.get("addition_embed_type")) is not None:
        sdxl = ": this is SDXL" if kind == "text_time" else ""
        return f"it also takes {kind!r} embeddings (addition_embed_type){sdxl}"
    return unet_input_problem(config)


def unet_input_problem(config: Mapping[str, Any]) -> str | None:
    """The problem of a U-Net that takes a class, a picture or boxes, as a clause."""
    classes = [config.get(key) for key in ("class_embed_type", "num_class_embeds")]
    if any(value is not None for value in classes):
        kind = next(value for value in classes if value is not None)
        return (
            f"it also takes a class or an image ({kind!r}), as unCLIP models and upscalers do; use "
            "the base model"
        )
    if (kind := config.get("encoder_hid_dim_type") or config.get("encoder_hid_dim")) is not None:
        return (
            f"it takes projected embeddings ({kind!r}), as with an IP-Adapter, and in Kandinsky "
            "and DeepFloyd; use the base model"
        )
    if (kind := config.get("attention_type") or "default") != "default":
        return f"its attention is {kind!r}, as in GLIGEN, which also takes boxes"
    return _guidance_problem(config)


def _guidance_problem(unet: Mapping[str, Any]) -> str | None:
    """The problem of a U-Net with a guidance embedding of an impossible size."""
    if unet.get("time_cond_proj_dim") is None:
        return None
    size = whole(unet, "time_cond_proj_dim")
    if size >= 4:
        return None
    return f"its embedding of the guidance scale has {size} numbers (time_cond_proj_dim), not 256"


def _channels(configs: Configs) -> tuple[int, int]:
    """Channels of the VAE's latents, and those that the U-Net takes."""
    return whole(configs["vae"], "latent_channels", 4), whole(configs["unet"], "in_channels", 4)


CHECKS = {"text_encoder": _text_encoder, "vae": _vae, "unet": _unet}
