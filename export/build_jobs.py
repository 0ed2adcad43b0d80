"""The jobs of a build, one per network and size, and the keys that show whether a file is current.

A key is the sha256 of everything that a file's bytes depend on. A file with an equal key is not
built again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.checkpoint import Checkpoint
from engine.lora.file import Lora
from engine.models import Network
from engine.netspec import MAX_BATCH, NetSpec, Precision, Size, format_size
from export.lora import weights_digest
from export.precisions import Precisions
from export.targets import Target

EXPORT_VERSION = 2
"""Increase it with every change of this package that changes the files it writes."""
OPSET = 18
"""The lowest opset that the exporter writes without a conversion. Opset 23 would export attention
as an operator that TensorRT rejects in fp32 and for the VAE's head size of 512."""
MAX_SIDE = 4096


@dataclass(frozen=True)
class BuildJob:
    """One network at one size.

    Attributes:
        network: the network.
        spec: its NetSpec in the requested precision.
        weights: sha256 of its part's weights with every LoRA fused.
        key: key of the ONNX file.
        parameters: number of weights.
        note: why it is not in the requested precision; else "".
    """

    network: Network
    spec: NetSpec
    weights: str
    key: str
    parameters: int
    note: str = ""

    @property
    def label(self) -> str:
        """Readable: "unet 512x512"."""
        size = f" {format_size(self.spec.size)}" if self.spec.size else ""
        return f"{self.spec.name}{size}"

    def stem(self, precision: Precision) -> str:
        """The file name without its suffix."""
        size = f"-{format_size(self.spec.size)}" if self.spec.size else ""
        return f"{self.spec.name}{size}-{precision}"

    @property
    def file_bytes(self) -> int:
        """Upper estimate of the size of one of its files, in bytes."""
        width = 4 if self.spec.precision == "fp32" else 2
        return int(self.parameters * width * 1.15) + (2 << 20)


def build_jobs(
    checkpoint: Checkpoint,
    sizes: Sequence[Size],
    precisions: Precisions,
    batches: Sequence[int],
    loras: Sequence[Lora],
) -> tuple[BuildJob, ...]:
    """Return every job. At each size, the denoiser is last because it takes longest.

    Raises ValueError if a size or batch is out of range, or a precision is for an unknown part.
    """
    if not batches or min(batches) < 1 or max(batches) > MAX_BATCH:
        raise ValueError(f"batch sizes must be from 1 to {MAX_BATCH}; pass for example 1,2,4")
    for size in sizes:
        if max(size) > MAX_SIDE:
            raise ValueError(
                f"{format_size(size)} is too large; use at most {MAX_SIDE} pixels a side"
            )
    family = checkpoint.family
    precisions.check_parts(family)
    digests = checkpoint.digests()
    counts = {part.name: checkpoint.parameters(part.name) for part in family.parts}
    native = (family.native_size, family.native_size)

    def job(network: Network, size: Size) -> BuildJob:
        precision = precisions.part(family, network.part)
        weights = weights_digest(checkpoint, network.part, digests[network.part], loras)
        spec = checkpoint.spec(
            network.name, size, precision=precision, denoiser_batch_sizes=batches
        )
        key = _digest(network.name, weights, spec.size, precision, OPSET, EXPORT_VERSION)
        note = precisions.note(family, network.part)
        return BuildJob(network, spec, weights, key, counts[network.part], note)

    texts = [n for n in family.networks if n.role == "text_encoder"]
    sized = sorted(
        (n for n in family.networks if n.role != "text_encoder"), key=lambda n: n.role == "denoiser"
    )
    return (
        *(job(network, native) for network in texts),
        *(job(network, size) for size in dict.fromkeys(sizes) for network in sized),
    )


def engine_key(
    job: BuildJob,
    onnx: Sequence[str],
    target: Target,
    batches: Sequence[int],
    capabilities: Sequence[str],
    flags: Sequence[str],
) -> str:
    """The key of an engine compiled from ONNX files with these sha256 digests."""
    return _digest(
        job.key,
        list(onnx),
        [target.product, target.version, target.gpu, target.capability],
        list(batches),
        sorted(capabilities),
        list(flags),
    )


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
