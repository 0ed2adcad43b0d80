"""A Stable Diffusion checkpoint in diffusers' folder format, read without loading a weight.

It knows which networks a checkpoint holds, how each is called and what shapes it takes. The call
functions are duck-typed: they name no package, so export, the torch backend and the tests share
them, and the same function is traced for ONNX and run in PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError
from engine.manifest import file_digest
from engine.netspec import (
    UNET_BATCH_SIZES,
    NetSpec,
    Precision,
    Size,
    TensorSpec,
    batch_sizes_for,
)

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
"""What may be a hub's id: "name" or "owner/name"."""


def hub_patterns(variant: str | None) -> tuple[list[str], list[str]]:
    """The file patterns to fetch from a hub, and those to leave there.

    Configs, tokenizer and the safe weights of one variant; never pickles, nor the parts and weights
    that no edit uses.
    """
    weights = f"*/*.{variant}.safetensors" if variant else "*/*.safetensors"
    unused = ["safety_checker/*", "feature_extractor/*", "image_encoder/*", "*/*non_ema*"]
    variants = [] if variant else ["*/*.fp16.safetensors", "*/*.bf16.safetensors"]
    return ["model_index.json", "*/*.json", "*/*.txt", weights], unused + variants


@dataclass(frozen=True)
class Network:
    """How one network is called on the module that holds it.

    Attributes:
        part: the checkpoint's subfolder.
        call: `call(module, dtype, *inputs)`: float32 or int64 in, float32 out; one batch axis.
    """

    part: str
    call: Callable[..., Any]


def _text(module: Any, dtype: Any, input_ids: Any) -> Any:
    return module(input_ids)[0].float()


def _vae_encode(module: Any, dtype: Any, image: Any) -> Any:
    mode = module.encode(image.to(dtype)).latent_dist.mode()
    return mode.float() * module.config.scaling_factor


def _vae_decode(module: Any, dtype: Any, latent: Any) -> Any:
    return module.decode((latent / module.config.scaling_factor).to(dtype)).sample.float()


def _unet(module: Any, dtype: Any, latent: Any, timestep: Any, embedding: Any) -> Any:
    out = module(latent.to(dtype), timestep, embedding.to(dtype), return_dict=False)
    return out[0].float()


NETWORKS: dict[str, Network] = {
    "text": Network("text_encoder", _text),
    "vae_encode": Network("vae", _vae_encode),
    "vae_decode": Network("vae", _vae_decode),
    "unet": Network("unet", _unet),
}

CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
}


@dataclass(frozen=True)
class Checkpoint:
    """A validated checkpoint folder.

    Attributes:
        folder: where it lies.
        variant: None or e.g. "fp16": which weight files are meant.
        configs: each part's config: "unet", "vae", "text_encoder", "scheduler".
    """

    folder: Path
    variant: str | None
    configs: dict[str, dict[str, Any]]

    @classmethod
    def open(cls, folder: str | Path, variant: str | None = None) -> Checkpoint:
        """Read and check every config; raises CheckpointError with one sentence."""
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(f"There is no model folder at {folder}.")
        index = _read_json(folder / "model_index.json", "it is not a diffusers checkpoint")
        for part, wanted in CLASSES.items():
            found = (index.get(part) or [None, None])[1]
            if found is None:
                raise CheckpointError(
                    f"{folder} has no {part}; Stable Diffusion 1.x and 2.x checkpoints have one."
                )
            if found.removesuffix("Fast") != wanted:
                raise CheckpointError(
                    f"{folder} holds a {index.get('_class_name', 'pipeline')} whose {part} is "
                    f"a {found}; only Stable Diffusion 1.x and 2.x ({wanted}) can be edited with."
                )
        names = dict.fromkeys(("unet", "vae", "text_encoder"), "config.json")
        names["scheduler"] = "scheduler_config.json"
        configs = {p: _read_json(folder / p / n, f"its {p} is missing") for p, n in names.items()}
        channels = configs["vae"].get("latent_channels", 4)
        taken = configs["unet"].get("in_channels", 4)
        if taken != channels:
            raise CheckpointError(
                f"The UNet of {folder} takes {taken} channels, not the VAE's {channels}: it is an "
                "inpainting, depth or instruction model; take the base model."
            )
        return cls(folder, variant, configs)

    def weights(self, part: str) -> tuple[Path, ...]:
        """The safetensors files of one part; raises CheckpointError where there are none."""
        suffix = f".{self.variant}.safetensors" if self.variant else ".safetensors"
        files = sorted((self.folder / part).glob("*" + suffix))
        if not self.variant:  # a name with a second dot belongs to a variant, shards excepted
            files = [f for f in files if "." not in f.name.removesuffix(suffix)]
        if files:
            return tuple(files)
        if any((self.folder / part).glob(f"*{suffix.removesuffix('.safetensors')}.bin")):
            raise CheckpointError(
                f"{self.folder / part} has pickle weights (.bin) only, which can run code when "
                "loaded; convert them to safetensors first."
            )
        there = sorted(p.name for p in (self.folder / part).glob("*.safetensors"))
        hint = f" (there is {', '.join(there)}: pass its variant)" if there else ""
        raise CheckpointError(f"{self.folder / part} has no *{suffix} weights{hint}.")

    def digest(self, part: str) -> str:
        """sha256 over the config and the weights of one part."""
        digest = hashlib.sha256(json.dumps(self.configs[part], sort_keys=True).encode())
        for file in self.weights(part):
            digest.update(file_digest(file).encode())
        return digest.hexdigest()

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one side (8 for Stable Diffusion)."""
        return int(2 ** (len(self.configs["vae"]["block_out_channels"]) - 1))

    @property
    def channels(self) -> int:
        """Latent channels (4 for Stable Diffusion)."""
        return int(self.configs["vae"].get("latent_channels", 4))

    @property
    def native_size(self) -> int:
        """The side in pixels that the UNet was trained for (512 for SD 1.5)."""
        sample = self.configs["unet"].get("sample_size") or 64
        return int(max(sample) if isinstance(sample, list) else sample) * self.factor

    @property
    def tokens(self) -> int:
        """Length of a token sequence (77)."""
        return int(self.configs["text_encoder"].get("max_position_embeddings", 77))

    def check_size(self, size: Size) -> None:
        """Raises ValueError unless both sides are whole numbers of latent cells."""
        if any(s < self.factor or s % self.factor for s in size):
            raise ValueError(
                f"{size[0]} x {size[1]} is no size for this model: both sides must be multiples "
                f"of {self.factor} pixels."
            )

    def spec(
        self,
        name: str,
        size: Size,
        *,
        precision: Precision = "fp32",
        unet_batch_sizes: Iterable[int] = UNET_BATCH_SIZES,
    ) -> NetSpec:
        """The NetSpec of one network at one picture size (the text encoder's ignores the size)."""
        self.check_size(size)
        height, width = size
        text = self.configs["text_encoder"]
        image = (3, height, width)
        latent = (self.channels, height // self.factor, width // self.factor)
        embedding = (self.tokens, int(text["hidden_size"]))
        inputs, output = {
            "text": (
                [TensorSpec("input_ids", (self.tokens,), "int64")],
                TensorSpec("embedding", embedding),
            ),
            "vae_encode": ([TensorSpec("image", image)], TensorSpec("latent", latent)),
            "vae_decode": ([TensorSpec("latent", latent)], TensorSpec("image", image)),
            "unet": (
                [
                    TensorSpec("latent", latent),
                    TensorSpec("timestep", ()),
                    TensorSpec("embedding", embedding),
                ],
                TensorSpec("prediction", latent),
            ),
        }[name]
        sizes = batch_sizes_for(name, unet_batch_sizes)
        return NetSpec(name, tuple(inputs), output, sizes, precision)


def _read_json(path: Path, otherwise: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: {otherwise}.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): {otherwise}.") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is no JSON object: {otherwise}.")
    return data
