"""Make a Stable Diffusion checkpoint with random weights, in diffusers' own folder format.

    python -m demo.random_checkpoint FOLDER --kind tiny|demo|sd15|sd21 [--seed 0] [--dtype fp16]

"tiny" has every kind of layer of the real networks at a thousandth of the size (for tests), "demo"
is what `make demo` edits with, "sd15" and "sd21" have the published dimensions of Stable Diffusion
1.5 and 2.1 (860 M parameters in the UNet), for measuring speed and memory where no download is
possible. A random model edits at random: only shapes, speed and exactness mean anything. In the
last two the text's weights are made larger (`HEARD`), so that two texts differ by more than
rounding does, and a mask is the same mask in every precision.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

WORDS = (
    "a an the of on in with and at to is photo photograph picture painting portrait red green blue "
    "yellow orange purple white black brown grey pink cat dog horse bird ball cube cone star mug "
    "cup pear apple bowl table grass wood wooden wall sky sea road rocket astronaut coffee tea "
    "small large big tiny old young man woman person background plain striped"
).split()
"""The words that get a token of their own; all others are spelt letter by letter."""

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
"""Stable Diffusion 1.x's schedule."""

_TINY: dict[str, Any] = {
    "unet": {
        "sample_size": 16,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    },
    "vae": {
        "block_out_channels": (16, 32, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "sample_size": 64,
    },
    "text": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 32,
    },
    "scheduler": {},
}
_DEMO: dict[str, Any] = {
    "unet": {
        "sample_size": 32,
        "block_out_channels": (64, 128, 128),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 64,
        "attention_head_dim": 4,
    },
    "vae": {"block_out_channels": (32, 32, 64), "layers_per_block": 1, "sample_size": 128},
    "text": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 64,
    },
    "scheduler": {},
}
_SD15: dict[str, Any] = {
    "unet": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "vae": {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "sample_size": 512,
    },
    "text": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
        "vocab_size": 49408,
    },
    "scheduler": {},
}
_SD21: dict[str, Any] = {
    "unet": {
        **_SD15["unet"],
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "vae": {**_SD15["vae"], "sample_size": 768},
    "text": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "projection_dim": 512,
        "vocab_size": 49408,
        "hidden_act": "gelu",
    },
    "scheduler": {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
}
KINDS: dict[str, dict[str, Any]] = {"tiny": _TINY, "demo": _DEMO, "sd15": _SD15, "sd21": _SD21}


HEARD = {"sd15": 8.0, "sd21": 8.0}
"""Kind -> what the weights behind cross-attention's values are multiplied by."""


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
        folder: must not exist yet, or be empty.
        kind: a key of `KINDS`.
        seed: of the weights.
        dtype: "fp32", "fp16" or "bf16": the type the weights are stored in.
        scheduler: overrides of the scheduler's config, e.g. `{"prediction_type": "v_prediction"}`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder.")
    sizes = KINDS[kind]
    tokens = make_tokenizer(folder / "tokenizer")
    with quiet():
        _write_networks(folder, sizes, tokens, seed, dtype, HEARD.get(kind, 1.0))
    config = {**SD_SCHEDULER, **sizes["scheduler"], **(scheduler or {})}
    write_json(folder / "scheduler" / "scheduler_config.json", config)
    write_index(folder, str(config["_class_name"]))
    return folder


def _write_networks(
    folder: Path, sizes: dict[str, Any], tokens: int, seed: int, dtype: str, heard: float
) -> None:
    """UNet, VAE and text encoder with weights drawn from `seed`, each in its own subfolder."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch_dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    blocks = len(sizes["vae"]["block_out_channels"])
    text = {"vocab_size": tokens, "max_position_embeddings": 77, **sizes["text"]}
    ids = {"bos_token_id": tokens - 2, "eos_token_id": tokens - 1, "pad_token_id": tokens - 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(**sizes["unet"])
        for name, weight in unet.named_parameters():
            if heard != 1 and name.endswith(("attn2.to_v.weight", "attn2.to_out.0.weight")):
                weight.data.mul_(heard)
        unet.to(torch_dtype).save_pretrained(folder / "unet", max_shard_size="20GB")
        del unet
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            latent_channels=4,
            **sizes["vae"],
        )
        vae.to(torch_dtype).save_pretrained(folder / "vae")
        encoder = CLIPTextModel(CLIPTextConfig(**{**text, **ids}))
        encoder.to(torch_dtype).save_pretrained(folder / "text_encoder")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The libraries' bars and hints say nothing that a user of this command needs."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    levels = [library.get_verbosity() for library in (diffusers_logging, transformers_logging)]
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip((diffusers_logging, transformers_logging), levels, strict=True):
            library.set_verbosity(level)
            library.enable_progress_bar()


def make_tokenizer(folder: Path, words: Iterable[str] = WORDS) -> int:
    """Write a CLIP tokenizer that knows every byte, and each of `words` (lower case) as one token;
    returns its vocabulary's size."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    vocab = [*letters, *(letter + "</w>" for letter in letters)]
    merges: dict[tuple[str, str], int] = {}
    for word in words:
        # Join only what the merges so far leave apart: a merge learnt from another word ("an" in
        # "orange") comes first in byte-pair encoding, wherever in the word it stands.
        while len(pieces := _merged([*word[:-1], word[-1] + "</w>"], merges)) > 1:
            merges[pieces[0], pieces[1]] = len(merges)
            if pieces[0] + pieces[1] not in vocab:
                vocab.append(pieces[0] + pieces[1])
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
    """Byte-pair encoding: of the pairs that have a merge, the earliest learnt is joined first."""
    while known := [pair for pair in pairwise(pieces) if pair in merges]:
        first, at = min(known, key=merges.__getitem__), 0
        while at < len(pieces) - 1:
            if (pieces[at], pieces[at + 1]) == first:
                pieces = [*pieces[:at], first[0] + first[1], *pieces[at + 2 :]]
            at += 1
    return pieces


def write_index(folder: Path, scheduler: str) -> None:
    """Write `model_index.json`, which names the parts' classes."""
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
    """Write one config file as json, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """The command line: make beside, then rename, so that no half checkpoint is left."""
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
