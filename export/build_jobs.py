"""What is to be built: one job per network and size, and the keys that say whether it was already.

A key is the sha256 of everything that decides the bytes of a file; equal keys, nothing to do.
Standard library and `engine.spec` only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.checkpoint import NETWORKS, Checkpoint
from engine.netspec import NetSpec, Precision, Size
from export.hub import PARTS, parameters
from export.lora import Lora, weights_digest
from export.targets import Target

EXPORT_VERSION = 1
"""Raise it with every change of this package that changes what it writes."""
OPSET = 18
"""The lowest that the exporter writes without a conversion; 23 would turn attention into an
operator that TensorRT refuses in fp32 and for the VAE's head size of 512."""
MAX_SIDE = 4096
MAX_BATCH = 256


@dataclass(frozen=True)
class BuildJob:
    """One network at one size.

    Attributes:
        spec: in the precision that was asked for.
        size: None for the text encoder, which has none.
        weights: sha256 of its part's weights with every LoRA fused.
        key: of the ONNX file.
        parameters: how many weights it has.
    """

    spec: NetSpec
    size: Size | None
    weights: str
    key: str
    parameters: int

    @property
    def part(self) -> str:
        return NETWORKS[self.spec.name].part

    @property
    def label(self) -> str:
        """For people: "unet 512x512"."""
        return f"{self.spec.name} {_by(self.size)}" if self.size else self.spec.name

    def stem(self, precision: Precision) -> str:
        """The file name without its ending."""
        size = f"-{_by(self.size)}" if self.size else ""
        return f"{self.spec.name}{size}-{precision}"

    @property
    def file_bytes(self) -> int:
        """A generous estimate of what one of its files takes on the disk."""
        width = 4 if self.spec.precision == "fp32" else 2
        return int(self.parameters * width * 1.15) + (2 << 20)


def jobs(
    checkpoint: Checkpoint,
    sizes: Sequence[Size],
    precision: Precision,
    batches: Sequence[int],
    loras: Sequence[Lora],
) -> tuple[BuildJob, ...]:
    """Every job, the cheap ones first. Raises ValueError where a size or batch is out of range."""
    if not batches or min(batches) < 1 or max(batches) > MAX_BATCH:
        raise ValueError(f"batch sizes must lie between 1 and {MAX_BATCH}")
    for size in sizes:
        if max(size) > MAX_SIDE:
            raise ValueError(f"{_by(size)} is too large: no side may exceed {MAX_SIDE} pixels")
    digests = {part: checkpoint.digest(part) for part in PARTS}
    counts = {part: parameters(checkpoint, part) for part in PARTS}

    def job(name: str, size: Size | None) -> BuildJob:
        part = NETWORKS[name].part
        weights = weights_digest(digests[part], part, loras)
        spec = checkpoint.spec(
            name,
            size or (checkpoint.native_size,) * 2,
            precision=precision,
            unet_batch_sizes=batches,
        )
        key = _digest(name, weights, size, precision, OPSET, EXPORT_VERSION)
        return BuildJob(spec, size, weights, key, counts[part])

    sized = [(name, size) for size in dict.fromkeys(sizes) for name in NETWORKS if name != "text"]
    return (job("text", None), *(job(name, size) for name, size in sized))


def engine_key(
    job: BuildJob,
    onnx: Sequence[str],
    target: Target,
    batches: Sequence[int],
    capabilities: Sequence[str],
    flags: Sequence[str],
) -> str:
    """The key of an engine made from ONNX files of these sha256s."""
    return _digest(
        job.key,
        list(onnx),
        [target.product, target.version, target.gpu, target.capability],
        list(batches),
        sorted(capabilities),
        list(flags),
    )


def _by(size: Size | None) -> str:
    return "{}x{}".format(*size) if size else ""


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
