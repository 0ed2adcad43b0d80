"""Module + NetSpec -> one .onnx file with a dynamic batch axis and the names of the NetSpec.

It knows nothing of where files go in the end: it writes into the folder it is given, under final
names, so that the name of the weight file that stands inside the .onnx stays right after a move.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import BuildError
from engine.netspec import NetSpec
from export.build_jobs import OPSET
from export.networks import Wrapped, quiet

EMBED_LIMIT = 1 << 30
"""Weights of more bytes than this go beside the .onnx: protobuf ends at 2 GB."""


def export(
    network: Wrapped,
    spec: NetSpec,
    path: Path,
    inputs: tuple[Tensor, ...],
    *,
    embed_limit: int = EMBED_LIMIT,
) -> tuple[Path, ...]:
    """Write `path` and, for large networks, `path` + ".data"; returns the files, main file first.

    Args:
        network: in the precision wanted, on the CPU.
        spec: gives the tensors' names.
        path: the .onnx under its final name.
        inputs: one sample batch of at least 2 rows.
        embed_limit: weights of more bytes than this go into their own file.

    Raises:
        BuildError: the exporter refused the network.
    """
    batch = torch.export.Dim("batch")
    with quiet(), torch.inference_mode():
        try:
            program: Any = torch.onnx.export(
                network,
                inputs,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=(tuple({0: batch} for _ in inputs),),
                optimize=True,
                verbose=False,
            )
        except (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
            raise BuildError(
                f"The {spec.name} cannot be exported to ONNX ({_last_line(error)})."
            ) from error
        graph = program.model.graph
        _name(graph, spec)
        _strip(program.model)
        weights = sum(value.const_value.nbytes for value in graph.initializers.values())
        outside = weights > embed_limit
        program.save(path, external_data=outside)
    return (path, path.with_name(path.name + ".data")) if outside else (path,)


def _name(graph: Any, spec: NetSpec) -> None:
    """Give inputs and output their names, and inner values that took one of them another."""
    wanted = [tensor.name for tensor in spec.inputs]
    inner = [*graph.initializers.values(), *(o for node in graph for o in node.outputs)]
    for value in inner:
        if value.name in (*wanted, spec.output.name):
            value.name += "_inner"
    for value, name in zip(graph.inputs, wanted, strict=True):
        value.name = name
    (output,) = graph.outputs
    output.name = spec.output.name


def _strip(model: Any) -> None:
    """Drop the notes on where each operator came from: they hold paths of this machine, so that the
    same network would have another digest elsewhere."""
    values: Iterable[Any] = (o for node in model.graph for o in node.outputs)
    for thing in (model, model.graph, *model.graph, *model.graph.inputs, *values):
        thing.metadata_props.clear()
    for initializer in model.graph.initializers.values():
        initializer.metadata_props.clear()
    for node in model.graph:
        node.doc_string = None


def _last_line(error: BaseException) -> str:
    lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
