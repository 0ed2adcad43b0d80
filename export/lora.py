"""LoRA files: which parts they change, and how they are fused into the weights before the export.

A fused engine costs nothing at run time; another scale is another engine. Only local safetensors
files are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checkpoint import Checkpoint, read_header
from engine.digest import file_digest
from engine.errors import BuildError, CheckpointError
from engine.manifest import FusedFile

TEXT_PREFIXES = ("text_encoder.", "lora_te_", "lora_te1_")
"""LoRA files begin the names of the text encoder's layers so; other names are the denoiser's."""


@dataclass(frozen=True)
class Lora:
    """One file at one scale.

    Attributes:
        path: a safetensors file.
        scale: the factor of its change; 1 is what it was trained for.
        sha256: of the file.
        text, denoiser: whether it changes the text encoder, the denoiser.
    """

    path: Path
    scale: float
    sha256: str
    text: bool
    denoiser: bool

    @classmethod
    def open(cls, path: Path, scale: float) -> Lora:
        """Read a file's header. Raises CheckpointError if it is not a LoRA."""
        if path.suffix != ".safetensors" or not path.is_file():
            raise CheckpointError(
                f"{path} is not a LoRA file; name a .safetensors file on this machine."
            )
        names = read_header(path)
        if not any("lora" in name for name in names):
            raise CheckpointError(f"{path} holds no LoRA weights; name a LoRA file.")
        text = any(name.startswith(TEXT_PREFIXES) for name in names)
        denoiser = any(not name.startswith(("text_encoder", "lora_te")) for name in names)
        return cls(path, scale, file_digest(path), text, denoiser)

    @property
    def identity(self) -> FusedFile:
        """How the manifest names it."""
        return FusedFile(str(self.path), self.sha256, self.scale)

    def changes(self, checkpoint: Checkpoint, part: str) -> bool:
        """Whether it changes a part of the checkpoint."""
        roles = {network.role for network in checkpoint.family.networks if network.part == part}
        return (self.text and "text_encoder" in roles) or (self.denoiser and "denoiser" in roles)


def weights_digest(checkpoint: Checkpoint, part: str, digest: str, loras: Sequence[Lora]) -> str:
    """sha256 of a part's weights after every LoRA that changes it was fused.

    `digest` is that of the checkpoint's own weights.
    """
    fused = [lora for lora in loras if lora.changes(checkpoint, part)]
    if not fused:
        return digest
    changes = "".join(f" {lora.sha256} {lora.scale!r}" for lora in fused)
    return hashlib.sha256((digest + changes).encode()).hexdigest()


def fuse(module: Any, checkpoint: Checkpoint, part: str, loras: Sequence[Lora]) -> None:
    """Add every LoRA that changes `part` to the weights of `module`, in place.

    Raises:
        BuildError: peft is not installed.
        CheckpointError: a file does not fit the model.
    """
    wanted = [lora for lora in loras if lora.changes(checkpoint, part)]
    if not wanted:
        return
    try:
        import peft  # noqa: F401
    except ImportError:
        raise BuildError("Fusing a LoRA needs peft; install it with: pip install peft") from None
    is_text = any(n.part == part and n.role == "text_encoder" for n in checkpoint.family.networks)
    for lora in wanted:
        try:
            _fuse_one(module, is_text, lora)
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise CheckpointError(
                f"The LoRA {lora.path} does not fit this model's {part} ({reason}); use one that "
                "was trained for this kind of model."
            ) from error


def _fuse_one(module: Any, is_text: bool, lora: Lora) -> None:
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader
    from diffusers.utils.peft_utils import recurse_remove_peft_layers
    from peft.tuners.tuners_utils import BaseTunerLayer

    state, alphas = Loader.lora_state_dict(
        str(lora.path),
        unet_config=None if is_text else module.config,
        local_files_only=True,
        use_safetensors=True,
    )[:2]
    if is_text:
        state, alphas = (_without_text_model(d, module) for d in (state, alphas))
        Loader.load_lora_into_text_encoder(
            state,
            network_alphas=alphas,
            text_encoder=module,
            prefix="text_encoder",
            adapter_name="fused",
        )
    else:
        Loader.load_lora_into_unet(state, network_alphas=alphas, unet=module, adapter_name="fused")
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
