"""Which kind of engines this machine can build, and one line that says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from engine.errors import BuildError
from export.to_tensorrt import MODULES, Product, capability_name, probe

Wanted = Literal["auto", "onnx", "tensorrt", "tensorrt-rtx"]

INSTALL: dict[Product, str] = {
    "tensorrt": "its builder comes from NVIDIA's own package index, see NVIDIA's install guide",
    "tensorrt-rtx": "pip install tensorrt-rtx",
}


@dataclass(frozen=True)
class Target:
    """What is built beside ONNX.

    Attributes:
        product: None for ONNX alone.
        version: of the product.
        gpu: the name of the GPU that `tensorrt` engines are tied to.
        capability: its compute capability, such as "9.0".
        reason: one sentence: what is built, why, and what is missing for the rest.
    """

    product: Product | None
    version: str
    gpu: str | None
    capability: str | None
    reason: str


def choose(wanted: Wanted, capabilities: Sequence[str] = ()) -> Target:
    """Decide; raises BuildError when what was asked for by name is not here.

    "auto" takes `tensorrt` where its builder starts and there is a CUDA GPU, else `tensorrt-rtx`
    where that is installed (it builds without a GPU), else ONNX alone.
    """
    for text in capabilities:
        capability_name(text)
    if wanted == "onnx":
        return Target(None, "", None, None, "Building ONNX alone, as asked.")
    if wanted != "auto":
        found = _find(wanted, capabilities)
        if isinstance(found, str):
            raise BuildError(f"Cannot build for {wanted}: {found}.")
        return found
    first = _find("tensorrt", ())
    if isinstance(first, Target):
        return first
    second = _find("tensorrt-rtx", capabilities)
    if isinstance(second, Target):
        reason = f"{second.reason[:-1]}; not for tensorrt: {first}."
        return Target("tensorrt-rtx", second.version, None, None, reason)
    reason = f"Building ONNX alone; not for tensorrt: {first}; not for tensorrt-rtx: {second}."
    return Target(None, "", None, None, reason)


def _find(product: Product, capabilities: Sequence[str]) -> Target | str:
    """The target, or why it is not there: a clause without a full stop."""
    module = MODULES[product]
    if find_spec(module) is None:
        return f"{module} is not installed ({INSTALL[product]})"
    if find_spec("polygraphy") is None:
        return "polygraphy is not installed (pip install polygraphy)"
    gpu = capability = None
    if product == "tensorrt":
        import torch

        if not torch.cuda.is_available():
            return "there is no CUDA GPU that torch can use, and its engines are timed on the GPU"
        gpu = torch.cuda.get_device_name()
        capability = "{}.{}".format(*torch.cuda.get_device_capability())
    try:
        version = probe(product, capabilities)
    except BuildError as error:
        return str(error).partition(": ")[2].rstrip(".") or str(error).rstrip(".")
    where = f"for the {gpu} here" if gpu else "for RTX GPUs, compiled without one"
    reason = f"Building ONNX and {product} {version} engines {where}."
    return Target(product, version, gpu, capability, reason)
