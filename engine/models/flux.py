"""FLUX.1 dev and schnell: rectified flow, a transformer on packed latents, CLIP and T5.

Latents are packed inside the network's call, so a row has a latent [C, h, w] as in every family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.models import blocks
from engine.models.blocks import LORA_CLIP_L, LORA_DENOISER, LORA_T5
from engine.models.family import (
    FEW_STEPS,
    Configs,
    Defaults,
    FlowEditDefaults,
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
from engine.models.reading import whole
from engine.netspec import Precision, Size, TensorSpec

TITLE = "FLUX.1"


def _pack(latent: Any) -> Any:
    """[B, C, h, w] -> [B, h/2 * w/2, 4 C]: patches of 2 x 2 cells."""
    batch, channels, height, width = latent.shape
    cells = latent.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * 4)


def _unpack(packed: Any, like: Any) -> Any:
    """The inverse of `_pack`."""
    batch, channels, height, width = like.shape
    cells = packed.reshape(batch, height // 2, width // 2, channels, 2, 2)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)


def _positions(latent: Any) -> Any:
    """[h/2 * w/2, 3]: 0, row and column of each patch."""
    grid = latent.new_ones((latent.shape[2] // 2, latent.shape[3] // 2))
    rows, columns = grid.cumsum(0) - 1, grid.cumsum(1) - 1
    axis = latent.new_ones(3).cumsum(0) - 1  # 0, 1, 2; a copy from the host cannot be captured
    return rows.reshape(-1, 1) * (axis == 1) + columns.reshape(-1, 1) * (axis == 2)


def _predict(
    module: Any,
    dtype: Any,
    latent: Any,
    timestep: Any,
    embedding: Any,
    pooled: Any,
    guidance: Any = None,
) -> Any:
    out = module(
        hidden_states=_pack(latent.to(dtype)),
        timestep=timestep.to(dtype) / 1000,  # the module multiplies by 1000
        guidance=guidance,
        pooled_projections=pooled.to(dtype),
        encoder_hidden_states=embedding.to(dtype),
        txt_ids=latent.new_zeros((embedding.shape[1], 3)),
        img_ids=_positions(latent),
        return_dict=False,
    )
    return _unpack(out[0].float(), latent)


PARTS = (
    Part("text_encoder", "transformers", "CLIPTextModel", False, LORA_CLIP_L),
    Part("text_encoder_2", "transformers", "T5EncoderModel", False, ("lora_te2_", *LORA_T5)),
    Part("vae", "diffusers", "AutoencoderKL", convolutional=True),
    Part("transformer", "diffusers", "FluxTransformer2DModel", False, LORA_DENOISER),
)
TOKENIZERS = {"tokenizer": "CLIPTokenizer", "tokenizer_2": "T5Tokenizer"}


INPUTS = {
    384: "FLUX.1 Fill, an inpainting model",
    128: "FLUX.1 Depth, Canny or another control model",
}
"""Number of input channels -> kind of transformer, if it has more than FLUX.1's 64."""


def _problem(configs: Configs) -> tuple[str, str] | None:
    transformer, clip, t5 = (configs[p] for p in ("transformer", "text_encoder", "text_encoder_2"))
    if other := other_inputs(
        whole(transformer, "in_channels"), 4 * blocks.vae_channels(configs), INPUTS
    ):
        return "transformer", other
    return (
        mismatch("transformer", transformer, "in_channels", 4 * blocks.vae_channels(configs))
        or mismatch("transformer", transformer, "pooled_projection_dim", whole(clip, "hidden_size"))
        or mismatch("transformer", transformer, "joint_attention_dim", whole(t5, "d_model"))
        or schedule_mismatch(configs, flow=True)
    )


NETWORKS = (
    Network("text", "text_encoder", "text_encoder", blocks.pooled),
    Network("text_2", "text_encoder", "text_encoder_2", blocks.last_layer),
    Network("vae_encode", "image_encoder", "vae", blocks.encode_image, ("encoder",)),
    Network("transformer", "denoiser", "transformer", _predict, ("",)),
    Network("vae_decode", "image_decoder", "vae", blocks.decode_latent, ("decoder",)),
)
FLOWEDIT = FlowEditDefaults(steps=28, n_max=24, source_guidance=1.5, target_guidance=5.5)
"""Published for FLUX.1 dev: FLUX_exp.yaml of github.com/fallenshock/FlowEdit."""
FLOWEDIT_SCHNELL = FlowEditDefaults(4, n_max=3, source_guidance=1.0, target_guidance=1.0)
"""Not published: the same share of schnell's own schedule, without guidance."""


@dataclass(frozen=True)
class Flux:
    """The family, bound to one checkpoint's configs."""

    configs: Configs
    name: str = "flux"
    parts: tuple[Part, ...] = PARTS
    networks: tuple[Network, ...] = NETWORKS
    zero_empty_text: bool = False
    uniform_sigmas: bool = True
    max_side: int | None = None

    @staticmethod
    def problem(index: Mapping[str, Any]) -> str | None:
        """Why a `model_index.json` is not of this family; None if it is."""
        return index_problem(index, wanted_classes(PARTS, TOKENIZERS), TITLE)

    @staticmethod
    def read(folder: Path, index: Mapping[str, Any]) -> Flux:
        """Read and check the configs of a checkpoint. Raises CheckpointError."""
        family = Flux(checked_configs(folder, index, PARTS, _problem, TITLE))
        check_vocabularies(folder, family.configs)
        return family

    @property
    def embeds_guidance(self) -> bool:
        """Whether the transformer takes the guidance scale as an input: dev does."""
        return bool(self.configs["transformer"].get("guidance_embeds", False))

    @property
    def defaults(self) -> Defaults:
        """dev: 28 steps, and guidance 3.5 as an input. schnell: 4 steps without guidance.

        Models without that input whose schedule depends on the picture's size are derived from dev
        and take two rows per step.
        """
        if self.embeds_guidance:
            return Defaults(28, 3.5, "embedded", FLOWEDIT)
        if self.configs["scheduler"].get("use_dynamic_shifting"):
            return Defaults(28, 3.5, flowedit=FLOWEDIT)
        return replace(FEW_STEPS, flowedit=FLOWEDIT_SCHNELL)

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one side: 8 for the published checkpoints."""
        return blocks.vae_factor(self.configs)

    @property
    def size_multiple(self) -> int:
        """Both sides of a picture are multiples of this number of pixels: whole patches."""
        return 2 * self.factor

    @property
    def channels(self) -> int:
        """Latent channels: 16."""
        return blocks.vae_channels(self.configs)

    @property
    def native_size(self) -> int:
        """The side in pixels of the pictures that FLUX was trained for: 1024.

        That is 128 cells, the pipeline's default; small models for tests state `sample_size` in the
        VAE's config.
        """
        return min(1024, int(self.configs["vae"].get("sample_size") or 1024))

    @property
    def text_inputs(self) -> tuple[TextInput, ...]:
        """CLIP with 77 tokens, T5 with 512 (dev) or 256 (schnell)."""
        clip, t5 = self.configs["text_encoder"], self.configs["text_encoder_2"]
        length = 512 if self.embeds_guidance else 256
        return (
            blocks.clip_input("text", "tokenizer", clip),
            blocks.t5_input("text_2", "tokenizer_2", t5, length),
        )

    def request_inputs(self, size: Size, guidance_scale: float) -> tuple[RequestInput, ...]:
        """The guidance scale, where the transformer takes it."""
        return (guidance_scale,) if self.embeds_guidance else ()

    def image_tokens(self, size: Size) -> int:
        """Patches of a picture."""
        return (size[0] // self.size_multiple) * (size[1] // self.size_multiple)

    def tensors(
        self, network: str, size: Size
    ) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of a network for pictures of `size`, (height, width) in pixels."""
        clip, t5 = self.text_inputs
        latent, image = blocks.latent(self.configs, size), blocks.picture(size)
        pooled = TensorSpec("pooled", (int(self.configs["text_encoder"]["hidden_size"]),))
        hidden = (t5.length, int(self.configs["text_encoder_2"]["d_model"]))
        if network == "text":
            return (TensorSpec("input_ids", (clip.length,), "int64"),), (pooled,)
        if network == "text_2":
            return (TensorSpec("input_ids", (t5.length,), "int64"),), (
                TensorSpec("hidden", hidden),
            )
        if network == "vae_encode":
            return (image,), (latent,)
        if network == "vae_decode":
            return (latent,), (image,)
        guidance = (TensorSpec("guidance", ()),) if self.embeds_guidance else ()
        embedding = TensorSpec("embedding", hidden)
        inputs = (latent, blocks.TIMESTEP, embedding, pooled, *guidance)
        return inputs, (blocks.latent(self.configs, size, "prediction"),)

    def size_of(self, network: str, shape: tuple[int, ...]) -> Size | None:
        """The picture size of rows whose first input has `shape`; None for text encoders."""
        if network in ("text", "text_2"):
            return None
        return blocks.picture_size(network, shape, 1 if network == "vae_encode" else self.factor)

    def attention_scores(self, network: str, size: Size) -> int:
        """Joint attention over texts and patches; the VAE's middle block."""
        if network in ("text", "text_2"):
            return 0
        if network != "transformer":
            return ((size[0] // self.factor) * (size[1] // self.factor)) ** 2
        heads = int(self.configs["transformer"]["num_attention_heads"])
        return heads * (self.image_tokens(size) + self.text_inputs[1].length) ** 2

    def part_precision(self, part: str, precision: Precision) -> Precision:
        """fp16 overflows in the VAE, the transformer and T5 of FLUX, which was trained in bf16."""
        if precision != "fp16" or part == "text_encoder":
            return precision
        return "fp32" if part == "vae" else "bf16"
