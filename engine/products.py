"""The runtimes of compiled networks and the compute capabilities they are built for.

One table has the Python module, the name, the pip extra and the oldest supported version of each
runtime. Standard library only: this module imports no runtime.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from engine.manifest import Format

TensorRTFormat = Literal["tensorrt", "tensorrt-rtx"]
ComputeCapability = tuple[int, int]
"""(major, minor), as CUDA reports it."""


@dataclass(frozen=True)
class Product:
    """One runtime.

    Attributes:
        format: the format of its files in a manifest.
        module: the Python module.
        title: the name shown to users.
        extra: the extra of this project that installs it.
        oldest: the oldest supported version, (major, minor).
        how_to_install: a short instruction for users who build engines.
    """

    format: Format
    module: str
    title: str
    extra: str
    oldest: tuple[int, int]
    how_to_install: str

    @property
    def pip_install(self) -> str:
        """The command that installs the runtime as an extra of this project."""
        return f"pip install -e '.[{self.extra}]' -c constraints.txt, in a clone of this project"

    @property
    def oldest_version(self) -> str:
        """The oldest supported version as text, such as "10.13"."""
        return ".".join(map(str, self.oldest))

    @property
    def installed(self) -> bool:
        """Whether the module can be found; does not import it."""
        return find_spec(self.module) is not None


PRODUCTS: dict[str, Product] = {
    product.format: product
    for product in (
        Product(
            format="onnx",
            module="onnxruntime",
            title="ONNX Runtime",
            extra="onnx",
            oldest=(1, 22),
            how_to_install="pip install onnxruntime",
        ),
        Product(
            format="tensorrt",
            module="tensorrt",
            title="TensorRT",
            extra="gpu",
            oldest=(10, 13),
            how_to_install=(
                "its builder comes from NVIDIA's own package index, see NVIDIA's install guide"
            ),
        ),
        Product(
            format="tensorrt-rtx",
            module="tensorrt_rtx",
            title="TensorRT for RTX",
            extra="rtx",
            oldest=(1, 4),
            how_to_install="pip install tensorrt-rtx",
        ),
    )
}
"""Format -> runtime."""

TENSORRT_FORMATS: tuple[TensorRTFormat, ...] = ("tensorrt", "tensorrt-rtx")
"""The formats of the TensorRT backend in order of preference."""


def parse_compute_capability(text: str) -> ComputeCapability:
    """Return (8, 6) for "8.6", "86", "sm_86" or "SM86". Raises ValueError for anything else."""
    match = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", text.strip().lower())
    if not match:
        raise ValueError(f"a compute capability is a number such as 8.9, not {text!r}")
    return int(match[1]), int(match[2])


def format_compute_capability(capability: ComputeCapability) -> str:
    """Return "8.6" for (8, 6)."""
    return "{}.{}".format(*capability)


def sm_name(capability: ComputeCapability) -> str:
    """Return TensorRT's name of a compute capability: "SM86" for (8, 6)."""
    return "SM{}{}".format(*capability)
