"""Read the header of a safetensors file, or explain why a file is not one.

A header has the name, dtype, shape and offset of every tensor; no weight is read. Standard library
only.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError

Header = dict[str, dict[str, Any]]
"""Tensor name -> {"dtype", "shape", "data_offsets"}."""

BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 8),
}
"""Bits of one number, by dtype; the sizes of other dtypes are not checked."""
MAX_HEADER = 100_000_000
"""Bytes of the longest header; safetensors has the same limit."""
AGAIN = "copy or download it again"
FOREIGN = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights; run: git lfs pull"),
    (b"PK\x03\x04", "is a pickle or zip file with another name; convert it to safetensors"),
    (b"\x80\x02", "is a pickle with another name; convert it to safetensors"),
    (b"GGUF", "is a GGUF file; use the safetensors checkpoint that it was made from"),
    (b"<!doctype", "is a web page, so its download failed; download it again"),
    (b"<html", "is a web page, so its download failed; download it again"),
)
"""First bytes (text in lower case) of other files with a weight file's name -> what they are."""


def read_header(file: Path) -> Header:
    """Read the header of a safetensors file. Raises CheckpointError if the file is not readable,
    is not a safetensors file, or does not have the length that its header states."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            begin = stream.read(64)
            length = int.from_bytes(begin[:8], "little")
            stream.seek(8)
            data = stream.read(length) if 2 <= length <= min(size - 8, MAX_HEADER) else b""
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read ({error.strerror}); check its permissions and the disk."
        ) from None
    if not data:
        raise CheckpointError(f"{file} {_foreign(begin)}.")
    try:
        header = json.loads(data)
        header.pop("__metadata__", None)
        problem = _layout_problem(header, size - 8 - length)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, IndexError):
        problem = f"is damaged: it is not a safetensors file; {AGAIN}"
    if problem:
        raise CheckpointError(f"{file} {problem}.")
    return dict(header)


def read_metadata(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file whose header was checked; empty without any."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header: dict[str, Any] = json.loads(stream.read(length))
    metadata = header.get("__metadata__")
    return {str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {}


def _foreign(begin: bytes) -> str:
    """Describe a file that does not begin like a safetensors file."""
    if not begin:
        return f"is empty (0 bytes); {AGAIN}"
    known = (what for first, what in FOREIGN if begin.lstrip().lower().startswith(first.lower()))
    return next(known, f"is damaged: it is truncated or not a safetensors file; {AGAIN}")


def _layout_problem(header: Header, there: int) -> str | None:
    """What is wrong with the offsets of the tensors in `there` bytes of data, or None."""
    if not header:
        return f"is damaged: it has no tensors; {AGAIN}"
    spans = sorted((t["data_offsets"] for t in header.values()), key=tuple)
    end = spans[-1][1]
    if end > there:
        return f"is damaged: it is truncated ({there} of {end} bytes of weights); {AGAIN}"
    if end < there:
        return f"is damaged: it has {there - end} bytes after its last tensor; {AGAIN}"
    if spans[0][0] != 0 or any(a[1] != b[0] for a, b in pairwise(spans)):
        return f"is damaged: its tensors overlap or leave gaps; {AGAIN}"
    for name, tensor in header.items():
        first, last = tensor["data_offsets"]
        bits = BITS.get(tensor["dtype"])
        if bits and (last - first) * 8 != math.prod(tensor["shape"]) * bits:
            return f"is damaged: {name} does not have the size of its shape; {AGAIN}"
    return None
