"""Export a module to an .onnx file with a dynamic batch axis and the names of its NetSpec.

Files are written under their final names, because the .onnx file contains the name of its weight
file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import BuildError
from engine.loader import quiet
from engine.netspec import NetSpec
from export.build_jobs import OPSET
from export.networks import Wrapped

EMBED_LIMIT = 1 << 30
"""Weights of more bytes than this go into a separate file: protobuf is limited to 2 GB."""

TRACED_ROWS = 63
"""The largest batch for which PyTorch traces; the ONNX file accepts any.

diffusers' upsampling has a branch for 64 rows and more, which has no effect in ONNX. Without this
bound PyTorch would find the branch while tracing, and trace a second time.
"""


def export(
    network: Wrapped,
    spec: NetSpec,
    path: Path,
    inputs: tuple[Tensor, ...],
    *,
    embed_limit: int = EMBED_LIMIT,
) -> tuple[Path, ...]:
    """Write `path` and, for large networks, `path` + ".data". Returns the files, main file first.

    Args:
        network: in its target precision, on the CPU.
        spec: the names of the tensors.
        path: the .onnx file under its final name.
        inputs: one sample batch of at least 2 rows.
        embed_limit: weights of more bytes than this go into their own file.

    Raises:
        BuildError: the exporter does not support the network.
    """
    batch = torch.export.Dim("batch", max=TRACED_ROWS)
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
                f"The {spec.name} cannot be exported to ONNX ({_last_line(error)}); please report "
                "it with the name of the model."
            ) from error
        graph = program.model.graph
        _name(graph, spec)
        _strip(program.model)
        weights = sum(value.const_value.nbytes for value in graph.initializers.values())
        outside = weights > embed_limit
        program.save(path, external_data=outside)
    if spec.precision != "bf16":  # opset 18 has no bf16 convolutions, but TensorRT accepts them
        check(spec.name, path)
    return (path, path.with_name(path.name + ".data")) if outside else (path,)


def check(network: str, path: Path) -> None:
    """Raise BuildError if an operator has input types or shapes that ONNX does not define.

    The exporter writes such files for operators that convert types in PyTorch.
    """
    import onnx

    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BuildError(
            f"The {network} cannot be exported to ONNX, because the exporter wrote an invalid file "
            f"({_last_line(error)}); please report it with the name of the model."
        ) from error


def _name(graph: Any, spec: NetSpec) -> None:
    """Name inputs and outputs, and rename inner values that have one of these names."""
    inputs = [tensor.name for tensor in spec.inputs]
    outputs = [tensor.name for tensor in spec.outputs]
    inner = [*graph.initializers.values(), *(o for node in graph for o in node.outputs)]
    for value in inner:
        if value.name in (*inputs, *outputs):
            value.name += "_inner"
    for values, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        for value, name in zip(values, names, strict=True):
            value.name = name


def _strip(model: Any) -> None:
    """Remove metadata about each operator's origin: it contains local paths, which would change the
    digest of the file."""
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
