"""Stable Diffusion 1.x and 2.x: CLIP text encoder, U-Net, VAE with 4 latent channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError
from engine.models import blocks
from engine.models.blocks import LORA_CLIP_L, LORA_DENOISER
from engine.models.configs import config_problem
from engine.models.family import (
    FEW_STEPS,
    LCM,
    Configs,
    Defaults,
    Network,
    Part,
    RequestInput,
    TextInput,
)
from engine.models.index import class_of, index_problem
from engine.models.noise_schedule import is_few_step, schedule_problem
from engine.models.reading import read_configs
from engine.models.vocabulary import check_vocabulary
from engine.netspec import Precision, Size, TensorSpec

TITLE = "Stable Diffusion 1.x and 2.x"
TOKENIZER = ("transformers", "CLIPTokenizer")


def _predict(
    module: Any, dtype: Any, latent: Any, timestep: Any, embedding: Any, guidance: Any = None
) -> Any:
    out = module(
        latent.to(dtype),
        timestep,
        embedding.to(dtype),
        timestep_cond=blocks.guidance_embedding(module, dtype, guidance),
        return_dict=False,
    )
    return out[0].float()


PARTS = (
    Part("text_encoder", "transformers", "CLIPTextModel", False, LORA_CLIP_L),
    Part("vae", "diffusers", "AutoencoderKL", convolutional=True),
    Part("unet", "diffusers", "UNet2DConditionModel", True, LORA_DENOISER),
)
NETWORKS = (
    Network("text", "text_encoder", "text_encoder", blocks.last_layer),
    Network("vae_encode", "image_encoder", "vae", blocks.encode_image, ("encoder",)),
    Network("unet", "denoiser", "unet", _predict, ("",)),
    Network("vae_decode", "image_decoder", "vae", blocks.decode_latent, ("decoder",)),
)


@dataclass(frozen=True)
class StableDiffusion:
    """The family, bound to one checkpoint's configs: "unet", "vae", "text_encoder", "scheduler"."""

    configs: Configs
    name: str = "stable-diffusion"
    parts: tuple[Part, ...] = PARTS
    networks: tuple[Network, ...] = NETWORKS
    zero_empty_text: bool = False
    max_side: int | None = None
    uniform_sigmas: bool = False

    @staticmethod
    def problem(index: Mapping[str, Any]) -> str | None:
        """Why a `model_index.json` is not of this family; None if it is."""
        wanted = {part.name: (part.package, part.class_name) for part in reversed(PARTS)}
        return index_problem(index, wanted | {"tokenizer": TOKENIZER}, TITLE)

    @staticmethod
    def read(folder: Path, index: Mapping[str, Any]) -> StableDiffusion:
        """Read and check the configs of a checkpoint. Raises CheckpointError."""
        configs = read_configs(folder, [part.name for part in PARTS])
        scheduler = schedule_problem(configs["scheduler"], class_of(index, "scheduler")[1])
        found = config_problem(configs, PARTS) or (("scheduler", scheduler) if scheduler else None)
        if found:
            part, problem = found
            raise CheckpointError(
                f"The {part} of {folder} cannot be used: {problem}; use a checkpoint of {TITLE}."
            )
        check_vocabulary(folder / "tokenizer", configs["text_encoder"])
        return StableDiffusion(configs)

    @property
    def embeds_guidance(self) -> bool:
        """Whether the U-Net takes the guidance scale as an input: distilled LCM does."""
        return blocks.takes_guidance(self.configs)

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one side: 8 for the published checkpoints."""
        return blocks.vae_factor(self.configs)

    @property
    def defaults(self) -> Defaults:
        """50 steps at guidance 7.5, SD-Turbo 4 steps without guidance; a distilled LCM 4 steps at
        guidance 8.5 as an input."""
        if self.embeds_guidance:
            return LCM
        return FEW_STEPS if is_few_step(self.configs["scheduler"]) else Defaults()

    @property
    def size_multiple(self) -> int:
        """Both sides of a picture are multiples of this number of pixels."""
        return self.factor

    @property
    def channels(self) -> int:
        """Latent channels: 4 for the published checkpoints."""
        return blocks.vae_channels(self.configs)

    @property
    def native_size(self) -> int:
        """The side in pixels that the U-Net was trained for: 512 for Stable Diffusion 1.5."""
        sample = self.configs["unet"].get("sample_size") or 64
        return int(max(sample) if isinstance(sample, list) else sample) * self.factor

    @property
    def text_inputs(self) -> tuple[TextInput, ...]:
        """CLIP, 77 tokens."""
        return (blocks.clip_input("text", "tokenizer", self.configs["text_encoder"]),)

    def request_inputs(self, size: Size, guidance_scale: float) -> tuple[RequestInput, ...]:
        """The guidance scale, where the U-Net takes it."""
        return (guidance_scale,) if self.embeds_guidance else ()

    def image_tokens(self, size: Size) -> int:
        """Not used: the schedule does not depend on the size."""
        return 0

    def tensors(
        self, network: str, size: Size
    ) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of a network for pictures of `size`, (height, width) in pixels."""
        tokens = self.text_inputs[0].length
        ids = TensorSpec("input_ids", (tokens,), "int64")
        embedding = TensorSpec(
            "embedding", (tokens, int(self.configs["text_encoder"]["hidden_size"]))
        )
        latent, image = blocks.latent(self.configs, size), blocks.picture(size)
        if network == "text":
            return (ids,), (embedding,)
        if network == "vae_encode":
            return (image,), (latent,)
        if network == "vae_decode":
            return (latent,), (image,)
        prediction = blocks.latent(self.configs, size, "prediction")
        inputs = (latent, blocks.TIMESTEP, embedding, *blocks.guidance_input(self.configs))
        return inputs, (prediction,)

    def size_of(self, network: str, shape: tuple[int, ...]) -> Size | None:
        """The picture size of rows whose first input has `shape`; None for the text encoder."""
        if network == "text":
            return None
        return blocks.picture_size(network, shape, 1 if network == "vae_encode" else self.factor)

    def attention_scores(self, network: str, size: Size) -> int:
        """Self-attention over the latent grid: the U-Net's first level, the VAE's middle block."""
        if network == "text":
            return 0
        cells = (size[0] // self.factor) * (size[1] // self.factor)
        return (self._heads if network == "unet" else 1) * cells * cells

    @property
    def _heads(self) -> int:
        """Heads at the U-Net's first level. diffusers' configs call it `attention_head_dim`."""
        unet = self.configs["unet"]
        heads = unet.get("num_attention_heads") or unet.get("attention_head_dim") or 8
        return int(heads[0] if isinstance(heads, list | tuple) else heads)

    def part_precision(self, part: str, precision: Precision) -> Precision:
        """fp32 for the VAE instead of fp16, in which it overflows on several published checkpoints.
        It runs twice per edit. bf16 has the range of fp32."""
        return "fp32" if part == "vae" and precision == "fp16" else precision
