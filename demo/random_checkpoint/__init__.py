"""Make a checkpoint with random weights, in diffusers' folder format.

    python -m demo.random_checkpoint FOLDER --kind tiny|tiny-sdxl|tiny-sd3|tiny-flux|sd15|... \
        [--seed 0] [--dtype fp16]

"tiny" kinds have every type of layer of the real networks at a thousandth of the size, for tests.
"demo" is small enough to edit with on a CPU. "sd15", "sd21", "sdxl", "sd35-medium" and "flux" have
the published dimensions, to measure speed and memory without a download. The edits of a random
model have no meaning; shapes, speed and exactness do.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demo.random_checkpoint.files import write_json
from demo.random_checkpoint.kinds import KINDS, SD_SCHEDULER, TEXT_GAIN, Config
from demo.random_checkpoint.tokenizers import WORDS, make_t5_tokenizer, make_tokenizer

__all__ = [
    "KINDS",
    "SD_SCHEDULER",
    "WORDS",
    "make",
    "make_t5_tokenizer",
    "make_tokenizer",
    "write_index",
    "write_json",
]

PIPELINES: dict[tuple[str, int], tuple[str, str]] = {
    ("unet", 1): ("StableDiffusionPipeline", "stable_diffusion"),
    ("unet", 2): ("StableDiffusionXLPipeline", "sdxl"),
    ("transformer", 3): ("StableDiffusion3Pipeline", "stable_diffusion_3"),
    ("transformer", 2): ("FluxPipeline", "flux"),
}
"""(denoiser's part, text encoders) -> diffusers' pipeline, and the family's file."""


def make(
    folder: str | Path,
    kind: str = "tiny",
    *,
    seed: int = 0,
    dtype: str = "fp32",
    scheduler: dict[str, Any] | None = None,
    weights: bool = True,
) -> Path:
    """Write a checkpoint and return its folder.

    Args:
        folder: A folder that is empty or does not exist.
        kind: A key of `KINDS`.
        seed: The seed of the weights.
        dtype: The dtype of the stored weights: "fp32", "fp16" or "bf16".
        scheduler: Changes to the scheduler's config, e.g. `{"prediction_type": "v_prediction"}`.
        weights: Whether to write weights; without them the configs alone, in seconds.
    """
    from engine.loader import quiet

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; pass a new folder.")
    configs = KINDS[kind]
    pipeline, description = _pipeline(configs)
    family = importlib.import_module(f"engine.models.{description}")
    config = {**configs["scheduler"], **(scheduler or {})}
    write_json(folder / "scheduler" / "scheduler_config.json", config)
    with quiet():
        vocabularies = _write_tokenizers(folder, configs, family.PARTS)
        if weights:
            _write_networks(
                folder, configs, family.PARTS, vocabularies, seed, dtype, TEXT_GAIN.get(kind, 1.0)
            )
        else:
            _write_configs(folder, configs, family.PARTS, vocabularies)
    write_index(folder, str(config["_class_name"]), pipeline, family.PARTS, configs)
    return folder


def write_index(
    folder: Path,
    scheduler: str,
    pipeline: str = "StableDiffusionPipeline",
    parts: Any = None,
    configs: Mapping[str, Config] | None = None,
) -> None:
    """Write `model_index.json`, which lists the classes of the parts.

    `parts` are the family's, by default those of Stable Diffusion; a part that `configs` lacks is
    null.
    """
    from engine.models.stable_diffusion import PARTS

    index: dict[str, Any] = {"_class_name": pipeline, "scheduler": ["diffusers", scheduler]}
    for part in parts or PARTS:
        has_part = configs is None or part.name in configs
        index[part.name] = [part.package, part.class_name] if has_part else [None, None]
        if part.name.startswith("text_encoder"):
            tokenizer = "T5TokenizerFast" if _is_t5(part.class_name) else "CLIPTokenizer"
            name = part.name.replace("text_encoder", "tokenizer")
            index[name] = ["transformers", tokenizer] if has_part else [None, None]
    if pipeline in ("StableDiffusionPipeline", "LatentConsistencyModelPipeline"):
        index |= {"feature_extractor": [None, None], "safety_checker": [None, None]}
        index["requires_safety_checker"] = False
    if pipeline == "StableDiffusionXLPipeline":
        index["force_zeros_for_empty_prompt"] = True
    write_json(folder / "model_index.json", index)


def _pipeline(configs: Mapping[str, Config]) -> tuple[str, str]:
    """diffusers' pipeline and the family's file. SD 3 without T5 has two CLIP encoders; a U-Net of
    Stable Diffusion 1 that takes the guidance scale has a pipeline of its own."""
    denoiser = "unet" if "unet" in configs else "transformer"
    texts = [config for name, config in configs.items() if name.startswith("text_encoder")]
    without_t5 = denoiser == "transformer" and not any("d_model" in config for config in texts)
    pipeline, description = PIPELINES[denoiser, len(texts) + without_t5]
    takes_guidance = configs[denoiser].get("time_cond_proj_dim") is not None
    if takes_guidance and pipeline == "StableDiffusionPipeline":
        pipeline = "LatentConsistencyModelPipeline"
    return pipeline, description


def _is_t5(class_name: str) -> bool:
    return class_name.startswith("T5")


def _write_tokenizers(folder: Path, configs: Mapping[str, Config], parts: Any) -> dict[str, int]:
    """Write one tokenizer per text encoder; returns the sizes of their vocabularies by part."""
    sizes = {}
    for part in parts:
        if part.name.startswith("text_encoder") and part.name in configs:
            write = make_t5_tokenizer if _is_t5(part.class_name) else make_tokenizer
            sizes[part.name] = write(
                folder / part.name.replace("text_encoder", "tokenizer"),
                size=configs[part.name].get("vocab_size", 0),
            )
    return sizes


def _write_networks(
    folder: Path,
    configs: Mapping[str, Config],
    parts: Any,
    vocabularies: Mapping[str, int],
    seed: int,
    dtype: str,
    text_gain: float,
) -> None:
    """Write the parts with random weights, one at a time, the denoiser first."""
    import torch

    from engine.dtypes import TORCH_DTYPES

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in reversed([part for part in parts if part.name in configs]):
            module = _module(part, configs[part.name], vocabularies.get(part.name, 0))
            for name, weight in module.named_parameters():
                if text_gain != 1 and name.endswith(("attn2.to_v.weight", "attn2.to_out.0.weight")):
                    weight.data.mul_(text_gain)
            module.to(TORCH_DTYPES[dtype]).save_pretrained(
                folder / part.name, max_shard_size="20GB"
            )
            del module


def _write_configs(
    folder: Path, configs: Mapping[str, Config], parts: Any, vocabularies: Mapping[str, int]
) -> None:
    """Write the parts' configs, from modules on the meta device."""
    import torch

    for part in (part for part in parts if part.name in configs):
        with torch.device("meta"):
            module = _module(part, configs[part.name], vocabularies.get(part.name, 0))
        if part.package == "diffusers":
            module.save_config(folder / part.name)
        else:
            module.config.architectures = [part.class_name]
            module.config.save_pretrained(folder / part.name)


def _module(part: Any, config: Config, vocabulary: int) -> Any:
    """A part with random weights."""
    cls = getattr(importlib.import_module(part.package), part.class_name)
    if part.package == "diffusers":
        return cls(**config)
    options = {"vocab_size": vocabulary, **config}
    if _is_t5(part.class_name):
        return cls(cls.config_class(**options))
    last = vocabulary - 1
    ids = {"bos_token_id": last - 1, "eos_token_id": last, "pad_token_id": last}
    return cls(cls.config_class(**options, **ids))
