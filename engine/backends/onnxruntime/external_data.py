"""Check which weight files an ONNX file reads.

An ONNX file can store its weights in other files, to which it refers by path. Such a path could be
any file that the user can read, so every reference is checked before ONNX Runtime opens the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.backends.onnxruntime.session import package_error
from engine.errors import EngineMismatch, first_line


def check_external_data(path: Path, files: Sequence[str]) -> None:
    """Check that an ONNX file refers only to weight files of its own manifest entry.

    Args:
        path: the ONNX file.
        files: the names of the entry's files, whose digests were checked.

    Raises:
        EngineMismatch: `path` refers to another file, or is not an ONNX file.
    """
    try:
        import onnx
    except (ImportError, OSError) as error:
        raise package_error("onnx", error) from error
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise EngineMismatch(
            f"{path} is not an ONNX file ({first_line(error)}); build again."
        ) from error
    for location in _locations(model, onnx.TensorProto):
        if location not in files or Path(location).name != location:
            raise EngineMismatch(
                f"{path} refers to weights in {location!r}, which its manifest does not list, so "
                "diffedit-trt did not write this file; delete it and build again."
            )


def _locations(model: Any, tensor_type: type) -> Iterator[str]:
    for tensor in _tensors(model, tensor_type):
        yield from (item.value for item in tensor.external_data if item.key == "location")


def _tensors(message: Any, tensor_type: type) -> Iterator[Any]:
    """Yield every tensor of a protobuf message, also those in subgraphs and functions."""
    for _, value in message.ListFields():
        is_repeated = hasattr(value, "__len__") and not isinstance(value, (str, bytes))
        for item in value if is_repeated else (value,):
            if isinstance(item, tensor_type):
                yield item
            elif hasattr(item, "ListFields"):
                yield from _tensors(item, tensor_type)
            else:
                break  # a field of numbers or strings contains no messages
