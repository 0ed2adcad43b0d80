"""Open a backend: the requested one, or the fastest one that is usable here.

This is the only place that decides what "auto" does with an engine folder. An engine folder whose
weights are not the checkpoint's own (a LoRA is fused into them, or they are another model's) is
never replaced by PyTorch, which would run other weights than the user chose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from diffedit.checks import InvalidRequest
from diffedit.dtypes import DTypes, split
from engine.backends import Networks
from engine.backends.engine_folder import check_model
from engine.checkpoint import Checkpoint
from engine.errors import EngineMismatch
from engine.lora.effect import warn_without_effect
from engine.lora.file import Lora
from engine.manifest import Manifest
from engine.precisions import denoiser_precision
from engine.products import PRODUCTS, TENSORRT_FORMATS

T = TypeVar("T")
TITLES = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT"}


@dataclass(frozen=True)
class Choice:
    """Why a backend was opened.

    Attributes:
        reason: one clause.
        warning: a sentence for the user if the engine folder or an option is not used; else "".
    """

    reason: str
    warning: str = ""


@dataclass(frozen=True)
class AutoPlan:
    """What "auto" does with an engine folder.

    Attributes:
        tries: (backend, reason), the first one first. PyTorch, if it is among them, is the last.
        refusal: the sentence if none of them opens.
    """

    tries: tuple[tuple[str, str], ...]
    refusal: str


def open_backend(
    checkpoint: Checkpoint,
    ready: Callable[[Networks, Choice], T],
    *,
    backend: str = "auto",
    engines: Path | None = None,
    device: str | None = None,
    dtype: DTypes | None = None,
    offload_text: bool = False,
    ignore_memory: bool = False,
    compile: bool = False,
    pin_batch_size: int | None = None,
    allow_tf32: bool = False,
    lora: Sequence[tuple[Path, float]] = (),
) -> T:
    """Open a backend, and return what `ready` makes of it.

    `ready` takes the backend and why it was chosen. If it raises EngineMismatch, because engines do
    not run here, "auto" goes on with the next backend of its plan.

    `lora` is applied to the weights by PyTorch; engines must have been built with the same.

    `diffedit.arguments` has checked the arguments. Raises EngineMismatch for engines that do not
    fit, and if "auto" could only replace them by other weights; InvalidRequest for `compile` with
    a backend that has engines.
    """
    loras = [Lora.open(path, scale) for path, scale in lora]
    warn_without_effect(loras, checkpoint)  # and check them, before the weights are loaded
    if compile and backend in TITLES:
        raise InvalidRequest(
            f"compile is for the backend torch, and the backend is {backend}, whose networks are "
            "compiled already; leave compile out.",
            field="compile",
        )
    opened = partial(
        _open,
        checkpoint,
        loras=loras,
        device=device,
        dtype=dtype,
        offload_text=offload_text,
        ignore_memory=ignore_memory,
        compile=compile,
        pin_batch_size=pin_batch_size,
        allow_tf32=allow_tf32,
    )
    if backend != "auto":
        warning = _dropped(engines, loras) if backend == "torch" and engines else ""
        return ready(opened(backend, engines), Choice("requested", warning))
    if engines is None:
        return ready(opened("torch", None), Choice("no engines folder was given"))
    plan = plan_auto(engines, device, checkpoint.digests(), loras)
    failures: list[str] = []
    for name, reason in plan.tries:
        try:
            if name == "torch":
                reason = "; ".join([*failures, reason])
                warning = f"The engines in {engines} are not used: {reason}."
                return ready(opened("torch", None), Choice(reason, warning))
            unused = f"compile has no effect, because {TITLES[name]} runs the edits."
            return ready(opened(name, engines), Choice(reason, unused if compile else ""))
        except EngineMismatch as error:
            if name == "torch":
                raise
            failures.append(f"{TITLES[name]} cannot use them ({error})")
    raise EngineMismatch(" ".join([plan.refusal, *(f"{failure}." for failure in failures)]))


def _open(
    checkpoint: Checkpoint,
    name: str,
    engines: Path | None,
    *,
    device: str | None,
    dtype: DTypes | None,
    offload_text: bool,
    ignore_memory: bool,
    compile: bool,
    pin_batch_size: int | None,
    allow_tf32: bool,
    loras: Sequence[Lora],
) -> Networks:
    """Open one backend by its name."""
    main, own = split(dtype)
    if name == "torch":
        from engine.backends.torch.networks import TorchNetworks

        return TorchNetworks.open(
            checkpoint,
            device=device,
            dtype=main,
            own_dtypes=own,
            offload_text=offload_text,
            ignore_memory=ignore_memory,
            compile=compile,
            pin_batch_size=pin_batch_size,
            allow_tf32=allow_tf32,
            loras=loras,
        )
    if own or offload_text:
        option = "A dtype for a single part" if own else "offload_text"
        raise EngineMismatch(
            f"{option} is for the torch backend, not for {TITLES[name]}, whose engines are loaded "
            "as they were built; omit it, or choose the backend torch."
        )
    if engines is not None and loras:
        check_loras(engines, Manifest.load(engines), loras)
    networks = _open_compiled(
        checkpoint, name, engines, device, pin_batch_size, allow_tf32=allow_tf32
    )
    built = networks.details().precision
    if main is not None and built.split()[0] not in (main, denoiser_precision(checkpoint, main)):
        networks.close()
        raise EngineMismatch(
            f"The engines in {engines} are {built}, but the dtype {main} was asked for; omit it, "
            f"or build engines of that precision with: diffedit-trt build {checkpoint.source} "
            f"--out NEW_FOLDER --precision {main}"
        )
    return networks


def _open_compiled(
    checkpoint: Checkpoint,
    name: str,
    engines: Path | None,
    device: str | None,
    pin_batch_size: int | None,
    *,
    allow_tf32: bool,
) -> Networks:
    """Open ONNX Runtime or TensorRT on an engine folder."""
    if engines is None:
        raise EngineMismatch(
            f"The {name} backend needs an engine folder, and none was given; build one with: "
            f"diffedit-trt build {checkpoint.source} --out engines"
        )
    digests = checkpoint.digests()
    if name == "onnxruntime":
        from engine.backends.onnxruntime.networks import OnnxNetworks

        return OnnxNetworks.open(
            engines,
            digests=digests,
            device=device,
            pin_batch_size=pin_batch_size,
            allow_tf32=allow_tf32,
        )
    from engine.backends.tensorrt.networks import TensorRTNetworks

    return TensorRTNetworks.open(
        engines, digests=digests, device=device, pin_batch_size=pin_batch_size
    )


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
    if _same_loras(manifest, loras):
        return
    options = " ".join(f"--lora {lora.path}:{lora.scale:g}" for lora in loras)
    raise EngineMismatch(
        f"The engines in {engines} contain {manifest.fused or 'no LoRA'}, not the LoRAs that were "
        f"asked for; build a folder with {options}, or choose the backend torch, which applies "
        "them when it loads the model."
    )


def _same_loras(manifest: Manifest, loras: Sequence[Lora]) -> bool:
    fused = manifest.model.loras if manifest.model else ()
    wanted = sorted((lora.sha256, lora.scale) for lora in loras)
    return sorted((file.sha256, file.scale) for file in fused) == wanted


def _dropped(engines: Path, loras: Sequence[Lora]) -> str:
    """The warning for PyTorch that was asked for together with an engine folder."""
    try:
        manifest = Manifest.load(engines)
    except EngineMismatch:
        return ""
    fused = "" if loras and _same_loras(manifest, loras) else manifest.fused
    unused = f"The engines in {engines} are not used, because the backend torch was asked for: "
    return f"{unused}this edits without {fused}." if fused else ""


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
