"""Make a Stable Diffusion checkpoint with random weights, in diffusers' folder format.

    python -m demo.random_checkpoint FOLDER --kind tiny|demo|sd15|sd21 [--seed 0] [--dtype fp16]

"tiny" has every type of layer of the real networks at a thousandth of the size, for tests. "demo"
is small enough to edit with on a CPU. "sd15" and "sd21" have the published dimensions of Stable
Diffusion 1.5 and 2.1 (860 M parameters in the UNet), to measure speed and memory without a
download. The edits of a random model have no meaning; shapes, speed and exactness do.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

WORDS = (
    "a an the of on in with and at to is photo photograph picture painting portrait red green blue "
    "yellow orange purple white black brown grey pink cat dog horse bird ball cube cone star mug "
    "cup pear apple bowl table grass wood wooden wall sky sea road rocket astronaut coffee tea "
    "small large big tiny old young man woman person background plain striped"
).split()
"""The words that are one token; all others are split into letters."""

SD_SCHEDULER: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
"""The scheduler configuration of Stable Diffusion 1.x."""


def _unet(channels: tuple[int, ...], attention: tuple[bool, ...], **config: Any) -> dict[str, Any]:
    """Return a UNet's config; `attention` says which levels have cross-attention, finest first."""
    return {
        "block_out_channels": channels,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attention[::-1]],
        **config,
    }


def _vae(channels: tuple[int, ...], sample_size: int, **config: Any) -> dict[str, Any]:
    return {"block_out_channels": channels, "sample_size": sample_size, **config}


def _text(width: int, intermediate: int, layers: int, heads: int, **config: Any) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "projection_dim": width,
        **config,
    }


_SD_ATTENTION, _SD_CHANNELS = (True, True, True, False), (320, 640, 1280, 1280)

KINDS: dict[str, dict[str, Any]] = {
    "tiny": {
        "unet": _unet(
            (32, 64), (True, False), sample_size=16, layers_per_block=1, cross_attention_dim=32,
            attention_head_dim=4, norm_num_groups=8,
        ),
        "vae": _vae((16, 32, 32), 64, layers_per_block=1, norm_num_groups=8),
        "text": _text(32, 64, 2, 4),
        "scheduler": {},
    },
    "demo": {
        "unet": _unet(
            (64, 128, 128), (True, True, False), sample_size=32, layers_per_block=1,
            cross_attention_dim=64, attention_head_dim=4,
        ),
        "vae": _vae((32, 32, 64), 128, layers_per_block=1),
        "text": _text(64, 256, 2, 4),
        "scheduler": {},
    },
    "sd15": {
        "unet": _unet(
            _SD_CHANNELS, _SD_ATTENTION, sample_size=64, layers_per_block=2,
            cross_attention_dim=768, attention_head_dim=8,
        ),
        "vae": _vae((128, 256, 512, 512), 512, layers_per_block=2),
        "text": _text(768, 3072, 12, 12, vocab_size=49408),
        "scheduler": {},
    },
    "sd21": {
        "unet": _unet(
            _SD_CHANNELS, _SD_ATTENTION, sample_size=96, layers_per_block=2,
            cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True, upcast_attention=True,
        ),
        "vae": _vae((128, 256, 512, 512), 768, layers_per_block=2),
        "text": {
            **_text(1024, 4096, 23, 16, vocab_size=49408, hidden_act="gelu"), "projection_dim": 512,
        },
        "scheduler": {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    },
}  # fmt: skip
"""The configs of each kind's networks, and what its scheduler changes in `SD_SCHEDULER`."""

TEXT_GAIN = {"sd15": 8.0, "sd21": 8.0}
"""Factor on the value and output weights of cross-attention, by kind (1 for the others).

With random weights two texts would differ by little more than rounding. The factor makes the mask
the same in every precision.
"""


def make(
    folder: str | Path,
    kind: str = "tiny",
    *,
    seed: int = 0,
    dtype: str = "fp32",
    scheduler: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint and return its folder.

    Args:
        folder: A folder that is empty or does not exist.
        kind: A key of `KINDS`.
        seed: The seed of the weights.
        dtype: The dtype of the stored weights: "fp32", "fp16" or "bf16".
        scheduler: Changes to the scheduler's config, e.g. `{"prediction_type": "v_prediction"}`.
    """
    from engine.loader import quiet

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder.")
    configs = KINDS[kind]
    tokens = make_tokenizer(folder / "tokenizer", size=configs["text"].get("vocab_size", 0))
    with quiet():
        _write_networks(folder, configs, tokens, seed, dtype, TEXT_GAIN.get(kind, 1.0))
    config = {**SD_SCHEDULER, **configs["scheduler"], **(scheduler or {})}
    write_json(folder / "scheduler" / "scheduler_config.json", config)
    write_index(folder, str(config["_class_name"]))
    return folder


def _write_networks(
    folder: Path, configs: dict[str, Any], tokens: int, seed: int, dtype: str, text_gain: float
) -> None:
    """Write the UNet, the VAE and the text encoder with random weights."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from engine.dtypes import TORCH_DTYPES

    torch_dtype = TORCH_DTYPES[dtype]
    blocks = len(configs["vae"]["block_out_channels"])
    text = {"vocab_size": tokens, "max_position_embeddings": 77, **configs["text"]}
    ids = {"bos_token_id": tokens - 2, "eos_token_id": tokens - 1, "pad_token_id": tokens - 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(**configs["unet"])
        for name, weight in unet.named_parameters():
            if text_gain != 1 and name.endswith(("attn2.to_v.weight", "attn2.to_out.0.weight")):
                weight.data.mul_(text_gain)
        unet.to(torch_dtype).save_pretrained(folder / "unet", max_shard_size="20GB")
        del unet
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            latent_channels=4,
            **configs["vae"],
        )
        vae.to(torch_dtype).save_pretrained(folder / "vae")
        encoder = CLIPTextModel(CLIPTextConfig(**{**text, **ids}))
        encoder.to(torch_dtype).save_pretrained(folder / "text_encoder")


def make_tokenizer(folder: Path, words: Iterable[str] = WORDS, *, size: int = 0) -> int:
    """Write a CLIP tokenizer with a token for every byte and one for each of `words` (lower case).

    If there are fewer than `size` tokens, others that no text has fill the vocabulary up.

    Returns the size of the vocabulary.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    vocab = [*letters, *(letter + "</w>" for letter in letters)]
    merges: dict[tuple[str, str], int] = {}
    for word in words:
        # Byte-pair encoding applies earlier merges first, also those of other words ("an" in
        # "orange"), so add merges only for the pieces that are still separate.
        while len(pieces := _merged([*word[:-1], word[-1] + "</w>"], merges)) > 1:
            merges[pieces[0], pieces[1]] = len(merges)
            if pieces[0] + pieces[1] not in vocab:
                vocab.append(pieces[0] + pieces[1])
    vocab += [f"<|unused {n}|>" for n in range(size - len(vocab) - 2)]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(vocab)})
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    special |= {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    write_json(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    write_json(folder / "tokenizer_config.json", {**config, **special})
    return len(vocab)


def _merged(pieces: list[str], merges: dict[tuple[str, str], int]) -> list[str]:
    """Apply byte-pair encoding: repeatedly join the pair with the earliest merge."""
    while pairs := [pair for pair in pairwise(pieces) if pair in merges]:
        first, at = min(pairs, key=merges.__getitem__), 0
        while at < len(pieces) - 1:
            if (pieces[at], pieces[at + 1]) == first:
                pieces = [*pieces[:at], first[0] + first[1], *pieces[at + 2 :]]
            at += 1
    return pieces


def write_index(folder: Path, scheduler: str) -> None:
    """Write `model_index.json`, which lists the classes of the parts."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(folder / "model_index.json", index)


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """Run the command line; write the checkpoint completely or not at all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=sorted(KINDS), default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32")
    args = parser.parse_args()
    if args.folder.exists():
        print(f"{args.folder} exists already; nothing to do.")
        return
    args.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder.parent) as temporary:
        made = make(Path(temporary) / "made", args.kind, seed=args.seed, dtype=args.dtype)
        os.replace(made, args.folder)
    size = sum(f.stat().st_size for f in args.folder.rglob("*") if f.is_file())
    print(f"wrote {args.folder} ({args.kind}, random weights, {size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
