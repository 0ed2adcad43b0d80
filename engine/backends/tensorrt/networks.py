"""The TensorRT backend: the networks of an engine folder, for `tensorrt` and `tensorrt_rtx`.

Each batch size has its own execution context, whose shapes are set once. All contexts share one
stream and one block of scratch memory, because calls run one at a time. From its third call on, a
batch size replays a CUDA graph. The host never waits for the GPU between calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.backends import Details
from engine.backends.engine_folder import EngineFolder, read_verified
from engine.backends.tensor_checks import check_batch
from engine.backends.tensorrt.arena import Arena
from engine.backends.tensorrt.context import ContextFactory
from engine.backends.tensorrt.machine import Machine, fitting, mismatch
from engine.backends.tensorrt.plan import arena_bytes, check_plan, read_plan
from engine.backends.tensorrt.product import choose_product
from engine.backends.tensorrt.profile import Profile, SharedResources
from engine.backends.tensorrt.runtime import deserialize, get_runtime
from engine.backends.tensorrt.runtime_cache import RuntimeCacheFile
from engine.cuda import (
    ExecutionStream,
    cuda_device,
    device_queue,
    give_back_memory,
    wait_for,
)
from engine.cuda_graphs import MAX_GRAPHS, CudaGraphs
from engine.errors import EngineMismatch
from engine.manifest import Entry
from engine.netspec import NetSpec, Size
from engine.products import TENSORRT_FORMATS


class TensorRTNetworks:
    """All networks of one engine folder in TensorRT. An engine is loaded at its first use."""

    name = "tensorrt"

    def __init__(
        self,
        trt: Any,
        folder: EngineFolder,
        machine: Machine,
        device: torch.device,
        cuda_graphs: bool,
    ) -> None:
        self.device = device
        self.queue = device_queue(device)
        self.folder = folder
        self.machine = machine
        self.sizes: tuple[Size, ...] | None = fitting(folder, machine).sizes
        self._trt = trt
        with torch.cuda.device(device):
            get_runtime(trt)  # fail now instead of at the first request
        graphs = CudaGraphs[None](ExecutionStream(device), MAX_GRAPHS if cuda_graphs else 0)
        self._resources = SharedResources(Arena(device), graphs)
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
            folder: the output of `diffedit-trt build`.
            digests: part -> sha256 of the checkpoint in use. None skips the comparison and accepts
                an unfinished folder; the build verifies single networks this way.
            device: "cuda" or "cuda:1"; None is torch's current GPU.
            pin_batch_size: the only batch size to run.
            cuda_graphs: capture each batch size at its second call and replay it afterwards.

        Raises:
            EngineMismatch: no GPU, no TensorRT, or engines of another model, version or GPU.
        """
        opened = EngineFolder.open(
            folder, TENSORRT_FORMATS, digests=digests, pin_batch_size=pin_batch_size
        )
        gpu = cuda_device(device, "TensorRT")
        chosen, trt, machine = choose_product(opened, gpu)
        if digests is not None:
            fitting(chosen, machine).require_complete()
        return cls(trt, chosen, machine, gpu, cuda_graphs)

    def find(self, net: str, shape: tuple[int, ...]) -> TensorRTBackend:
        key = (net, tuple(shape))
        if key not in self._backends:
            entry = self.folder.entry(*key)
            with torch.cuda.device(self.device):
                self._backends[key] = self._load(entry)
        return self._backends[key]

    def describe(self) -> str:
        return f"{self.machine.describe()}, {self.folder.precisions}"

    def details(self) -> Details:
        return self.folder.details

    def close(self) -> None:
        """Wait for running calls, save the runtime caches, and free engines and memory."""
        wait_for(self.device)
        with torch.cuda.device(self.device):
            self._resources.graphs.clear()
            for backend in self._backends.values():
                backend.close()
            self._backends.clear()
            self._resources.arena.free()
        give_back_memory(self.device)

    def _load(self, entry: Entry) -> TensorRTBackend:
        engine = self._deserialize(entry)
        plan = read_plan(self._trt, engine)
        indices = check_plan(plan, entry.spec, self.folder.path / entry.files[0].name)
        self._resources.arena.reserve(arena_bytes(plan))
        cache_file = RuntimeCacheFile(entry, self.folder.path)
        contexts = ContextFactory(self._trt, engine, cache_file)
        return TensorRTBackend(entry.spec, indices, contexts, self._resources)

    def _deserialize(self, entry: Entry) -> Any:
        """Load an engine after its machine, its path and its sha256 were checked."""
        file = self.folder.path / entry.files[0].name
        command = self.folder.command(entry.spec.size)
        reason = mismatch(entry, self.machine)
        if reason:
            raise EngineMismatch(f"{file} {reason}; rebuild with: {command}")
        return deserialize(self._trt, read_verified(entry, self.folder.path), file, command)


class TensorRTBackend:
    """One engine. The `Profile` of a batch size is created at its first call."""

    def __init__(
        self,
        spec: NetSpec,
        indices: Mapping[int, int],
        contexts: ContextFactory,
        resources: SharedResources,
    ) -> None:
        self.spec = spec
        self.device = resources.arena.device
        self._indices = indices
        self._contexts = contexts
        self._resources = resources
        self._profiles: dict[int, Profile] = {}

    def __call__(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        inputs = [batch[tensor.name] for tensor in self.spec.inputs]
        size = len(inputs[0])
        with torch.cuda.device(self.device):
            if size not in self._profiles:
                check_batch(self.spec, inputs, self.device)
                self._profiles[size] = Profile(
                    self.spec, size, self._indices[size], self._contexts, self._resources
                )
            return self._profiles[size](inputs)

    def close(self) -> None:
        """Save the runtime cache and free graphs and contexts before the engine."""
        self._contexts.save_cache()
        self._profiles.clear()
        self._contexts.close()
