"""Choose, import and check the TensorRT package that runs an engine folder.

The two products have the same Python API, so other modules take the imported package as `trt` and
detect its features with `hasattr`; version numbers are never compared across products.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from engine.backends.engine_folder import EngineFolder
from engine.backends.tensorrt.machine import Machine, mismatch, read_machine
from engine.errors import EngineMismatch
from engine.manifest import Format
from engine.products import PRODUCTS


def load_module(product: Format) -> Any:
    """Import a product's package. Raises EngineMismatch if it is missing or too old."""
    facts = PRODUCTS[product]
    try:
        trt = importlib.import_module(facts.module)
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise EngineMismatch(
            f"The engines are for {facts.title}, whose package {facts.module} cannot be imported "
            f"({reason}); install it with: {facts.pip_install}"
        ) from error
    if not hasattr(trt.ICudaEngine, "get_device_memory_size_for_profile_v2"):
        raise EngineMismatch(
            f"{facts.title} {trt.__version__} is too old; install {facts.oldest_version} or newer "
            "and build again."
        )
    return trt


def choose_product(folder: EngineFolder, device: torch.device) -> tuple[EngineFolder, Any, Machine]:
    """Choose the first product that is installed and has an engine that fits this machine.

    Returns:
        The folder restricted to that product, its package, and the machine.

    Raises:
        EngineMismatch: no product qualifies; the error of the preferred one.
    """
    problems = []
    for product in folder.formats:
        candidate = folder.only(product)
        if not candidate.entries:
            continue
        try:
            trt = load_module(product)
        except EngineMismatch as error:
            problems.append(error)
            continue
        machine = read_machine(product, trt, device)
        reasons = [mismatch(entry, machine) for entry in candidate.entries]
        if not all(reasons):
            return candidate, trt, machine
        file = candidate.path / candidate.entries[0].files[0].name
        problems.append(EngineMismatch(f"{file} {reasons[0]}; rebuild with: {candidate.command()}"))
    raise problems[0]
