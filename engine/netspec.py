"""`NetSpec`: the names, shapes, types and batch profiles of one network at one picture size.

Sample inputs, ONNX axes, TensorRT profiles and runtime buffers are all derived from it. Standard
library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

Precision = Literal["fp32", "fp16", "bf16"]
DType = Literal["fp32", "int64"]
Role = Literal["text_encoder", "image_encoder", "denoiser", "image_decoder"]
"""The purpose of a network. The denoiser runs many times per edit; the others a few times."""
Size = tuple[int, int]
"""(height, width) in pixels of the networks' picture."""

DENOISER_BATCH_SIZES = (1, 2, 4, 8, 16, 20)
"""The denoiser's default profiles: guidance pairs, shared calls, and the 2n = 20 rows of a mask."""
MAX_BATCH = 256
"""Maximum batch size, because the inputs of a whole batch are allocated before a call."""
OTHER_BATCH_SIZES = (1, 2, 4)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of one row.

    Attributes:
        name: as in the ONNX file.
        shape: without a batch axis.
        dtype: "fp32" or "int64".
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType = "fp32"


@dataclass(frozen=True)
class NetSpec:
    """One network at one picture size.

    Inputs and outputs are float32 or int64 for every precision: the network casts inside, so the
    same row runs on any backend.

    Attributes:
        name: the network's name in its model family, such as "unet".
        role: the network's purpose.
        size: (height, width) of the picture in pixels; None for networks without one.
        inputs: in calling order; the names are those in the ONNX file.
        outputs: one or several.
        batch_sizes: the static profiles, ascending.
        precision: precision of the weights and of the arithmetic inside.
        attention_scores: scores in the largest attention layer, for one row: heads x queries x
            keys. Runtimes that store all scores need memory in proportion.
    """

    name: str
    role: Role
    size: Size | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_sizes: tuple[int, ...]
    precision: Precision = "fp32"
    attention_scores: int = 0

    def __post_init__(self) -> None:
        sizes = self.batch_sizes
        if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
            raise ValueError(f"batch sizes must ascend from 1 or more without repeats, not {sizes}")
        if sizes[-1] > MAX_BATCH:
            raise ValueError(f"a batch size must be at most {MAX_BATCH}, not {sizes[-1]}")

    @property
    def kind(self) -> tuple[str, tuple[int, ...]]:
        """Rows can share a call if their kinds are equal: (name, shape of the first input)."""
        return self.name, self.inputs[0].shape

    @property
    def max_batch(self) -> int:
        """The largest profile."""
        return self.batch_sizes[-1]

    def batch_for(self, rows: int) -> int:
        """The smallest profile with at least `rows` rows."""
        return next(b for b in self.batch_sizes if b >= rows)

    def pinned(self, size: int) -> NetSpec:
        """Return this network with `size` as its only profile, so that results do not depend on
        other requests in the batch.

        If `size` is larger than all profiles of a network that is not the denoiser, its largest
        profile is used. Raises ValueError if there is no such profile.
        """
        if self.role != "denoiser":
            size = min(size, self.max_batch)
        if size not in self.batch_sizes:
            raise ValueError(f"{self.name} has no profile for batches of {size}")
        return replace(self, batch_sizes=(size,))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NetSpec:
        """Build it from the values of `to_json`. Raises KeyError, TypeError or ValueError."""

        def tensor(d: Mapping[str, Any]) -> TensorSpec:
            return TensorSpec(d["name"], tuple(d["shape"]), d["dtype"])

        size = data["size"]
        if data["precision"] not in get_args(Precision) or data["role"] not in get_args(Role):
            raise ValueError(f"there is no {data['precision']!r} {data['role']!r}")
        return cls(
            name=data["name"],
            role=data["role"],
            size=None if size is None else (int(size[0]), int(size[1])),
            inputs=tuple(tensor(d) for d in data["inputs"]),
            outputs=tuple(tensor(d) for d in data["outputs"]),
            batch_sizes=tuple(data["batch_sizes"]),
            precision=data["precision"],
            attention_scores=int(data["attention_scores"]),
        )


def batch_sizes_for(
    role: Role, denoiser_sizes: Iterable[int] = DENOISER_BATCH_SIZES
) -> tuple[int, ...]:
    """The profiles of a network: `denoiser_sizes` for the denoiser, 1, 2 and 4 for the others."""
    return tuple(sorted(set(denoiser_sizes))) if role == "denoiser" else OTHER_BATCH_SIZES


def format_size(size: Size) -> str:
    """HEIGHTxWIDTH: "512x768" for (512, 768)."""
    return f"{size[0]}x{size[1]}"


def parse_size(text: str) -> Size:
    """A size from "512" or "512x768" (height x width). Raises ValueError.

    Examples:
        >>> parse_size("512x768"), parse_size("512")
        ((512, 768), (512, 512))
    """
    parts = text.lower().split("x")
    try:
        numbers = [int(p) for p in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or any(n < 1 for n in numbers):
        raise ValueError(f"a size is one number or HEIGHTxWIDTH in pixels, not {text!r}")
    return numbers[0], numbers[-1]
