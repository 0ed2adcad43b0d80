"""LoRA files: which networks they change, and how they are fused into the weights before export.

A fused engine costs nothing at run time; another scale is another engine. Only local safetensors
files are taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import BuildError, CheckpointError
from engine.manifest import file_digest
from export.hub import read_header


@dataclass(frozen=True)
class Lora:
    """One file at one scale.

    Attributes:
        path: a safetensors file.
        scale: the factor of its change; 1 is what it was trained for.
        sha256: of the file.
        parts: the checkpoint's parts that it changes.
    """

    path: Path
    scale: float
    sha256: str
    parts: frozenset[str]

    @classmethod
    def open(cls, path: Path, scale: float) -> Lora:
        """Read a file's header; raises CheckpointError where it is no LoRA."""
        if path.suffix != ".safetensors" or not path.is_file():
            raise CheckpointError(
                f"{path} is no LoRA file: name a .safetensors file that lies on this machine."
            )
        names = read_header(path)
        if not any("lora" in name for name in names):
            raise CheckpointError(f"{path} holds no LoRA weights.")
        text = any(n.startswith(("text_encoder.", "lora_te_", "lora_te1_")) for n in names)
        unet = any(not n.startswith(("text_encoder", "lora_te")) for n in names)
        touched = {"text_encoder": text, "unet": unet}
        parts = frozenset(part for part, there in touched.items() if there)
        return cls(path, scale, file_digest(path), parts)

    def to_json(self) -> dict[str, Any]:
        """How it stands in the manifest."""
        return {"path": str(self.path), "scale": self.scale, "sha256": self.sha256}


def weights_digest(digest: str, part: str, loras: Sequence[Lora]) -> str:
    """sha256 of what one part's weights are once every LoRA that touches it is fused."""
    touching = [lora for lora in loras if part in lora.parts]
    if not touching:
        return digest
    changes = "".join(f" {lora.sha256} {lora.scale!r}" for lora in touching)
    return hashlib.sha256((digest + changes).encode()).hexdigest()


def fuse(module: Any, part: str, loras: Sequence[Lora]) -> None:
    """Add every LoRA that touches `part` to the weights of `module`, in place.

    Raises:
        BuildError: peft is not installed.
        CheckpointError: the file does not fit the model.
    """
    touching = [lora for lora in loras if part in lora.parts]
    if not touching:
        return
    try:
        import peft  # noqa: F401
    except ImportError:
        raise BuildError("Fusing a LoRA needs peft; install it with: pip install peft") from None
    for lora in touching:
        try:
            _fuse_one(module, part, lora)
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise CheckpointError(
                f"The LoRA {lora.path} does not fit this model's {part} ({reason})."
            ) from error


def _fuse_one(module: Any, part: str, lora: Lora) -> None:
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader
    from diffusers.utils.peft_utils import recurse_remove_peft_layers
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = module.config if part == "unet" else None
    state, alphas = Loader.lora_state_dict(
        str(lora.path), unet_config=config, local_files_only=True, use_safetensors=True
    )[:2]
    if part == "unet":
        Loader.load_lora_into_unet(state, network_alphas=alphas, unet=module, adapter_name="fused")
    else:
        state, alphas = (_without_text_model(d, module) for d in (state, alphas))
        Loader.load_lora_into_text_encoder(
            state,
            network_alphas=alphas,
            text_encoder=module,
            prefix="text_encoder",
            adapter_name="fused",
        )
    layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
    if not layers:
        raise ValueError("none of its layers is in the model")
    for layer in layers:
        layer.scale_layer(lora.scale)
        layer.merge(safe_merge=True, adapter_names=["fused"])
    recurse_remove_peft_layers(module)
    for name in ("peft_config", "_hf_peft_config_loaded"):
        if hasattr(module, name):
            delattr(module, name)


def _without_text_model(data: dict[str, Any] | None, module: Any) -> dict[str, Any] | None:
    """Files name the encoder's layers `text_model.…`; newer transformers dropped that level."""
    if data is None or hasattr(module, "text_model"):
        return data
    old, new = "text_encoder.text_model.", "text_encoder."
    return {name.replace(old, new): value for name, value in data.items()}
