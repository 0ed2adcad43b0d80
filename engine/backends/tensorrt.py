"""The TensorRT backend: one code path for `tensorrt` (10.13 and newer) and `tensorrt_rtx` (1.4 and
newer), chosen by what lies in the engine folder; abilities are detected, versions never compared.

Each profile has its own execution context, whose shapes are set once; all contexts of all networks
share one arena of scratch memory, because calls are serial; a CUDA graph per profile replays the
second and every later call. Nothing here waits for the GPU between calls.

The graph is captured by us in both products, rather than by the RTX runtime's own whole-graph
strategy: that strategy exists for shapes that change, ours never do, and one way to capture is one
way to test. So the RTX strategy is set to disabled, and kernels are specialised eagerly, so that a
capture never records a fallback kernel.
"""

from __future__ import annotations

import importlib
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.backends.folder import EngineFolder, Found, check_batch, read_verified
from engine.backends.plan import (
    ALIGNMENT,
    BORDER,
    PRODUCTS,
    Host,
    Plan,
    RuntimeCache,
    arena_bytes,
    check_plan,
    misfit,
)
from engine.spec import EngineMismatch, Entry, NetSpec
from engine.spec.manifest import Format

log = logging.getLogger(__name__)


class TensorRTNetworks:
    """Every network of one engine folder in TensorRT; engines are loaded when first needed."""

    name = "tensorrt"

    def __init__(
        self, trt: Any, folder: EngineFolder, host: Host, device: torch.device, cuda_graphs: bool
    ) -> None:
        self.device = device
        self.sizes = folder.sizes
        self.folder = folder
        self.host = host
        self._trt = trt
        self._runtime = make_runtime(trt)
        self._arena = Arena(device)
        self._stream = torch.cuda.Stream(device)
        self._graphs = cuda_graphs
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
            digests: part -> sha256 of the checkpoint in use (None: do not compare).
            device: "cuda" or "cuda:1"; None takes torch's current one.
            pin_batch_size: the only profile to run in.
            cuda_graphs: capture each profile at its second call and replay it from then on.

        Raises:
            EngineMismatch: no GPU, no TensorRT, or engines of another model, version or GPU.
        """
        formats: tuple[Format, ...] = tuple(PRODUCTS)
        opened = EngineFolder.open(folder, formats, digests=digests, pin_batch_size=pin_batch_size)
        place = cuda_device(device)
        problems = []
        for product in formats:
            mine = opened.only(product)
            if not mine.entries:
                continue
            try:
                trt = load_module(product)
            except EngineMismatch as error:
                problems.append(error)
                continue
            host = read_host(product, trt, place)
            reasons = [misfit(entry, host) for entry in mine.entries]
            if all(reasons):
                file = mine.path / mine.entries[0].files[0].name
                problems.append(_stale(file, reasons[0] or "", mine.command()))
                continue
            return cls(trt, mine, host, place, cuda_graphs)
        raise problems[0]

    def find(self, net: str, shape: tuple[int, ...]) -> TensorRTBackend:
        key = (net, tuple(shape))
        if key not in self._backends:
            entry = self.folder.entry(*key)
            with torch.cuda.device(self.device):
                engine = self._deserialize(entry)
                plan = read_plan(self._trt, engine)
                file = self.folder.path / entry.files[0].name
                indices = check_plan(plan, entry.spec, file)
                self._arena.reserve(arena_bytes(plan))
                contexts = Contexts(self._trt, engine, RuntimeCache(entry, self.folder.path))
            self._backends[key] = TensorRTBackend(
                entry.spec, indices, contexts, self._arena, self._stream, cuda_graphs=self._graphs
            )
        return self._backends[key]

    def describe(self) -> str:
        product = PRODUCTS[self.host.product][1]
        return f"{product} {self.host.version} on {self.host.gpu}, {self.folder.precisions}"

    def close(self) -> None:
        """Wait for what is running, keep the runtime caches, and free engines and memory."""
        torch.cuda.synchronize(self.device)
        for backend in self._backends.values():
            backend.close()
        self._backends.clear()
        self._arena.free()

    def _deserialize(self, entry: Entry) -> Any:
        """Make an engine of bytes whose origin, digest and target were checked first."""
        file = self.folder.path / entry.files[0].name
        size = self.folder.size_of(entry.spec.name, entry.spec.inputs[0].shape)
        reason = misfit(entry, self.host)
        if reason:
            raise _stale(file, reason, self.folder.command(size))
        plan = read_verified(entry, self.folder.path)
        reason = invalid_reason(self._trt, self._runtime, plan)
        if reason:
            raise _stale(file, f"does not run here ({reason})", self.folder.command(size))
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineMismatch(
                f"{PRODUCTS[self.host.product][1]} {self.host.version} refuses {file} "
                f"({make_logger(self._trt).tail()}); delete it and run: {self.folder.command(size)}"
            )
        return engine


class TensorRTBackend:
    """One engine: a `Profile` for each batch size, made at its first call."""

    def __init__(
        self,
        spec: NetSpec,
        indices: Mapping[int, int],
        contexts: Contexts,
        arena: Arena,
        stream: torch.cuda.Stream,
        *,
        cuda_graphs: bool,
    ) -> None:
        self.spec = spec
        self.device = arena.device
        self._indices = indices
        self._contexts = contexts
        self._arena = arena
        self._stream = stream
        self._graphs = cuda_graphs
        self._profiles: dict[int, Profile] = {}

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        inputs = [batch[tensor.name] for tensor in self.spec.inputs]
        size = len(inputs[0])
        with torch.cuda.device(self.device):
            if size not in self._profiles:
                check_batch(self.spec, inputs, self.device)
                self._profiles[size] = self._make(size)
            return self._profiles[size](inputs)

    def close(self) -> None:
        """Graphs go before contexts, contexts before the engine."""
        self._contexts.save_cache()
        self._profiles.clear()
        self._contexts.close()

    def _make(self, size: int) -> Profile:
        context = self._contexts.make()
        if not context.set_optimization_profile_async(
            self._indices[size], self._stream.cuda_stream
        ):
            raise self._contexts.error(f"profile {self._indices[size]} cannot be selected")
        return Profile(
            self.spec, size, context, self._contexts, self._arena, self._stream, self._graphs
        )


def load_module(product: Format) -> Any:
    """Import the package of a product; raises EngineMismatch if it is missing or too old."""
    module, name = PRODUCTS[product]
    try:
        trt = importlib.import_module(module)
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


def cuda_device(device: str | None) -> torch.device:
    """The GPU to run on; raises EngineMismatch, saying why, where there is none."""
    place = torch.device(device or "cuda")
    if place.type != "cuda":
        raise EngineMismatch(f"TensorRT runs on NVIDIA GPUs only, not on {place}.")
    if not torch.cuda.is_available():
        why = (
            "this PyTorch was installed without CUDA"
            if torch.version.cuda is None
            else "no NVIDIA GPU with a working driver was found"
        )
        raise EngineMismatch(
            f"TensorRT engines need an NVIDIA GPU, and {why}; use backend='onnxruntime' or "
            "backend='torch' here."
        )
    if place.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    if place.index >= torch.cuda.device_count():
        raise EngineMismatch(f"There is no {place}: {torch.cuda.device_count()} GPU(s) are here.")
    return place


def read_host(product: Format, trt: Any, device: torch.device) -> Host:
    return Host(
        product=product,
        version=str(trt.__version__),
        gpu=torch.cuda.get_device_name(device),
        compute_capability=torch.cuda.get_device_capability(device),
    )


def _stale(file: Path, reason: str, command: str) -> EngineMismatch:
    return EngineMismatch(f"{file} {reason}; rebuild with: {command}")
