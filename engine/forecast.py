"""Predict how much memory a model needs in PyTorch, by part and call, before loading weights.

Weights are counted from the headers of their files, and calls from the configs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.checkpoint import Checkpoint
from engine.errors import ResourceError
from engine.loader import empty_module, quiet
from engine.memory import amount
from engine.models import Part
from engine.netspec import NetSpec, Precision, Size

BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2}
"""Bytes of one number."""
PROGRAM_BYTES = 600_000_000
"""Bytes of Python with PyTorch, diffusers and transformers: 0.5 to 0.6 GB were measured."""
HOW_TO_OVERRIDE = "pass --ignore-memory (ignore_memory=True in Python) to try it anyway"


@dataclass(frozen=True)
class PartMemory:
    """The bytes of one part's weights in the precision in which they are loaded."""

    part: str
    precision: Precision
    weights: int


@dataclass(frozen=True)
class CallMemory:
    """The bytes of one call in addition to the weights, with its inputs and outputs."""

    network: str
    rows: int
    working: int


@dataclass(frozen=True)
class RunForecast:
    """The memory of edits in PyTorch.

    Attributes:
        size: (height, width) of the picture.
        parts: the weights of every part.
        smallest, largest: every network's call with one row and with its largest batch.
        offloaded: parts of which at most one is loaded, and none while other networks run.
    """

    size: Size
    parts: tuple[PartMemory, ...]
    smallest: tuple[CallMemory, ...]
    largest: tuple[CallMemory, ...]
    offloaded: frozenset[str] = field(default_factory=frozenset)

    @property
    def weights(self) -> int:
        """Bytes of all weights that are loaded at once."""
        stay = sum(p.weights for p in self.parts if p.part not in self.offloaded)
        return stay + max((p.weights for p in self.parts if p.part in self.offloaded), default=0)

    @property
    def needed(self) -> int:
        """Minimum bytes for an edit: the weights, and calls of one row."""
        return self.weights + max(call.working for call in self.smallest)

    @property
    def peak(self) -> int:
        """Bytes with calls of the maximum size."""
        return self.weights + max(call.working for call in self.largest)


def forecast_run(
    checkpoint: Checkpoint,
    size: Size,
    precisions: Mapping[str, Precision],
    *,
    offload_text: bool = False,
) -> RunForecast:
    """Predict the memory of edits at one picture size.

    Args:
        precisions: part -> precision.
        offload_text: whether text encoders are unloaded after use.

    Raises CheckpointError if a header or config is damaged.
    """
    parts = tuple(
        weights_of(checkpoint, part, precisions[part.name]) for part in checkpoint.family.parts
    )
    calls = [
        call
        for part in checkpoint.family.parts
        for call in _calls(checkpoint, part, size, precisions[part.name])
    ]
    return RunForecast(
        size,
        parts,
        tuple(one for one, _ in calls),
        tuple(many for _, many in calls),
        text_parts(checkpoint) if offload_text else frozenset(),
    )


def text_parts(checkpoint: Checkpoint) -> frozenset[str]:
    """The parts that hold text encoders."""
    return frozenset(n.part for n in checkpoint.family.networks if n.role == "text_encoder")


def weights_of(checkpoint: Checkpoint, part: Part, precision: Precision) -> PartMemory:
    """The weights of one part."""
    numbers = checkpoint.parameters(part.name)
    return PartMemory(part.name, precision, numbers * BYTES[precision])


def call_memory(
    checkpoint: Checkpoint, specs: Sequence[NetSpec], rows: Sequence[int]
) -> tuple[CallMemory, ...]:
    """One call of each spec, all of networks of one part and in one precision."""
    from engine.dtypes import TORCH_DTYPES
    from engine.working_memory import working_bytes

    part = checkpoint.network(specs[0].name).part
    with quiet():
        module = empty_module(checkpoint, part).to(TORCH_DTYPES[specs[0].precision]).eval()
    return tuple(
        CallMemory(spec.name, n, working_bytes(checkpoint.network(spec.name), module, spec, n))
        for spec, n in zip(specs, rows, strict=True)
    )


def _calls(
    checkpoint: Checkpoint, part: Part, size: Size, precision: Precision
) -> list[tuple[CallMemory, CallMemory]]:
    """The smallest and the largest call of every network of a part."""
    names = [n.name for n in checkpoint.family.networks if n.part == part.name]
    specs = [checkpoint.spec(name, size, precision=precision) for name in names]
    found = call_memory(
        checkpoint, [*specs, *specs], [1] * len(specs) + [spec.max_batch for spec in specs]
    )
    return list(zip(found[: len(specs)], found[len(specs) :], strict=True))


def require_memory(what: str, needed: int, free: int, where: str, fix: str) -> None:
    """Raise ResourceError if `needed` bytes are more than `free`. If `free` is 0, it is unknown.

    Args:
        what: such as "Loading sdxl in fp32".
        where: such as "this machine".
        fix: what to do, as a clause.
    """
    if free and needed > free:
        raise ResourceError(
            f"{what} needs about {amount(needed)} of memory, and {where} has {amount(free)} free; "
            f"{fix}, or {HOW_TO_OVERRIDE}."
        )
