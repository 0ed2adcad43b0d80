"""Open a backend: the requested one, or the fastest one that is usable here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from engine.backends import Networks
from engine.checkpoint import Checkpoint
from engine.errors import EngineMismatch
from engine.manifest import Manifest
from engine.netspec import Precision
from engine.products import PRODUCTS, TENSORRT_FORMATS

T = TypeVar("T")


def open_backend(
    checkpoint: Checkpoint,
    ready: Callable[[Networks, str], T],
    *,
    backend: str = "auto",
    engines: Path | None = None,
    device: str | None = None,
    dtype: Precision | None = None,
    compile: bool = False,
    pin_batch_size: int | None = None,
    allow_tf32: bool = False,
) -> T:
    """Open a backend, and return what `ready` makes of it.

    `ready` takes the backend and one clause that says why it was chosen. If it raises
    EngineMismatch, because engines do not run here, "auto" goes on with PyTorch.

    `diffedit.arguments` has checked the arguments. Raises EngineMismatch for engines that do not
    fit.
    """
    opened = partial(
        _open,
        checkpoint,
        device=device,
        dtype=dtype,
        compile=compile,
        pin_batch_size=pin_batch_size,
        allow_tf32=allow_tf32,
    )
    if backend != "auto":
        return ready(opened(backend, engines), "requested")
    name, reason = fastest(engines, device)
    try:
        return ready(opened(name, engines), reason)
    except EngineMismatch as error:
        if name == "torch":
            raise
        return ready(opened("torch", None), f"the engines do not fit: {error}")


def _open(
    checkpoint: Checkpoint,
    name: str,
    engines: Path | None,
    *,
    device: str | None,
    dtype: Precision | None,
    compile: bool,
    pin_batch_size: int | None,
    allow_tf32: bool,
) -> Networks:
    """Open one backend by its name."""
    if name == "torch":
        from engine.backends.torch.networks import TorchNetworks

        return TorchNetworks.open(
            checkpoint,
            device=device,
            dtype=dtype,
            compile=compile,
            pin_batch_size=pin_batch_size,
            allow_tf32=allow_tf32,
        )
    if engines is None:
        raise EngineMismatch(
            f"The {name} backend needs an engine folder, and none was given; build one with: "
            f"diffedit-trt build {checkpoint.folder} --out engines"
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


def fastest(engines: Path | None, device: str | None) -> tuple[str, str]:
    """The backend that "auto" selects, and the reason.

    TensorRT if there are engines and a GPU that can load them. Otherwise PyTorch: its default
    precision was faster than ONNX Runtime at Stable Diffusion's size on both CPUs measured so far
    (docs/speed.md has the figures).
    """
    gpu = torch.cuda.is_available() and (device or "cuda").startswith("cuda")
    if engines is None:
        return "torch", "no engines folder was given"
    formats = {entry.format for entry in Manifest.load(engines).entries}
    usable = [f for f in TENSORRT_FORMATS if f in formats and PRODUCTS[f].installed]
    if gpu and usable:
        return "tensorrt", f"{engines} has {usable[0]} engines and there is a GPU"
    missing = "there is no NVIDIA GPU" if not gpu else "TensorRT is not installed"
    if not formats - {"onnx"}:
        missing = "the folder has no TensorRT engines"
    return "torch", f"{missing}, and PyTorch was faster than ONNX Runtime on every CPU measured"
