"""Check whether an engine was built for this machine, by the facts in its manifest.

This module does not open engines.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import torch

from engine.backends.engine_folder import EngineFolder
from engine.manifest import Entry, Format, Toolchain
from engine.products import (
    PRODUCTS,
    ComputeCapability,
    format_compute_capability,
    parse_compute_capability,
)


@dataclass(frozen=True)
class Machine:
    """The GPU and the TensorRT package of this process.

    Attributes:
        product: "tensorrt" or "tensorrt-rtx".
        version: the package's full version.
        gpu: the GPU's name as CUDA reports it.
        compute_capability: (major, minor).
    """

    product: Format
    version: str
    gpu: str
    compute_capability: ComputeCapability

    def describe(self) -> str:
        """Return "TensorRT 10.13.3.9 on NVIDIA H200"."""
        return f"{PRODUCTS[self.product].title} {self.version} on {self.gpu}"


def read_machine(product: Format, trt: Any, device: torch.device) -> Machine:
    """Return the facts of this machine that engines are compared with."""
    return Machine(
        product=product,
        version=str(trt.__version__),
        gpu=torch.cuda.get_device_name(device),
        compute_capability=torch.cuda.get_device_capability(device),
    )


def mismatch(entry: Entry, machine: Machine) -> str | None:
    """Describe how the machine differs from the build machine of an engine; None if it fits.

    A `tensorrt` engine runs with one exact version on one GPU model. A `tensorrt-rtx` engine runs
    with one exact version on every compute capability it was built for. Facts missing from the
    manifest are not compared; the runtime checks them itself.
    """
    built = entry.built_with
    title = PRODUCTS[machine.product].title
    differences = []
    if built.version and built.version != machine.version:
        differences.append((f"{title} {built.version}", f"{title} {machine.version}"))
    capabilities = _compute_capabilities(built)
    if capabilities and machine.compute_capability not in capabilities:
        names = " or ".join(map(format_compute_capability, capabilities))
        here = format_compute_capability(machine.compute_capability)
        differences.append((f"compute capability {names}", here))
    if machine.product == "tensorrt" and built.gpu and built.gpu != machine.gpu:
        differences.append((built.gpu, machine.gpu))
    if not differences:
        return None
    built_for, here = (" and ".join(side) for side in zip(*differences, strict=True))
    return f"was built for {built_for}, and this machine has {here}"


def fitting(folder: EngineFolder, machine: Machine) -> EngineFolder:
    """Return the folder without the engines that were built for another machine."""
    entries = tuple(entry for entry in folder.entries if mismatch(entry, machine) is None)
    return replace(folder, manifest=replace(folder.manifest, entries=entries))


def _compute_capabilities(built: Toolchain) -> list[ComputeCapability]:
    """The compute capabilities of a build: one for `tensorrt`, any number for `tensorrt-rtx`."""
    capabilities = []
    for text in built.compute_capabilities:
        with contextlib.suppress(ValueError):  # "current": the runtime checks it
            capabilities.append(parse_compute_capability(text))
    return capabilities
