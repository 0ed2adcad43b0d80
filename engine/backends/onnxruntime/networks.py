"""The ONNX Runtime backend: the networks of an engine folder on a CPU or a GPU.

Inputs and outputs are bound to the addresses of PyTorch tensors, so calls do not copy them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.backends import Details
from engine.backends.engine_folder import EngineFolder
from engine.backends.onnxruntime import memory
from engine.backends.onnxruntime.external_data import check_external_data
from engine.backends.onnxruntime.session import (
    choose_device,
    execution_providers,
    import_onnxruntime,
    load_session,
    session_options,
)
from engine.backends.tensor_checks import check_batch
from engine.cuda import (
    ExecutionStream,
    cuda_device,
    device_queue,
    give_back_memory,
    wait_for,
)
from engine.dtypes import TORCH_DTYPES
from engine.manifest import Entry
from engine.netspec import NetSpec, Size

OUT_OF_MEMORY = ("allocate memory", "out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED")
"""Parts of the messages of ONNX Runtime, cuBLAS and cuDNN; there is no type for this error."""


class OnnxNetworks:
    """All networks of one engine folder in ONNX Runtime. A session is loaded at its first use."""

    name = "onnxruntime"

    def __init__(
        self, ort: Any, folder: EngineFolder, device: torch.device, *, allow_tf32: bool = False
    ) -> None:
        self.device = device
        self.queue = device_queue(device)
        self.folder = folder
        self.sizes: tuple[Size, ...] | None = folder.sizes
        self._ort = ort
        self._allow_tf32 = allow_tf32
        self._stream = ExecutionStream(device) if device.type == "cuda" else None
        self._backends: dict[tuple[str, tuple[int, ...]], OnnxBackend] = {}

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        digests: Mapping[str, str] | None = None,
        device: str | None = None,
        pin_batch_size: int | None = None,
        allow_tf32: bool = False,
    ) -> OnnxNetworks:
        """Open an engine folder; loads no network yet.

        Args:
            folder: the output of `diffedit-trt build`.
            digests: part -> sha256 of the checkpoint in use. None skips the comparison and accepts
                an unfinished folder; the build verifies single networks this way.
            device: "cpu", "cuda" or "cuda:1"; None is CUDA if PyTorch and ONNX Runtime support it.
            pin_batch_size: the only batch size to run.
            allow_tf32: on CUDA, compute in TF32 where the precision is fp32.

        Raises:
            EngineMismatch: the folder, the model or the device does not fit.
        """
        opened = EngineFolder.open(folder, ["onnx"], digests=digests, pin_batch_size=pin_batch_size)
        if digests is not None:
            opened.require_complete()
        ort = import_onnxruntime()
        chosen = choose_device(device, ort.get_available_providers(), torch.cuda.is_available())
        if chosen.type == "cuda":
            chosen = cuda_device(str(chosen), "ONNX Runtime")
            if hasattr(ort, "preload_dlls"):
                ort.preload_dlls()  # the CUDA and cuDNN libraries that PyTorch installed
        return cls(ort, opened, chosen, allow_tf32=allow_tf32)

    def find(self, net: str, shape: tuple[int, ...]) -> OnnxBackend:
        key = (net, tuple(shape))
        if key not in self._backends:
            entry = self.folder.entry(*key)
            spec = entry.spec
            if self.device.type == "cpu" and self.folder.pin is None:
                spec = memory.limited(spec, sum(file.bytes for file in entry.files))
            session = self._load(entry)
            self._backends[key] = OnnxBackend(self._ort, session, spec, self.device, self._stream)
        return self._backends[key]

    def describe(self) -> str:
        if self.device.type == "cuda":
            device = torch.cuda.get_device_name(self.device)
        else:
            device = f"cpu, {torch.get_num_threads()} threads"
        return f"onnxruntime {self._ort.__version__} on {device}, {self.folder.precisions}"

    def details(self) -> Details:
        return self.folder.details

    def close(self) -> None:
        if self._stream is not None:
            wait_for(self.device)
        self._backends.clear()
        if self._stream is not None:
            give_back_memory(self.device)

    def _load(self, entry: Entry) -> Any:
        """Check every byte and every reference of the file, then load it."""
        path = entry.verified(self.folder.path)
        check_external_data(path, [file.name for file in entry.files])
        options = session_options(self._ort, deterministic=self.folder.pin is not None)
        stream = self._stream.handle if self._stream else 0
        providers = execution_providers(
            self.device,
            stream,
            allow_tf32=self._allow_tf32,
            deterministic=self.folder.pin is not None,
        )
        with self._stream.running() if self._stream else contextlib.nullcontext():
            return load_session(
                self._ort, path, entry.spec, self.device, options=options, providers=providers
            )


class OnnxBackend:
    """One session. The binding of a batch size is kept while the same input tensors are passed."""

    def __init__(
        self,
        ort: Any,
        session: Any,
        spec: NetSpec,
        device: torch.device,
        stream: ExecutionStream | None,
    ) -> None:
        self.spec = spec
        self.device = device
        self._session = session
        self._stream = stream
        self._options = ort.RunOptions()
        if stream is not None:  # events order the streams, so the host need not wait
            self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._outputs: dict[int, tuple[Tensor, ...]] = {}
        self._bindings: dict[int, tuple[tuple[int, ...], Any]] = {}

    def __call__(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        inputs = [batch[tensor.name] for tensor in self.spec.inputs]
        size = len(inputs[0])
        addresses = tuple(tensor.data_ptr() for tensor in inputs)
        binding = self._bindings.get(size)
        if binding is None or binding[0] != addresses:
            binding = self._bindings[size] = addresses, self._bind(inputs)
        self._run(binding[1])
        return self._outputs[size]

    def _bind(self, inputs: Sequence[Tensor]) -> Any:
        """Bind the addresses of the inputs and of all outputs, by name."""
        size = check_batch(self.spec, inputs, self.device)
        if size not in self._outputs:
            self._outputs[size] = self._allocate(size)
        binding = self._session.io_binding()
        for spec, tensor in zip(self.spec.inputs, inputs, strict=True):
            binding.bind_input(spec.name, *_buffer(tensor))
        for spec, tensor in zip(self.spec.outputs, self._outputs[size], strict=True):
            binding.bind_output(spec.name, *_buffer(tensor))
        return binding

    def _allocate(self, size: int) -> tuple[Tensor, ...]:
        return tuple(
            torch.empty((size, *spec.shape), dtype=TORCH_DTYPES[spec.dtype], device=self.device)
            for spec in self.spec.outputs
        )

    def _run(self, binding: Any) -> None:
        try:
            if self._stream is None:
                self._session.run_with_iobinding(binding, self._options)
            else:
                with self._stream.running():
                    self._session.run_with_iobinding(binding, self._options)
        except Exception as error:
            if any(words in str(error) for words in OUT_OF_MEMORY):
                raise torch.OutOfMemoryError(f"onnxruntime, {self.spec.name}: {error}") from error
            raise


def _buffer(tensor: Tensor) -> tuple[str, int, Any, list[int], int]:
    """Return device, device number, dtype, shape and address, as `bind_input` takes them."""
    import numpy as np

    dtype = np.int64 if tensor.dtype == torch.int64 else np.float32
    device = tensor.device
    return device.type, device.index or 0, dtype, list(tensor.shape), tensor.data_ptr()
