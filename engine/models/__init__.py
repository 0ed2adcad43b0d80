"""Model families: a checkpoint's parts, its networks and how each is called.

To add a family, add one file with a class like `StableDiffusion` and list it in `FAMILIES`. Nothing
else in the program names a network. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError
from engine.models.family import Configs, ModelFamily, Network, NetworkNames, Part
from engine.models.reading import read_index
from engine.models.stable_diffusion import StableDiffusion

__all__ = ["FAMILIES", "Configs", "ModelFamily", "Network", "NetworkNames", "Part", "read_family"]

FAMILIES = (StableDiffusion,)


def read_family(folder: Path) -> ModelFamily:
    """The family of a checkpoint in diffusers' folder format, bound to its configs.

    Raises CheckpointError if the folder is not a checkpoint of a supported family.
    """
    index = read_index(folder)
    for family in FAMILIES:
        if family.matches(index):
            return family.read(folder)
    raise CheckpointError(_unsupported(folder, index))


def _unsupported(folder: Path, index: Mapping[str, Any]) -> str:
    """Name the first part that differs from Stable Diffusion's."""
    from engine.models.stable_diffusion import PARTS, TITLE, TOKENIZER_CLASS

    wanted = {part.name: part.class_name for part in reversed(PARTS)}
    for name, class_name in (wanted | {"tokenizer": TOKENIZER_CLASS}).items():
        found = (index.get(name) or [None, None])[1]
        if found is None:
            return f"{folder} has no {name}; {TITLE} checkpoints have one."
        if found.removesuffix("Fast") != class_name:
            return (
                f"{folder} holds a {index.get('_class_name', 'pipeline')} whose {name} is a "
                f"{found}; only {TITLE} ({class_name}) are supported."
            )
    raise AssertionError("the family matches")
