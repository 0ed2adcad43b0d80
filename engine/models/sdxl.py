"""Stable Diffusion XL: two CLIP text encoders, and a U-Net with the picture's size as an input.

Base, Turbo, Lightning and LCM checkpoints. The refiner has one text encoder and is not supported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.models import blocks
from engine.models.blocks import LORA_CLIP_G, LORA_CLIP_L, LORA_DENOISER
from engine.models.configs import UNET_INPUTS, unet_input_problem
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
from engine.models.family_checks import (
    check_vocabularies,
    checked_configs,
    mismatch,
    other_inputs,
    schedule_mismatch,
    wanted_classes,
)
from engine.models.index import index_problem
from engine.models.noise_schedule import is_few_step
from engine.models.reading import whole
from engine.netspec import Precision, Size, TensorSpec

TITLE = "Stable Diffusion XL"


def _predict(
    module: Any,
    dtype: Any,
    latent: Any,
    timestep: Any,
    embedding: Any,
    pooled: Any,
    time_ids: Any,
    guidance: Any = None,
) -> Any:
    # The module concatenates both in fp32 and casts the result. ONNX cannot concatenate two types.
    added = {"text_embeds": pooled, "time_ids": time_ids}
    out = module(
        latent.to(dtype),
        timestep,
        embedding.to(dtype),
        timestep_cond=blocks.guidance_embedding(module, dtype, guidance),
        added_cond_kwargs=added,
        return_dict=False,
    )
    return out[0].float()


PARTS = (
    Part("text_encoder", "transformers", "CLIPTextModel", False, LORA_CLIP_L),
    Part("text_encoder_2", "transformers", "CLIPTextModelWithProjection", False, LORA_CLIP_G),
    Part("vae", "diffusers", "AutoencoderKL", convolutional=True),
    Part("unet", "diffusers", "UNet2DConditionModel", True, LORA_DENOISER),
)
TOKENIZERS = {"tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer"}


def _problem(configs: Configs) -> tuple[str, str] | None:
    unet, texts = configs["unet"], ("text_encoder", "text_encoder_2")
    if unet.get("addition_embed_type") != "text_time":
        return "unet", "it does not take the picture's size (addition_embed_type)"
    if clause := unet_input_problem(unet) or other_inputs(
        whole(unet, "in_channels"), blocks.vae_channels(configs), UNET_INPUTS
    ):
        return "unet", clause
    width = sum(whole(configs[name], "hidden_size") for name in texts)
    ids = 6 * whole(unet, "addition_time_embed_dim")
    return (
        mismatch("unet", unet, "in_channels", blocks.vae_channels(configs))
        or mismatch("unet", unet, "cross_attention_dim", width)
        or mismatch(
            "unet",
            unet,
            "projection_class_embeddings_input_dim",
            whole(configs["text_encoder_2"], "projection_dim") + ids,
        )
        or schedule_mismatch(configs, flow=False)
    )


NETWORKS = (
    Network("text", "text_encoder", "text_encoder", blocks.second_last_layer),
    Network("text_2", "text_encoder", "text_encoder_2", blocks.second_last_and_pooled),
    Network("vae_encode", "image_encoder", "vae", blocks.encode_image, ("encoder",)),
    Network("unet", "denoiser", "unet", _predict, ("",)),
    Network("vae_decode", "image_decoder", "vae", blocks.decode_latent, ("decoder",)),
)


@dataclass(frozen=True)
class StableDiffusionXL:
    """The family, bound to one checkpoint's configs.

    Attributes:
        zero_empty_text: the conditioning of the empty text is zeros.
    """

    configs: Configs
    zero_empty_text: bool = True
    name: str = "stable-diffusion-xl"
    parts: tuple[Part, ...] = PARTS
    networks: tuple[Network, ...] = NETWORKS
    uniform_sigmas: bool = False
    max_side: int | None = None

    @staticmethod
    def problem(index: Mapping[str, Any]) -> str | None:
        """Why a `model_index.json` is not of this family; None if it is."""
        return index_problem(index, wanted_classes(PARTS, TOKENIZERS), TITLE)

    @staticmethod
    def read(folder: Path, index: Mapping[str, Any]) -> StableDiffusionXL:
        """Read and check the configs of a checkpoint. Raises CheckpointError."""
        configs = checked_configs(folder, index, PARTS, _problem, TITLE)
        zeros = index.get("force_zeros_for_empty_prompt", True)
        family = StableDiffusionXL(configs, zeros is True or zeros == [None, True])
        check_vocabularies(folder, family.configs)
        return family

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
        """50 steps at guidance 5; Turbo and Lightning 4 steps without guidance; a distilled LCM 4
        steps at guidance 8.5 as an input."""
        base = Defaults(steps=50, guidance_scale=5.0)
        if self.embeds_guidance:
            return LCM
        return FEW_STEPS if is_few_step(self.configs["scheduler"]) else base

    @property
    def size_multiple(self) -> int:
        """Both sides of a picture are multiples of this number of pixels."""
        return self.factor

    @property
    def channels(self) -> int:
        """Latent channels: 4."""
        return blocks.vae_channels(self.configs)

    @property
    def native_size(self) -> int:
        """The side in pixels that the U-Net was trained for: 1024, Turbo 512."""
        return blocks.first(self.configs["unet"].get("sample_size") or 128) * self.factor

    @property
    def text_inputs(self) -> tuple[TextInput, ...]:
        """CLIP-L and OpenCLIP-G, 77 tokens each."""
        return (
            blocks.clip_input("text", "tokenizer", self.configs["text_encoder"]),
            blocks.clip_input("text_2", "tokenizer_2", self.configs["text_encoder_2"]),
        )

    def request_inputs(self, size: Size, guidance_scale: float) -> tuple[RequestInput, ...]:
        """The time ids (original size, crop and target size) of an uncropped picture, and the
        guidance scale if the U-Net takes it."""
        return ((*size, 0, 0, *size), *((guidance_scale,) if self.embeds_guidance else ()))

    def image_tokens(self, size: Size) -> int:
        """Not used: the schedule does not depend on the size."""
        return 0

    def tensors(
        self, network: str, size: Size
    ) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of a network for pictures of `size`, (height, width) in pixels."""
        first, second = (
            int(self.configs[p]["hidden_size"]) for p in ("text_encoder", "text_encoder_2")
        )
        tokens = self.text_inputs[0].length
        pooled = TensorSpec("pooled", (int(self.configs["text_encoder_2"]["projection_dim"]),))
        latent, image = blocks.latent(self.configs, size), blocks.picture(size)
        if network == "text":
            ids = TensorSpec("input_ids", (tokens,), "int64")
            return (ids,), (TensorSpec("hidden", (tokens, first)),)
        if network == "text_2":
            ids = TensorSpec("input_ids", (self.text_inputs[1].length,), "int64")
            return (ids,), (TensorSpec("hidden", (self.text_inputs[1].length, second)), pooled)
        if network == "vae_encode":
            return (image,), (latent,)
        if network == "vae_decode":
            return (latent,), (image,)
        embedding = TensorSpec("embedding", (tokens, first + second))
        told = (TensorSpec("time_ids", (6,)), *blocks.guidance_input(self.configs))
        inputs = (latent, blocks.TIMESTEP, embedding, pooled, *told)
        return inputs, (blocks.latent(self.configs, size, "prediction"),)

    def size_of(self, network: str, shape: tuple[int, ...]) -> Size | None:
        """The picture size of rows whose first input has `shape`; None for text encoders."""
        if network in ("text", "text_2"):
            return None
        return blocks.picture_size(network, shape, 1 if network == "vae_encode" else self.factor)

    def attention_scores(self, network: str, size: Size) -> int:
        """Self-attention at the U-Net's second level, which is its first with attention; the VAE's
        middle block."""
        cells = (size[0] // self.factor) * (size[1] // self.factor)
        if network in ("text", "text_2"):
            return 0
        if network != "unet":
            return cells * cells
        unet = self.configs["unet"]
        kinds: list[str] = unet["down_block_types"]
        level = next((i for i, kind in enumerate(kinds) if "CrossAttn" in kind), 0)
        heads = unet.get("num_attention_heads") or unet.get("attention_head_dim") or 8
        count = int(heads[level] if isinstance(heads, list | tuple) else heads)
        return count * (cells >> 2 * level) ** 2

    def part_precision(self, part: str, precision: Precision) -> Precision:
        """The VAE of SDXL overflows in fp16, so it stays in fp32 there."""
        return "fp32" if part == "vae" and precision == "fp16" else precision
