"""Model families: a checkpoint's parts, its networks and how each is called.

To add a family, add one file with a class like `StableDiffusion` and list it in `FAMILIES`. Nothing
else in the program names a network. Standard library only.
"""

from __future__ import annotations

from pathlib import Path

from engine.errors import CheckpointError
from engine.models.family import Configs, ModelFamily, Network, NetworkNames, Part
from engine.models.reading import read_index
from engine.models.stable_diffusion import StableDiffusion

__all__ = ["FAMILIES", "Configs", "ModelFamily", "Network", "NetworkNames", "Part", "read_family"]

FAMILIES = (StableDiffusion,)


def read_family(folder: Path) -> ModelFamily:
    """The family of a checkpoint in diffusers' folder format, bound to its configs.

    Raises CheckpointError if the folder is not a checkpoint of a supported family, or its configs
    are damaged, contradict each other or need what no edit provides.
    """
    index = read_index(folder)
    problems = [family.problem(index) for family in FAMILIES]
    if None not in problems:
        raise CheckpointError(f"{folder} {problems[0]}")
    return FAMILIES[problems.index(None)].read(folder, index)
