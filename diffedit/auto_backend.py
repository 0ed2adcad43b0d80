"""What the backend "auto" does with an engine folder.

An engine folder whose weights are not the checkpoint's own (a LoRA is fused into them, or they are
another model's) is never replaced by PyTorch, which would run other weights than the user chose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.backends.engine_folder import check_model
from engine.errors import EngineMismatch
from engine.lora.file import Lora
from engine.manifest import Manifest
from engine.products import PRODUCTS, TENSORRT_FORMATS


@dataclass(frozen=True)
class AutoPlan:
    """What "auto" does with an engine folder.

    Attributes:
        tries: (backend, reason), the first one first. PyTorch, if it is among them, is the last.
        refusal: the sentence if none of them opens.
    """

    tries: tuple[tuple[str, str], ...]
    refusal: str


def plan_auto(
    engines: Path,
    device: str | None,
    digests: Mapping[str, str] | None,
    loras: Sequence[Lora] = (),
) -> AutoPlan:
    """What "auto" does with an engine folder.

    Args:
        engines: the folder.
        device: as in `open_backend`.
        digests: part -> sha256 of the model in use; None does not compare.
        loras: what PyTorch would apply.

    Raises EngineMismatch if the folder has no engines, those of another model, or with other LoRAs
    than `loras`, if there are any.
    """
    manifest = Manifest.load(engines)
    try:
        check_model(engines, manifest, digests or {})
    except EngineMismatch as error:
        raise EngineMismatch(
            f"{error}. To use the model without these engines, choose the backend torch."
        ) from None
    name, reason = fastest(engines, device)
    compiled = () if name == "torch" else ((name, reason),)
    if loras:
        check_loras(engines, manifest, loras)
    fused = manifest.fused
    same = bool(loras) and not (manifest.model and manifest.model.embeddings)
    if not fused or same:
        torchs = reason if name == "torch" else "PyTorch runs the same weights"
        return AutoPlan((*compiled, ("torch", torchs)), "")
    refusal = (
        f"The engines in {engines} contain {fused}, which PyTorch would not apply, and they cannot "
        "run here. Build a folder for this machine, with the same --lora options, or choose the "
        f"backend torch to edit without {fused}."
    )
    if any(entry.format == "onnx" for entry in manifest.entries) and PRODUCTS["onnx"].installed:
        keeps = f"it applies {fused}, which PyTorch would not"
        compiled = (*compiled, ("onnxruntime", keeps))
    return AutoPlan(compiled, refusal)


def check_loras(engines: Path, manifest: Manifest, loras: Sequence[Lora]) -> None:
    """Raise EngineMismatch unless the engines were built with exactly these LoRAs."""
    if same_loras(manifest, loras):
        return
    options = " ".join(f"--lora {lora.path}:{lora.scale:g}" for lora in loras)
    raise EngineMismatch(
        f"The engines in {engines} contain {manifest.fused or 'no LoRA'}, not the LoRAs that were "
        f"asked for; build a folder with {options}, or choose the backend torch, which applies "
        "them when it loads the model."
    )


def same_loras(manifest: Manifest, loras: Sequence[Lora]) -> bool:
    """Whether the engines were built with exactly these LoRAs."""
    fused = manifest.model.loras if manifest.model else ()
    wanted = sorted((lora.sha256, lora.scale) for lora in loras)
    return sorted((file.sha256, file.scale) for file in fused) == wanted


def fastest(engines: Path, device: str | None) -> tuple[str, str]:
    """The backend that is the fastest for an engine folder on this machine, and the reason.

    TensorRT if there is a GPU that can load the engines. Otherwise PyTorch: its default precision
    was faster than ONNX Runtime at Stable Diffusion's size on both CPUs measured so far
    (docs/speed.md has the figures).
    """
    gpu = torch.cuda.is_available() and (device or "cuda").startswith("cuda")
    formats = {entry.format for entry in Manifest.load(engines).entries}
    usable = [f for f in TENSORRT_FORMATS if f in formats and PRODUCTS[f].installed]
    if gpu and usable:
        return "tensorrt", f"{engines} has {usable[0]} engines and there is a GPU"
    missing = "TensorRT is not installed"
    if not gpu:
        missing = f"the device is {device}" if device else "there is no NVIDIA GPU"
    if not formats - {"onnx"}:
        missing = "the folder has no TensorRT engines"
    return "torch", f"{missing}, and PyTorch was faster than ONNX Runtime on every CPU measured"
