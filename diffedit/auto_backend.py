"""Choose the backend for an engine folder when the backend is "auto".

PyTorch replaces engines only if it would run the same weights. If a LoRA is fused into the engines,
or they were built from another model, "auto" raises EngineMismatch instead.
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
    """The backends that "auto" tries for an engine folder.

    Attributes:
        tries: (backend, reason) in order. PyTorch is the last one, if it is included.
        refusal: the error message if none of them opens.
    """

    tries: tuple[tuple[str, str], ...]
    refusal: str


def plan_auto(
    engines: Path,
    device: str | None,
    digests: Mapping[str, str] | None,
    loras: Sequence[Lora] = (),
) -> AutoPlan:
    """Return the backends to try for an engine folder.

    Args:
        engines: the folder.
        device: as in `open_backend`.
        digests: part -> sha256 of the model in use; None skips the comparison.
        loras: the LoRAs that PyTorch would apply.

    Raises EngineMismatch if the folder has no engines, if they were built from another model, or if
    `loras` is not empty and they were built with other LoRAs.
    """
    manifest = Manifest.load(engines)
    try:
        check_model(engines, manifest, digests or {})
    except EngineMismatch as error:
        raise EngineMismatch(
            f"{error}. To use the model without these engines, use the torch backend."
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
        "run here. Build engines on this machine with the same --lora options, or use the torch "
        f"backend to edit without {fused}."
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
        f"The engines in {engines} contain {manifest.fused or 'no LoRA'}, not the requested LoRAs; "
        f"build engines with {options}, or use the torch backend, which applies LoRAs when it "
        "loads the model."
    )


def same_loras(manifest: Manifest, loras: Sequence[Lora]) -> bool:
    """Whether the engines were built with exactly these LoRAs."""
    fused = manifest.model.loras if manifest.model else ()
    wanted = sorted((lora.sha256, lora.scale) for lora in loras)
    return sorted((file.sha256, file.scale) for file in fused) == wanted


def fastest(engines: Path, device: str | None) -> tuple[str, str]:
    """Return the fastest backend for an engine folder on this machine, and the reason.

    This is TensorRT if there is a GPU that can load the engines. Otherwise it is PyTorch: its
    default precision was faster than ONNX Runtime at Stable Diffusion's size on both CPUs measured
    (docs/speed.md).
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
