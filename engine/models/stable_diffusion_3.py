"""Stable Diffusion 3 and 3.5: rectified flow, a transformer, two CLIP text encoders and T5.

T5 may be missing: `model_index.json` then has null for it, and its tokens are zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.models import blocks
from engine.models.blocks import LORA_CLIP_G, LORA_CLIP_L, LORA_DENOISER, LORA_T5
from engine.models.family import (
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
    schedule_mismatch,
    wanted_classes,
)
from engine.models.index import class_of, index_problem
from engine.models.reading import whole
from engine.netspec import Precision, Size, TensorSpec

TITLE = "Stable Diffusion 3 and 3.5"
T5_TOKENS = 256


def _predict(
    module: Any, dtype: Any, latent: Any, timestep: Any, embedding: Any, pooled: Any
) -> Any:
    out = module(
        hidden_states=latent.to(dtype),
        timestep=timestep,
        encoder_hidden_states=embedding.to(dtype),
        pooled_projections=pooled.to(dtype),
        return_dict=False,
    )
    return out[0].float()


PARTS = (
    Part("text_encoder", "transformers", "CLIPTextModelWithProjection", False, LORA_CLIP_L),
    Part("text_encoder_2", "transformers", "CLIPTextModelWithProjection", False, LORA_CLIP_G),
    Part("text_encoder_3", "transformers", "T5EncoderModel", False, LORA_T5),
    Part("vae", "diffusers", "AutoencoderKL", convolutional=True),
    Part("transformer", "diffusers", "SD3Transformer2DModel", False, LORA_DENOISER),
)
TOKENIZERS = {
    "tokenizer": "CLIPTokenizer",
    "tokenizer_2": "CLIPTokenizer",
    "tokenizer_3": "T5Tokenizer",
}


def _parts(index: Mapping[str, Any]) -> tuple[Part, ...]:
    """The parts of a checkpoint: without T5 where its entry is null."""
    has_t5 = class_of(index, "text_encoder_3")[1] is not None
    return tuple(part for part in PARTS if has_t5 or part.name != "text_encoder_3")


def _problem(configs: Configs) -> tuple[str, str] | None:
    transformer, texts = configs["transformer"], ("text_encoder", "text_encoder_2")
    widths = sum(whole(configs[name], "hidden_size") for name in texts)
    pooled = sum(whole(configs[name], "projection_dim") for name in texts)
    joint = whole(transformer, "joint_attention_dim", 4096)
    if widths > joint:
        return "transformer", f"its texts have {joint} numbers a token, but CLIP's have {widths}"
    t5 = configs.get("text_encoder_3", {"d_model": joint})
    return (
        mismatch("transformer", transformer, "in_channels", blocks.vae_channels(configs))
        or mismatch("transformer", transformer, "pooled_projection_dim", pooled)
        or mismatch("transformer", transformer, "joint_attention_dim", whole(t5, "d_model"))
        or schedule_mismatch(configs, flow=True)
    )


NETWORKS = (
    Network("text", "text_encoder", "text_encoder", blocks.second_last_and_pooled),
    Network("text_2", "text_encoder", "text_encoder_2", blocks.second_last_and_pooled),
    Network("text_3", "text_encoder", "text_encoder_3", blocks.last_layer),
    Network("vae_encode", "image_encoder", "vae", blocks.encode_image, ("encoder",)),
    Network("transformer", "denoiser", "transformer", _predict, ("",)),
    Network("vae_decode", "image_decoder", "vae", blocks.decode_latent, ("decoder",)),
)
FLOWEDIT = FlowEditDefaults(steps=50, n_max=33, source_guidance=3.5, target_guidance=13.5)
"""Published for Stable Diffusion 3 medium: SD3_exp.yaml of github.com/fallenshock/FlowEdit."""


@dataclass(frozen=True)
class StableDiffusion3:
    """The family, bound to one checkpoint's configs."""

    configs: Configs
    parts: tuple[Part, ...] = PARTS
    networks: tuple[Network, ...] = NETWORKS
    name: str = "stable-diffusion-3"
    zero_empty_text: bool = False
    uniform_sigmas: bool = False
    embeds_guidance: bool = False

    @staticmethod
    def problem(index: Mapping[str, Any]) -> str | None:
        """Why a `model_index.json` is not of this family; None if it is."""
        return index_problem(index, wanted_classes(_parts(index), TOKENIZERS), TITLE)

    @staticmethod
    def read(folder: Path, index: Mapping[str, Any]) -> StableDiffusion3:
        """Read and check the configs of a checkpoint. Raises CheckpointError."""
        parts = _parts(index)
        configs = checked_configs(folder, index, parts, _problem, TITLE)
        networks = tuple(n for n in NETWORKS if n.part in configs)
        family = StableDiffusion3(configs, parts, networks)
        check_vocabularies(folder, family.configs)
        return family

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one side: 8 for the published checkpoints."""
        return blocks.vae_factor(self.configs)

    @property
    def defaults(self) -> Defaults:
        """SD 3: 28 steps at guidance 7; 3.5 Large: 28 at 3.5; 3.5 Medium: 40 at 4.5.

        3.5 normalizes queries and keys, and Medium has second attention layers. 3.5 Large Turbo has
        the configs of Large, so the user must set its 4 steps without guidance.
        """
        transformer = self.configs["transformer"]
        if transformer.get("dual_attention_layers"):
            return Defaults(40, 4.5, flowedit=FLOWEDIT)
        return Defaults(28, 3.5 if transformer.get("qk_norm") else 7.0, flowedit=FLOWEDIT)

    @property
    def size_multiple(self) -> int:
        """Both sides of a picture are multiples of this number of pixels: whole patches."""
        return self.factor * self._patch

    @property
    def channels(self) -> int:
        """Latent channels: 16 for the published checkpoints."""
        return blocks.vae_channels(self.configs)

    @property
    def native_size(self) -> int:
        """The side in pixels that the transformer was trained for: 1024."""
        return int(self.configs["transformer"].get("sample_size") or 128) * self.factor

    @property
    def max_side(self) -> int:
        """The longest side in pixels in the table of positions: 3072, 3.5 Medium 6144."""
        patches = int(self.configs["transformer"].get("pos_embed_max_size") or 96)
        return patches * self.size_multiple

    @property
    def text_inputs(self) -> tuple[TextInput, ...]:
        """CLIP-L and OpenCLIP-G with 77 tokens each, and T5 with 256 if the checkpoint has it."""
        inputs = (
            blocks.clip_input("text", "tokenizer", self.configs["text_encoder"]),
            blocks.clip_input("text_2", "tokenizer_2", self.configs["text_encoder_2"]),
        )
        if "text_encoder_3" not in self.configs:
            return inputs
        config = self.configs["text_encoder_3"]
        return (*inputs, blocks.t5_input("text_3", "tokenizer_3", config, T5_TOKENS))

    def request_inputs(self, size: Size, guidance_scale: float) -> tuple[RequestInput, ...]:
        """None."""
        return ()

    def image_tokens(self, size: Size) -> int:
        """Patches of a picture."""
        return (size[0] // self.size_multiple) * (size[1] // self.size_multiple)

    def tensors(
        self, network: str, size: Size
    ) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of a network for pictures of `size`, (height, width) in pixels."""
        latent, image = blocks.latent(self.configs, size), blocks.picture(size)
        if network in ("text", "text_2", "text_3"):
            return self._text_tensors(network)
        if network == "vae_encode":
            return (image,), (latent,)
        if network == "vae_decode":
            return (latent,), (image,)
        widths = [
            int(self.configs[p]["projection_dim"]) for p in ("text_encoder", "text_encoder_2")
        ]
        width = int(self.configs["transformer"]["joint_attention_dim"])
        embedding = TensorSpec("embedding", (self.text_inputs[0].length + T5_TOKENS, width))
        inputs = (latent, blocks.TIMESTEP, embedding, TensorSpec("pooled", (sum(widths),)))
        return inputs, (blocks.latent(self.configs, size, "prediction"),)

    def _text_tensors(self, network: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        index = ("text", "text_2", "text_3").index(network)
        length, config = self.text_inputs[index].length, self.configs[NETWORKS[index].part]
        ids = TensorSpec("input_ids", (length,), "int64")
        if network == "text_3":
            return (ids,), (TensorSpec("hidden", (length, int(config["d_model"]))),)
        hidden = TensorSpec("hidden", (length, int(config["hidden_size"])))
        return (ids,), (hidden, TensorSpec("pooled", (int(config["projection_dim"]),)))

    def size_of(self, network: str, shape: tuple[int, ...]) -> Size | None:
        """The picture size of rows whose first input has `shape`; None for text encoders."""
        if network in ("text", "text_2", "text_3"):
            return None
        return blocks.picture_size(network, shape, 1 if network == "vae_encode" else self.factor)

    def attention_scores(self, network: str, size: Size) -> int:
        """Joint attention over texts and patches; the VAE's middle block."""
        if network in ("text", "text_2", "text_3"):
            return 0
        if network != "transformer":
            return ((size[0] // self.factor) * (size[1] // self.factor)) ** 2
        heads = int(self.configs["transformer"]["num_attention_heads"])
        return heads * (self.image_tokens(size) + self.text_inputs[0].length + T5_TOKENS) ** 2

    def part_precision(self, part: str, precision: Precision) -> Precision:
        """The VAE and T5 overflow in fp16: the VAE stays in fp32 there, T5 takes bf16."""
        if precision != "fp16":
            return precision
        return {"vae": "fp32", "text_encoder_3": "bf16"}.get(part, precision)  # type: ignore[return-value]

    @property
    def _patch(self) -> int:
        return int(self.configs["transformer"].get("patch_size", 2))
