"""Model families: a checkpoint's parts, its networks and how each is called.

To add a family, add one file with a class like `StableDiffusion` and list it in `FAMILIES`. Code
outside this package does not refer to networks by name. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError
from engine.models.family import (
    FEW_STEPS,
    STABLE_DIFFUSION,
    Configs,
    Defaults,
    FlowEditDefaults,
    ModelFamily,
    Network,
    NetworkNames,
    Part,
    TextInput,
)
from engine.models.flux import Flux
from engine.models.index import class_of
from engine.models.reading import read_index
from engine.models.sdxl import StableDiffusionXL
from engine.models.stable_diffusion import StableDiffusion
from engine.models.stable_diffusion_3 import StableDiffusion3

__all__ = [
    "FAMILIES",
    "FEW_STEPS",
    "STABLE_DIFFUSION",
    "Configs",
    "Defaults",
    "FlowEditDefaults",
    "ModelFamily",
    "Network",
    "NetworkNames",
    "Part",
    "TextInput",
    "read_family",
]

Family = type[StableDiffusion | StableDiffusionXL | StableDiffusion3 | Flux]
PIPELINES: dict[Family, str] = {
    StableDiffusion: "StableDiffusionPipeline",
    StableDiffusionXL: "StableDiffusionXL",
    StableDiffusion3: "StableDiffusion3",
    Flux: "Flux",
}
"""Prefixes of the names of a family's pipelines in diffusers."""
FAMILIES: tuple[Family, ...] = tuple(PIPELINES)


def read_family(folder: Path) -> ModelFamily:
    """Return the family of a checkpoint in diffusers' folder format, with its configs.

    Raises CheckpointError if the folder is not a checkpoint of a supported family, or its configs
    are damaged, contradict each other or need inputs that an edit does not have.
    """
    index = read_index(folder)
    problems = [family.problem(index) for family in FAMILIES]
    if None not in problems:
        closest = max(range(len(FAMILIES)), key=lambda n: _matching_parts(index, FAMILIES[n]))
        raise CheckpointError(f"{folder} {problems[closest]}")
    return FAMILIES[problems.index(None)].read(folder, index)


def _matching_parts(index: Mapping[str, Any], family: Family) -> int:
    """How many parts have the classes of a family; the pipeline's name counts most."""
    parts = family({}).parts
    classes = [class_of(index, part.name) == (part.package, part.class_name) for part in parts]
    name = str(index.get("_class_name"))
    return sum(classes) + len(parts) * name.startswith(PIPELINES[family])
