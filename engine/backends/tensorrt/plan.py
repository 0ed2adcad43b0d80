"""What can be said of a TensorRT plan without a GPU: does it fit this machine and its manifest?

`contexts` and `networks` read the facts from an engine and a machine into plain objects. The
functions here decide on them without TensorRT, CUDA or state.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.backends.engine_folder import TensorInfo, check_tensors
from engine.cache_dir import user_cache
from engine.errors import EngineMismatch
from engine.manifest import Entry, Format, Toolchain
from engine.netspec import NetSpec

log = logging.getLogger(__name__)

PRODUCTS: dict[Format, tuple[str, str]] = {
    "tensorrt": ("tensorrt", "TensorRT"),
    "tensorrt-rtx": ("tensorrt_rtx", "TensorRT for RTX"),
}
"""Format -> (module, name for people), the preferred one first."""

BORDER = {"FLOAT": "fp32", "INT64": "int64"}
"""TensorRT's names of the types a border may have. (Its own `nptype` knows no bf16 and raises.)"""

ALIGNMENT = 256
"""Bytes: what `set_device_memory` asks for."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Host:
    """The machine and the runtime at hand.

    Attributes:
        product: "tensorrt" or "tensorrt-rtx".
        version: of that package, in full.
        gpu: the device's name as CUDA gives it.
        compute_capability: (major, minor).
    """

    product: Format
    version: str
    gpu: str
    compute_capability: tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """What a deserialised engine says of itself.

    Attributes:
        inputs, outputs: its border.
        profiles: for each profile: input name -> (min, opt, max) shape, batch axis included.
        memory: bytes of scratch memory for each profile.
        total_memory: bytes that hold every profile.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    profiles: tuple[Mapping[str, tuple[Shape, Shape, Shape]], ...]
    memory: tuple[int, ...]
    total_memory: int


def misfit(entry: Entry, host: Host) -> str | None:
    """How the machine differs from the one an engine was built for; None where it fits.

    Plans of `tensorrt` belong to one exact version and one GPU; those of `tensorrt-rtx` to one
    exact version and to every compute capability they were built for. Facts that the manifest does
    not state are left to the runtime's own checks.
    """
    built = entry.built_with
    product = PRODUCTS[host.product][1]
    differences = []
    version = built.version
    if version and version != host.version:
        differences.append((f"{product} {version}", f"{product} {host.version}"))
    capabilities = _capabilities(built)
    if capabilities and host.compute_capability not in capabilities:
        differences.append(
            (f"compute capability {_dotted(*capabilities)}", f"{_dotted(host.compute_capability)}")
        )
    if host.product == "tensorrt" and built.gpu and built.gpu != host.gpu:
        differences.append((built.gpu, host.gpu))
    if not differences:
        return None
    built_for, here = (" and ".join(side) for side in zip(*differences, strict=True))
    return f"was built for {built_for}, and here is {here}"


def check_plan(plan: Plan, spec: NetSpec, file: Path) -> dict[int, int]:
    """Compare a plan with its manifest; returns batch size -> index of the profile that runs it.

    Raises EngineMismatch for a border that differs or a batch size without a static profile.
    """
    check_tensors(spec, plan.inputs, plan.outputs, file)
    indices: dict[int, int] = {}
    for index, profile in enumerate(plan.profiles):
        for batch in spec.batch_sizes:
            wanted = {tensor.name: (batch, *tensor.shape) for tensor in spec.inputs}
            if all(set(profile.get(name, ())) == {shape} for name, shape in wanted.items()):
                indices.setdefault(batch, index)
    missing = [batch for batch in spec.batch_sizes if batch not in indices]
    if missing:
        raise EngineMismatch(
            f"{file} has no static profile for batches of {', '.join(map(str, missing))}, which "
            "its manifest promises; delete the file and build again."
        )
    return indices


def arena_bytes(plan: Plan) -> int:
    """Scratch memory that serves any profile of a plan, one at a time: a whole number of blocks of
    `ALIGNMENT` bytes, and never none, since an address is wanted even for nothing."""
    most = max((plan.total_memory, *plan.memory, 1))
    return -(-most // ALIGNMENT) * ALIGNMENT


def compute_capability(text: str) -> tuple[int, int]:
    """(8, 6) from "8.6", "86", "sm_86" or "SM86"; raises ValueError."""
    found = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", text.strip().lower())
    if not found:
        raise ValueError(f"{text!r} is no compute capability such as 8.6")
    return int(found[1]), int(found[2])


def _capabilities(built: Toolchain) -> list[tuple[int, int]]:
    """Those an engine was built for: one for `tensorrt`, any number for `tensorrt-rtx`."""
    found = []
    for text in built.compute_capabilities:
        with contextlib.suppress(ValueError):  # "current": the runtime will know
            found.append(compute_capability(text))
    return found


def _dotted(*capabilities: tuple[int, int]) -> str:
    return " or ".join(f"{major}.{minor}" for major, minor in capabilities)


class RuntimeCache:
    """The file in which TensorRT for RTX keeps what it compiled for the GPU at hand.

    It lies beside the engine, or in the user's cache folder where that cannot be written. It bears
    its own sha256 and the engine's: a damaged one, or one of another engine, is not used. That does
    not make a foreign one safe; the runtime checks version, GPU and driver before it takes it.
    """

    def __init__(self, entry: Entry, folder: Path) -> None:
        main = entry.files[0]
        self._engine = main.sha256
        self.path = folder / f"{main.name}.cache"
        if not os.access(folder, os.W_OK):
            self.path = user_cache() / f"{main.sha256}.cache"
        self._known = b""

    def load(self) -> bytes | None:
        """What was saved, if it is whole and belongs to this engine."""
        try:
            if self.path.is_symlink():
                return None
            data = self.path.read_bytes()
        except OSError:
            return None
        seal, blob = data[:32], data[32:]
        if seal != self._seal(blob):
            log.info("%s is damaged or of another engine; it is made anew", self.path)
            return None
        self._known = seal
        return blob

    def save(self, blob: bytes) -> None:
        """Write atomically if anything is new; a full or read-only disk costs only time later."""
        seal = self._seal(blob)
        if seal == self._known:
            return
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(seal + blob)
            os.replace(temporary, self.path)
            self._known = seal
        except OSError as error:
            log.info("the runtime cache could not be written to %s (%s)", self.path, error)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _seal(self, blob: bytes) -> bytes:
        return hashlib.sha256(self._engine.encode() + blob).digest()
