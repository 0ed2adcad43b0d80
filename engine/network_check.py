"""Run the networks of a part without weights, to find configs whose numbers do not fit each other.

The modules are on PyTorch's meta device: shapes are computed, values are not, so this takes less
than a second for a model of any size. Heads that do not divide a width, block lists of other
lengths and wrong projections are found before gigabytes are read.
"""

from __future__ import annotations

import torch

from engine.checkpoint import Checkpoint
from engine.dtypes import TORCH_DTYPES
from engine.errors import CheckpointError, first_line
from engine.loader import quiet
from engine.models import Network
from engine.netspec import TensorSpec
from engine.shape_run import NormShapes

Shapes = list[tuple[int, ...]]


def check_networks(checkpoint: Checkpoint, part: str, module: torch.nn.Module) -> None:
    """Raise CheckpointError unless every network of a part runs on the module of its config, and
    returns the shapes that the model family expects.

    Args:
        checkpoint: the model.
        part: name of the part.
        module: as `engine.loader.empty_module` makes it.
    """
    file = checkpoint.folder / part / "config.json"
    for network in (n for n in checkpoint.family.networks if n.part == part):
        wanted = [(1, *out.shape) for out in _tensors(checkpoint, network.name)[1]]
        try:
            found = _output_shapes(checkpoint, network, module)
        except NotImplementedError:  # an operation that has no shapes-only version
            continue
        except Exception as error:  # a library may raise anything for a wrong number
            raise CheckpointError(
                f"{file} describes a network that cannot run ({first_line(error)}), because its "
                "numbers do not fit each other; copy or download it again."
            ) from error
        if found != wanted:
            raise CheckpointError(
                f"{file} describes a network whose outputs have the shape {found[0][1:]} instead "
                f"of {wanted[0][1:]}, so it belongs to another model or was changed; copy or "
                "download it again."
            )


def _output_shapes(checkpoint: Checkpoint, network: Network, module: torch.nn.Module) -> Shapes:
    """The shapes of a network's outputs for one row."""
    inputs = [
        torch.empty((1, *spec.shape), dtype=TORCH_DTYPES[spec.dtype], device="meta")
        for spec in _tensors(checkpoint, network.name)[0]
    ]
    with torch.inference_mode(), quiet(), NormShapes():
        out = network.call(module.eval(), torch.float32, *inputs)
    return [tuple(tensor.shape) for tensor in (out if isinstance(out, tuple) else (out,))]


def _tensors(
    checkpoint: Checkpoint, network: str
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of one row at the model's own size."""
    family = checkpoint.family
    side = max(1, family.native_size // family.size_multiple) * family.size_multiple
    return family.tensors(network, (side, side))
