"""`NetSpec`: the names, shapes, types and batch profiles of one network at one size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Precision = Literal["fp32", "fp16", "bf16"]
DType = Literal["fp32", "int64"]
Size = tuple[int, int]
"""(height, width) in pixels of the picture that the networks see."""

UNET_BATCH_SIZES = (1, 2, 4, 8, 16, 20)
"""The default profiles: guidance pairs, shared calls, and 2n = 20 rows of one mask."""
OTHER_BATCH_SIZES = (1, 2, 4)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output, as one row has it: the batch axis is not part of `shape`."""

    name: str
    shape: tuple[int, ...]
    dtype: DType = "fp32"


@dataclass(frozen=True)
class NetSpec:
    """One network, once. Every tensor at its border is float32 or int64, whatever its precision:
    the network casts inside, so a row may travel to any backend.

    Attributes:
        name: "text", "vae_encode", "vae_decode" or "unet".
        inputs: in calling order; names are those in the ONNX file.
        output: the single output.
        batch_sizes: the static profiles, ascending.
        precision: of the weights and of the arithmetic inside.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    batch_sizes: tuple[int, ...]
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        sizes = self.batch_sizes
        if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
            raise ValueError(f"batch sizes must ascend from 1 or more without repeats, not {sizes}")

    @property
    def kind(self) -> tuple[str, tuple[int, ...]]:
        """What rows must share to share a call: the network and the shape of its first input."""
        return self.name, self.inputs[0].shape

    @property
    def max_batch(self) -> int:
        return self.batch_sizes[-1]

    def batch_for(self, rows: int) -> int:
        """The smallest profile that holds `rows` rows."""
        return next(b for b in self.batch_sizes if b >= rows)

    def pinned(self, size: int) -> NetSpec:
        """This network with `size` as its only profile, so that no result depends on company.

        A network other than the UNet whose profiles all are smaller runs in its largest one.
        Raises ValueError where there is no such profile.
        """
        if self.name != "unet":
            size = min(size, self.max_batch)
        if size not in self.batch_sizes:
            raise ValueError(f"{self.name} has no profile for batches of {size}")
        return replace(self, batch_sizes=(size,))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NetSpec:
        def tensor(d: Mapping[str, Any]) -> TensorSpec:
            return TensorSpec(d["name"], tuple(d["shape"]), d["dtype"])

        return cls(
            name=data["name"],
            inputs=tuple(tensor(d) for d in data["inputs"]),
            output=tensor(data["output"]),
            batch_sizes=tuple(data["batch_sizes"]),
            precision=data["precision"],
        )


def batch_sizes_for(name: str, unet_sizes: Iterable[int] = UNET_BATCH_SIZES) -> tuple[int, ...]:
    """The profiles of a network: the UNet's own list; for the others 1, 2, 4."""
    return tuple(sorted(set(unet_sizes))) if name == "unet" else OTHER_BATCH_SIZES


def parse_size(text: str) -> Size:
    """A size from "512" or "512x768" (height x width); raises ValueError with a sentence."""
    parts = text.lower().split("x")
    try:
        numbers = [int(p) for p in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or any(n < 1 for n in numbers):
        raise ValueError(f"a size is one number or HEIGHTxWIDTH in pixels, not {text!r}")
    return numbers[0], numbers[-1]
