"""Read the facts of a deserialized engine ("plan") and compare them with the manifest.

`read_plan` is the only function that calls TensorRT. The others need no GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.backends.tensor_checks import TensorInfo, check_tensors
from engine.backends.tensorrt.arena import aligned
from engine.errors import EngineMismatch
from engine.netspec import NetSpec

DTYPE_NAMES = {"FLOAT": "fp32", "INT64": "int64"}
"""TensorRT's names of the input and output types. (`trt.nptype` raises for bf16.)"""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """The facts of an engine.

    Attributes:
        inputs, outputs: its tensors.
        profiles: for each profile: input name -> (min, opt, max) shape, batch axis included.
        memory: bytes of scratch memory for each profile.
        total_memory: bytes that are enough for every profile.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    profiles: tuple[Mapping[str, tuple[Shape, Shape, Shape]], ...]
    memory: tuple[int, ...]
    total_memory: int


def read_plan(trt: Any, engine: Any) -> Plan:
    """Read the facts of an engine."""
    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(_tensor_info(trt, engine, name))
    profiles = range(engine.num_optimization_profiles)
    return Plan(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        profiles=tuple({t.name: _shapes(engine, t.name, i) for t in inputs} for i in profiles),
        memory=tuple(int(engine.get_device_memory_size_for_profile_v2(i)) for i in profiles),
        total_memory=int(engine.device_memory_size_v2),
    )


def _tensor_info(trt: Any, engine: Any, name: str) -> TensorInfo:
    dtype = engine.get_tensor_dtype(name).name
    if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
        dtype += " in host memory"
    shape = tuple(side if side >= 0 else None for side in engine.get_tensor_shape(name))
    return TensorInfo(name, DTYPE_NAMES.get(dtype, dtype), shape[1:])


def _shapes(engine: Any, name: str, profile: int) -> tuple[Shape, Shape, Shape]:
    low, best, high = engine.get_tensor_profile_shape(name, profile)
    return tuple(low), tuple(best), tuple(high)


def check_plan(plan: Plan, spec: NetSpec, file: Path) -> dict[int, int]:
    """Compare a plan with its manifest; return batch size -> index of its profile.

    Raises EngineMismatch for tensors that differ and for a batch size without a static profile.
    """
    check_tensors(spec, plan.inputs, plan.outputs, file)
    indices: dict[int, int] = {}
    for index, profile in enumerate(plan.profiles):
        for batch in spec.batch_sizes:
            shapes = {tensor.name: (batch, *tensor.shape) for tensor in spec.inputs}
            if all(set(profile.get(name, ())) == {shape} for name, shape in shapes.items()):
                indices.setdefault(batch, index)
    missing = [batch for batch in spec.batch_sizes if batch not in indices]
    if missing:
        raise EngineMismatch(
            f"{file} has no static profile for batches of {', '.join(map(str, missing))}, which "
            "its manifest lists; delete the file and build again."
        )
    return indices


def arena_bytes(plan: Plan) -> int:
    """Return the scratch memory that is enough for each profile, one at a time; at least one block.

    TensorRT needs an address even for a profile without scratch memory.
    """
    return aligned(max((plan.total_memory, *plan.memory, 1)))
