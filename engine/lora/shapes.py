"""The layers of a checkpoint by name and shape, and whether a LoRA's tensors fit one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from engine.checkpoint import Checkpoint, read_header
from engine.lora.change import weight_change
from engine.lora.names import plain
from engine.models.original_names import Piece, original_layers

EVERY_METHOD = {"alpha", "dora_scale", "magnitude", "diff_b"}
"""Tensors that are allowed in addition to those of any method."""
LOHA = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
LOKR = (
    ({"lokr_w1"}, {"lokr_w1_a", "lokr_w1_b"}),
    ({"lokr_w2"}, {"lokr_w2_a", "lokr_w2_b"}, {"lokr_w2_a", "lokr_w2_b", "lokr_t2"}),
)
"""The forms of the first and of the second factor."""
METHODS = (
    {"down", "up"},
    {"down", "up", "mid"},
    LOHA,
    LOHA | {"hada_t1", "hada_t2"},
    *(first | second for first in LOKR[0] for second in LOKR[1]),
    {"diff"},
)
"""The sets of tensors that one layer may have, by method."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ModelLayer:
    """One layer with weights.

    Attributes:
        path: its path in the checkpoint's files.
        weight: shape of the weight.
        bias: shape of the bias; None without one.
        pieces: the layers of the module that its rows belong to. A layer of the original code may
            consist of several.
    """

    path: str
    weight: Shape
    bias: Shape | None
    pieces: tuple[Piece, ...]


def model_layers(checkpoint: Checkpoint) -> dict[str, dict[str, ModelLayer]]:
    """Part -> `names.plain` name -> layer, for every part that a LoRA can change.

    The denoiser's layers are also included under their original names. Token embeddings are not
    included. Reads the headers of the weight files.
    """
    roles = ("text_encoder", "denoiser")
    parts = dict.fromkeys(n.part for n in checkpoint.family.networks if n.role in roles)
    found = {part: _layers(checkpoint, part) for part in parts}
    denoiser = checkpoint.network(checkpoint.names.denoiser).part
    found[denoiser] = _originals(checkpoint, denoiser, found[denoiser]) | found[denoiser]
    return found


def _layers(checkpoint: Checkpoint, part: str) -> dict[str, ModelLayer]:
    headers = [read_header(file) for file in checkpoint.weights(part)]
    shapes = {name: tuple(t["shape"]) for header in headers for name, t in header.items()}
    paths = [name.removesuffix(".weight") for name in shapes if name.endswith(".weight")]
    return {
        plain(path): _layer(path, shapes[f"{path}.weight"], shapes.get(f"{path}.bias"))
        for path in paths
        if not path.endswith("_embedding")
    }


def _layer(path: str, weight: Shape, bias: Shape | None) -> ModelLayer:
    return ModelLayer(path, weight, bias, (Piece(path, 0, weight[0]),))


def _originals(
    checkpoint: Checkpoint, part: str, layers: Mapping[str, ModelLayer]
) -> dict[str, ModelLayer]:
    """The layers of the original code, which consist of layers of the module."""
    by_path = {layer.path: layer for layer in layers.values()}
    names = original_layers(
        checkpoint.part(part).class_name,
        checkpoint.family.configs[part],
        {path: layer.weight[0] for path, layer in by_path.items()},
    )
    found = {}
    for path, pieces in names.items():
        first = by_path[pieces[0].layer]
        rows = sum(piece.stop - piece.start for piece in pieces)
        bias = None if first.bias is None else (rows,)
        found[plain(path)] = ModelLayer(path, (rows, *first.weight[1:]), bias, pieces)
    return found


def check_layer(
    tensors: Mapping[str, str], shapes: Mapping[str, Shape], layer: ModelLayer
) -> str | None:
    """Return what is wrong with the tensors for one layer; None if they fit.

    Args:
        tensors: kind -> tensor name.
        shapes: tensor name -> shape.
        layer: the model's layer.
    """
    by_kind = {kind: shapes[name] for kind, name in tensors.items()}
    described = ", ".join(f"{kind} {shape}" for kind, shape in sorted(by_kind.items()))
    if not _complete(set(by_kind)):
        return f"tensors are missing or belong to several methods: it has only {described}"
    if any(0 in shape for shape in by_kind.values()):
        return f"a tensor is empty: {described}"
    if "alpha" in by_kind and by_kind["alpha"] not in ((), (1,)):
        return f"alpha is not one number: {described}"
    bias = by_kind.get("diff_b")
    if bias is not None and bias != layer.bias:
        return f"a bias of {bias} does not fit the model's of {layer.bias}"
    if set(by_kind) == {"diff_b"}:
        return None
    meta = {kind: torch.empty(shape, device="meta") for kind, shape in by_kind.items()}
    try:
        weight_change(meta, torch.empty(layer.weight, device="meta"), factor=1.0)
    except (ValueError, RuntimeError, IndexError, ZeroDivisionError):
        return f"{described} do not fit a weight of {layer.weight}"
    return None


def _complete(kinds: set[str]) -> bool:
    """Whether the tensors are those of exactly one method."""
    own = kinds - EVERY_METHOD
    return own in METHODS or kinds == {"diff_b"}
