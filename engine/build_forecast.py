"""Predict how much memory each step of a build needs, before it starts.

Weights are counted from the headers of their files, and the other memory of a call on PyTorch's
meta device. The factors come from builds of full-size models (docs/models.md). They are the
smallest measured ones, so that a refused build would not have fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.backends.onnxruntime import memory
from engine.checkpoint import Checkpoint
from engine.forecast import BYTES, PROGRAM_BYTES, call_memory, require_memory
from engine.memory import amount, available
from engine.netspec import NetSpec, Precision, format_size

LOAD_BYTES = 4.6
"""Bytes per parameter while PyTorch loads a part in fp32, computes the reference and casts it: 4.9
for an encoder of 0.7 B parameters and 4.6 for a transformer of 2.5 B, without the pages of the
weight file, which the system can drop."""
COMPILE_SHARE = 3.2
"""Bytes of the compiler's process per byte of the ONNX file: 3.2 for the transformer of Stable
Diffusion 3.5 medium in fp16 (16.0 GB), 3.4 for an encoder of 0.7 B parameters, 4.3 for the U-Net of
Stable Diffusion 1.5 (7.4 GB)."""
COMPILER_BYTES = 300_000_000
"""Bytes of the compiler's process without a network."""


@dataclass(frozen=True)
class BuildForecast:
    """The memory of building one network by step, in bytes; 0 if a step is not done.

    Attributes:
        label: the network and size.
        precision: of the files.
        export: loading, the reference in fp32, and the export to ONNX.
        verify: ONNX Runtime on the CPU with one row.
        compile: the compiler's process, which runs while the weights are not loaded.
    """

    label: str
    parameters: int
    export: int
    verify: int
    compile: int
    precision: Precision

    @property
    def peak(self) -> int:
        """The memory of the step that needs the most."""
        return max(self.export, self.verify, self.compile)

    def __str__(self) -> str:
        steps = (("export", self.export), ("verify", self.verify), ("compile", self.compile))
        figures = ", ".join(f"{step} {amount(size)}" for step, size in steps if size)
        return f"{self.parameters / 1e6:.1f} M parameters in {self.precision}; memory: {figures}"


def forecast_build(
    checkpoint: Checkpoint, specs: Sequence[NetSpec], *, verifies: bool, compiles: bool
) -> tuple[BuildForecast, ...]:
    """Predict the memory of building every network of `specs` in its precision.

    Args:
        verifies: whether ONNX Runtime runs the files on the CPU afterwards.
        compiles: whether engines are built in addition to the ONNX files.
    """
    return tuple(_network(checkpoint, spec, verifies, compiles) for spec in specs)


def require_fit(forecasts: Sequence[BuildForecast]) -> None:
    """Raise ResourceError if a step cannot fit into the memory that is free now.

    A verification that does not fit is skipped and raises no error.
    """
    free = available()
    for one in forecasts:
        fix = "close other programs, or build on a machine with more memory"
        require_memory(f"Exporting the {one.label}", one.export, free, "this machine", fix)
        fix = f"{fix}, or build ONNX files only (--target onnx)"
        require_memory(f"Compiling the {one.label}", one.compile, free, "this machine", fix)


def session_bytes(spec: NetSpec, file_bytes: int) -> int:
    """The memory of ONNX Runtime on a CPU with a call of one row and a file of `file_bytes`."""
    return int(memory.SESSION_SHARE * file_bytes) + memory.working_bytes(spec, 1)


def _network(
    checkpoint: Checkpoint, spec: NetSpec, verifies: bool, compiles: bool
) -> BuildForecast:
    parameters = checkpoint.parameters(checkpoint.network(spec.name).part)
    (reference,) = call_memory(checkpoint, [replace(spec, precision="fp32")], [1])
    file_bytes = parameters * BYTES[spec.precision]
    return BuildForecast(
        label=f"{spec.name} {format_size(spec.size)}" if spec.size else spec.name,
        parameters=parameters,
        export=int(LOAD_BYTES * parameters) + reference.working + PROGRAM_BYTES,
        verify=session_bytes(spec, file_bytes) + PROGRAM_BYTES if verifies else 0,
        compile=int(COMPILE_SHARE * file_bytes) + COMPILER_BYTES if compiles else 0,
        precision=spec.precision,
    )
