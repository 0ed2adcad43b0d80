"""Which backend runs an edit: the fastest one that is usable here, and the reason in words."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from diffedit.request import InvalidRequest
from engine.backends import Networks
from engine.checkpoint import Checkpoint
from engine.errors import EngineMismatch
from engine.manifest import Manifest
from engine.netspec import Precision
from engine.products import PRODUCTS, TENSORRT_FORMATS

PARTS = ("unet", "vae", "text_encoder")


def choose(
    checkpoint: Checkpoint,
    *,
    backend: str = "auto",
    engines: Path | None = None,
    device: str | None = None,
    dtype: Precision | None = None,
    compile: bool = False,
    pin_batch_size: int | None = None,
) -> tuple[Networks, str]:
    """Open a backend; returns it and one sentence that says why it was taken.

    Raises InvalidRequest for unknown names, EngineMismatch for engines that do not fit.
    """
    if pin_batch_size is not None and pin_batch_size < 1:
        raise InvalidRequest(
            f"pin_batch_size is {pin_batch_size}, but must be 1 or more; leave it out for none."
        )
    opened = partial(
        _open,
        checkpoint,
        device=device,
        dtype=dtype,
        compile=compile,
        pin_batch_size=pin_batch_size,
    )
    if backend != "auto":
        return opened(backend, engines), "asked for"
    name, why = fastest(engines, device)
    try:
        return opened(name, engines), why
    except EngineMismatch as error:
        if name == "torch":
            raise
        return opened("torch", None), f"the engines do not fit: {error}"


def _open(
    checkpoint: Checkpoint,
    name: str,
    engines: Path | None,
    *,
    device: str | None,
    dtype: Precision | None,
    compile: bool,
    pin_batch_size: int | None,
) -> Networks:
    """The networks of one backend, by its name."""
    if name == "torch":
        if dtype not in (None, "fp32", "bf16", "fp16"):
            raise InvalidRequest(f"There is no dtype {dtype!r}; take fp32, bf16 or fp16.")
        from engine.backends.torch.networks import TorchNetworks

        return TorchNetworks.open(
            checkpoint,
            device=_device(device),
            dtype=dtype,
            compile=compile,
            pin_batch_size=pin_batch_size,
        )
    if name not in ("onnxruntime", "tensorrt"):
        raise InvalidRequest(
            f"There is no backend {name!r}; take auto, torch, onnxruntime or tensorrt."
        )
    if engines is None:
        raise EngineMismatch(
            f"The {name} backend runs compiled files, and no engines folder was given; build one "
            f"with: diffedit-trt build {checkpoint.folder} --out engines"
        )
    digests = {part: checkpoint.digest(part) for part in PARTS}
    if name == "onnxruntime":
        from engine.backends.onnxruntime.networks import OnnxNetworks

        return OnnxNetworks.open(
            engines, digests=digests, device=device, pin_batch_size=pin_batch_size
        )
    from engine.backends.tensorrt.networks import TensorRTNetworks

    return TensorRTNetworks.open(
        engines, digests=digests, device=device, pin_batch_size=pin_batch_size
    )


def fastest(engines: Path | None, device: str | None) -> tuple[str, str]:
    """The name that "auto" stands for, and why.

    TensorRT engines on a GPU that can load them; otherwise PyTorch, whose default precision outran
    ONNX Runtime at Stable Diffusion's size on both CPUs measured so far (the README has figures).
    """
    gpu = torch.cuda.is_available() and (device or "cuda").startswith("cuda")
    if engines is None:
        return "torch", "no engines folder was given"
    formats = {entry.format for entry in Manifest.load(engines).entries}
    usable = [f for f in TENSORRT_FORMATS if f in formats and PRODUCTS[f].installed]
    if gpu and usable:
        return "tensorrt", f"{engines} holds {usable[0]} engines and a GPU is here"
    missing = "no NVIDIA GPU is here" if not gpu else "TensorRT is not installed"
    if not formats - {"onnx"}:
        missing = "the folder holds no TensorRT engines"
    return "torch", f"{missing}, and PyTorch was faster than ONNX Runtime wherever measured"


def _device(device: str | None) -> str | None:
    if device is None:
        return None
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise InvalidRequest(f"There is no device {device!r}; take cpu, cuda or cuda:N.") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise InvalidRequest("device is cuda, but PyTorch sees no NVIDIA GPU here; take cpu.")
    return device
