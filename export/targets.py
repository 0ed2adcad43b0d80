"""Choose the engines that this machine can build, and explain the choice in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from engine.errors import BuildError
from engine.products import (
    PRODUCTS,
    TensorRTFormat,
    format_compute_capability,
    parse_compute_capability,
)
from export.to_tensorrt import probe

Wanted = Literal["auto", "onnx", "tensorrt", "tensorrt-rtx"]


@dataclass(frozen=True)
class Target:
    """The engines to build in addition to ONNX files.

    Attributes:
        product: "tensorrt" or "tensorrt-rtx"; None for ONNX files only.
        version: the product's version.
        gpu: the name of the only GPU model that can run `tensorrt` engines.
        capability: its compute capability, such as "9.0".
        reason: one sentence: what is built, and why the other products are not.
    """

    product: TensorRTFormat | None
    version: str
    gpu: str | None
    capability: str | None
    reason: str


def choose(wanted: Wanted, capabilities: Sequence[str] = ()) -> Target:
    """Choose the target.

    "auto" is `tensorrt` if its builder starts and there is a CUDA GPU; otherwise `tensorrt-rtx` if
    it is installed, because it builds without a GPU; otherwise ONNX files only.

    Raises:
        BuildError: the requested product cannot build on this machine.
        ValueError: a compute capability is malformed.
    """
    for text in capabilities:
        parse_compute_capability(text)
    if wanted == "onnx":
        return Target(None, "", None, None, "Building ONNX files only, as requested.")
    if wanted != "auto":
        target = _find(wanted, capabilities)
        if isinstance(target, str):
            raise BuildError(f"Cannot build for {wanted}: {target}.")
        return target
    tensorrt = _find("tensorrt", ())
    if isinstance(tensorrt, Target):
        return tensorrt
    rtx = _find("tensorrt-rtx", capabilities)
    if isinstance(rtx, Target):
        reason = f"{rtx.reason[:-1]}; not for tensorrt: {tensorrt}."
        return Target("tensorrt-rtx", rtx.version, None, None, reason)
    reason = f"Building ONNX files only; not for tensorrt: {tensorrt}; not for tensorrt-rtx: {rtx}."
    return Target(None, "", None, None, reason)


def _find(product: TensorRTFormat, capabilities: Sequence[str]) -> Target | str:
    """Return the target, or why it cannot be built: a clause without a full stop."""
    facts = PRODUCTS[product]
    if find_spec(facts.module) is None:
        return f"{facts.module} is not installed ({facts.how_to_install})"
    if find_spec("polygraphy") is None:
        return "polygraphy is not installed (pip install polygraphy)"
    gpu = capability = None
    if product == "tensorrt":
        import torch

        if not torch.cuda.is_available():
            return "PyTorch sees no CUDA GPU, and the builder times its kernels on the GPU"
        gpu = torch.cuda.get_device_name()
        capability = format_compute_capability(torch.cuda.get_device_capability())
    try:
        version = probe(product, capabilities)
    except BuildError as error:
        return str(error).partition(": ")[2].rstrip(".") or str(error).rstrip(".")
    where = f"for the {gpu} here" if gpu else "for RTX GPUs, compiled without one"
    reason = f"Building ONNX and {product} {version} engines {where}."
    return Target(product, version, gpu, capability, reason)
