"""The TensorRT backend: one code path for `tensorrt` (10.13 and newer) and `tensorrt_rtx` (1.4 and
newer), chosen by what lies in the engine folder; abilities are detected, versions never compared.

Each profile has its own execution context, whose shapes are set once; all contexts of all networks
share one arena of scratch memory, because calls are serial; a CUDA graph per profile replays the
second and every later call. Nothing here waits for the GPU between calls.

The graph is captured by us in both products, rather than by the RTX runtime's own whole-graph
strategy: that one exists for shapes that change, ours never do, and one way to capture is one way
to test. So the RTX strategy is off, and never are two graphs captured inside each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.backends.engine_folder import EngineFolder, check_batch, numbered, read_verified
from engine.backends.tensorrt.contexts import (
    Contexts,
    failure,
    invalid_reason,
    make_runtime,
    read_plan,
)
from engine.backends.tensorrt.plan import (
    PRODUCTS,
    Host,
    RuntimeCache,
    arena_bytes,
    check_plan,
    misfit,
)
from engine.backends.tensorrt.profile import Arena, ExecutionStream, Profile
from engine.errors import EngineMismatch
from engine.manifest import Entry, Format
from engine.netspec import NetSpec, Size


class TensorRTNetworks:
    """Every network of one engine folder in TensorRT; engines are loaded when first needed."""

    name = "tensorrt"

    def __init__(
        self, trt: Any, folder: EngineFolder, host: Host, device: torch.device, cuda_graphs: bool
    ) -> None:
        self.device = device
        self.folder = folder
        self.host = host
        self.sizes: tuple[Size, ...] | None = _fitting(folder, host).sizes
        self._trt = trt
        self._runtime = make_runtime(trt)
        self._lane = ExecutionStream(Arena(device), torch.cuda.Stream(device), cuda_graphs)
        self._backends: dict[tuple[str, tuple[int, ...]], TensorRTBackend] = {}

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        digests: Mapping[str, str] | None = None,
        device: str | None = None,
        pin_batch_size: int | None = None,
        cuda_graphs: bool = True,
    ) -> TensorRTNetworks:
        """Open an engine folder; loads no engine yet.

        Args:
            folder: what `diffedit-trt build` wrote.
            digests: part -> sha256 of the checkpoint in use. None compares nothing, and lets an
                unfinished folder pass: a build checks its single networks so.
            device: "cuda" or "cuda:1"; None takes torch's current one.
            pin_batch_size: the only profile to run in.
            cuda_graphs: capture each profile at its second call and replay it from then on.

        Raises:
            EngineMismatch: no GPU, no TensorRT, or engines of another model, version or GPU.
        """
        opened = EngineFolder.open(
            folder, tuple(PRODUCTS), digests=digests, pin_batch_size=pin_batch_size
        )
        place = cuda_device(device)
        mine, trt, host = choose_product(opened, place)
        if digests is not None:
            _fitting(mine, host).require_complete()
        return cls(trt, mine, host, place, cuda_graphs)

    def find(self, net: str, shape: tuple[int, ...]) -> TensorRTBackend:
        key = (net, tuple(shape))
        if key not in self._backends:
            entry = self.folder.entry(*key)
            with torch.cuda.device(self.device):
                self._backends[key] = self._load(entry)
        return self._backends[key]

    def describe(self) -> str:
        product = PRODUCTS[self.host.product][1]
        return f"{product} {self.host.version} on {self.host.gpu}, {self.folder.precisions}"

    def close(self) -> None:
        """Wait for what is running, keep the runtime caches, and free engines and memory."""
        with torch.cuda.device(self.device):
            torch.cuda.synchronize()
            for backend in self._backends.values():
                backend.close()
            self._backends.clear()
            self._lane.arena.free()

    def _load(self, entry: Entry) -> TensorRTBackend:
        engine = self._deserialize(entry)
        plan = read_plan(self._trt, engine)
        indices = check_plan(plan, entry.spec, self.folder.path / entry.files[0].name)
        self._lane.arena.reserve(arena_bytes(plan))
        contexts = Contexts(self._trt, engine, RuntimeCache(entry, self.folder.path))
        return TensorRTBackend(entry.spec, indices, contexts, self._lane)

    def _deserialize(self, entry: Entry) -> Any:
        """Make an engine of bytes whose target, origin and digest were checked first."""
        file = self.folder.path / entry.files[0].name
        command = self.folder.command(entry.spec.size)
        reason = misfit(entry, self.host)
        if reason:
            raise EngineMismatch(f"{file} {reason}; rebuild with: {command}")
        plan = read_verified(entry, self.folder.path)
        reason = invalid_reason(self._trt, self._runtime, plan)
        if reason:
            raise EngineMismatch(f"{file} does not run here ({reason}); rebuild with: {command}")
        torch.cuda.empty_cache()  # the weights come from outside torch's share of the memory
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            remedy = f"delete the file and run: {command}"
            raise failure(self._trt, f"{file} cannot be loaded", remedy)
        return engine


class TensorRTBackend:
    """One engine: a `Profile` for each batch size, made at its first call."""

    def __init__(
        self, spec: NetSpec, indices: Mapping[int, int], contexts: Contexts, lane: ExecutionStream
    ) -> None:
        self.spec = spec
        self.device = lane.arena.device
        self._indices = indices
        self._contexts = contexts
        self._lane = lane
        self._profiles: dict[int, Profile] = {}

    def __call__(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        inputs = [batch[tensor.name] for tensor in self.spec.inputs]
        size = len(inputs[0])
        with torch.cuda.device(self.device):
            if size not in self._profiles:
                check_batch(self.spec, inputs, self.device)
                self._profiles[size] = Profile(
                    self.spec, size, self._indices[size], self._contexts, self._lane
                )
            return (self._profiles[size](inputs),)

    def close(self) -> None:
        """Graphs and contexts go before the engine they belong to."""
        self._contexts.save_cache()
        self._profiles.clear()
        self._contexts.close()


def choose_product(folder: EngineFolder, device: torch.device) -> tuple[EngineFolder, Any, Host]:
    """The first product whose engines are there, whose package is installed, and whose engines fit
    this machine; raises the first EngineMismatch in the way where there is none."""
    problems = []
    for product in folder.formats:
        mine = folder.only(product)
        if not mine.entries:
            continue
        try:
            trt = load_module(product)
        except EngineMismatch as error:
            problems.append(error)
            continue
        host = read_host(product, trt, device)
        reasons = [misfit(entry, host) for entry in mine.entries]
        if not all(reasons):
            return mine, trt, host
        file = mine.path / mine.entries[0].files[0].name
        problems.append(EngineMismatch(f"{file} {reasons[0]}; rebuild with: {mine.command()}"))
    raise problems[0]


def load_module(product: Format) -> Any:
    """Import the package of a product; raises EngineMismatch if it is missing or too old."""
    module, name = PRODUCTS[product]
    try:
        trt = _import(product)
    except (ImportError, OSError, RuntimeError) as error:
        extra = "gpu" if product == "tensorrt" else "rtx"
        reason = str(error).strip().split("\n")[0]
        raise EngineMismatch(
            f"The engines are for {name}, whose package {module} cannot be imported ({reason}); "
            f"install it with: pip install 'diffedit-trt[{extra}]'"
        ) from error
    if not hasattr(trt.ICudaEngine, "get_device_memory_size_for_profile_v2"):
        floor = "10.13" if product == "tensorrt" else "1.4"
        raise EngineMismatch(
            f"{name} {trt.__version__} is too old; install {floor} or newer and build again."
        )
    return trt


def _import(product: Format) -> Any:
    if product == "tensorrt":
        import tensorrt

        return tensorrt
    import tensorrt_rtx

    return tensorrt_rtx


def cuda_device(device: str | None) -> torch.device:
    """The GPU to run on; raises EngineMismatch, saying why, where there is none."""
    place = torch.device(device or "cuda")
    if place.type != "cuda":
        raise EngineMismatch(f"TensorRT runs on NVIDIA GPUs only, not on {place}.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        cpu_only = torch.version.cuda is None
        why = "this PyTorch has no CUDA" if cpu_only else "none with a working driver was found"
        raise EngineMismatch(
            f"TensorRT engines need an NVIDIA GPU, and {why}; use backend='onnxruntime' or "
            "backend='torch' here."
        )
    place = numbered(place)
    if place.index >= count:
        raise EngineMismatch(f"There is no {place}: this machine has {count} GPU(s).")
    return place


def read_host(product: Format, trt: Any, device: torch.device) -> Host:
    """What engines are compared with."""
    return Host(
        product=product,
        version=str(trt.__version__),
        gpu=torch.cuda.get_device_name(device),
        compute_capability=torch.cuda.get_device_capability(device),
    )


def _fitting(folder: EngineFolder, host: Host) -> EngineFolder:
    """The folder without the engines that were built for another machine."""
    entries = tuple(entry for entry in folder.entries if misfit(entry, host) is None)
    return replace(folder, manifest=replace(folder.manifest, entries=entries))
