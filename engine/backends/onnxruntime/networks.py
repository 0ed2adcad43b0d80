"""The onnxruntime backend: the exported ONNX files, on a CPU or through CUDA.

One code path for both: inputs and outputs are bound to the addresses of torch tensors, so nothing
is copied at the border. It knows files and tensors, not how they were exported.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.backends.engine_folder import (
    EngineFolder,
    TensorInfo,
    check_batch,
    check_tensors,
    numbered,
)
from engine.backends.onnxruntime import memory
from engine.errors import EngineMismatch
from engine.manifest import Entry
from engine.netspec import NetSpec, Size

log = logging.getLogger(__name__)

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
_BORDER = {"tensor(float)": "fp32", "tensor(int64)": "int64"}


class OnnxNetworks:
    """Every network of one engine folder in onnxruntime; sessions are made when first needed."""

    name = "onnxruntime"

    def __init__(self, ort: Any, folder: EngineFolder, device: torch.device) -> None:
        self.device = device
        self.folder = folder
        self.sizes: tuple[Size, ...] | None = folder.sizes
        self._ort = ort
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._backends: dict[tuple[str, tuple[int, ...]], OnnxBackend] = {}

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        digests: Mapping[str, str] | None = None,
        device: str | None = None,
        pin_batch_size: int | None = None,
    ) -> OnnxNetworks:
        """Open an engine folder; loads no network yet.

        Args:
            folder: what `diffedit-trt build` wrote.
            digests: part -> sha256 of the checkpoint in use. None compares nothing, and lets an
                unfinished folder pass: a build checks its single networks so.
            device: "cpu", "cuda", "cuda:1"; None takes CUDA where torch and onnxruntime have it.
            pin_batch_size: the only profile to run in.

        Raises:
            EngineMismatch: the folder, the model or the device does not fit, in one sentence.
        """
        opened = EngineFolder.open(folder, ["onnx"], digests=digests, pin_batch_size=pin_batch_size)
        if digests is not None:
            opened.require_complete()
        ort = _onnxruntime()
        place = choose_device(device, ort.get_available_providers(), torch.cuda.is_available())
        if place.type == "cuda" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # the CUDA and cuDNN libraries that torch brought along
        return cls(ort, opened, numbered(place))

    def find(self, net: str, shape: tuple[int, ...]) -> OnnxBackend:
        key = (net, tuple(shape))
        if key not in self._backends:
            entry = self.folder.entry(*key)
            spec = entry.spec
            if self.device.type == "cpu" and self.folder.pin is None:
                spec = memory.limited(spec, sum(file.bytes for file in entry.files))
            session = self._session(entry)
            self._backends[key] = OnnxBackend(self._ort, session, spec, self.device, self._stream)
        return self._backends[key]

    def describe(self) -> str:
        if self.device.type == "cuda":
            where = torch.cuda.get_device_name(self.device)
        else:
            where = f"cpu, {torch.get_num_threads()} threads"
        return f"onnxruntime {self._ort.__version__} on {where}, {self.folder.precisions}"

    def close(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()
        self._backends.clear()

    def _session(self, entry: Entry) -> Any:
        """Check every byte and every reference of the file, then load it."""
        path = entry.verified(self.folder.path)
        check_external_data(path, [file.name for file in entry.files])
        options = session_options(self._ort, pinned=self.folder.pin is not None)
        providers = provider_list(self.device, self._stream.cuda_stream if self._stream else 0)
        try:
            session = self._ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:
            raise EngineMismatch(_cannot_load(path, entry.spec, self.device, error)) from error
        if self.device.type == "cuda" and CUDA not in session.get_providers():
            raise EngineMismatch(
                f"onnxruntime {self._ort.__version__} could not start CUDA on {self.device} (it "
                "needs the CUDA and cuDNN libraries of its own version); install the matching "
                "onnxruntime-gpu, or pass device='cpu'."
            )
        found = [
            [_found(a) for a in args] for args in (session.get_inputs(), session.get_outputs())
        ]
        check_tensors(entry.spec, found[0], found[1], path)
        return session


class OnnxBackend:
    """One session. Bindings are kept per batch size while the same input tensors come again."""

    def __init__(
        self,
        ort: Any,
        session: Any,
        spec: NetSpec,
        device: torch.device,
        stream: torch.cuda.Stream | None,
    ) -> None:
        self.spec = spec
        self.device = device
        self._session = session
        self._stream = stream
        self._options = ort.RunOptions()
        if stream is not None:  # order is kept by the streams; the host need not wait
            self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._outputs: dict[int, Tensor] = {}
        self._bound: dict[int, tuple[tuple[int, ...], Any]] = {}

    def __call__(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        inputs = [batch[tensor.name] for tensor in self.spec.inputs]
        size = len(inputs[0])
        addresses = tuple(tensor.data_ptr() for tensor in inputs)
        bound = self._bound.get(size)
        if bound is None or bound[0] != addresses:
            bound = self._bound[size] = addresses, self._bind(inputs)
        self._run(bound[1])
        return (self._outputs[size],)

    def _bind(self, inputs: Sequence[Tensor]) -> Any:
        """Tell onnxruntime where the inputs lie and where the output goes."""
        size = check_batch(self.spec, inputs, self.device)
        if size not in self._outputs:
            shape = (size, *self.spec.outputs[0].shape)
            self._outputs[size] = torch.empty(shape, dtype=torch.float32, device=self.device)
        binding = self._session.io_binding()
        for spec, tensor in zip(self.spec.inputs, inputs, strict=True):
            binding.bind_input(spec.name, *_place(tensor))
        binding.bind_output(self.spec.outputs[0].name, *_place(self._outputs[size]))
        return binding

    def _run(self, binding: Any) -> None:
        try:
            if self._stream is None:
                self._session.run_with_iobinding(binding, self._options)
                return
            current = torch.cuda.current_stream(self.device)
            self._stream.wait_stream(current)
            self._session.run_with_iobinding(binding, self._options)
            current.wait_stream(self._stream)
        except Exception as error:
            if any(words in str(error) for words in ("allocate memory", "out of memory")):
                raise torch.OutOfMemoryError(f"onnxruntime, {self.spec.name}: {error}") from error
            raise


def choose_device(device: str | None, providers: Sequence[str], cuda: bool) -> torch.device:
    """The device to run on; `cuda` says whether torch has a usable GPU.

    Raises EngineMismatch where CUDA is asked for and torch or onnxruntime cannot give it.
    """
    usable = CUDA in providers and cuda
    place = torch.device(device or ("cuda" if usable else "cpu"))
    if place.type == "cuda" and not usable:
        why = (
            "torch finds no NVIDIA GPU here"
            if not cuda
            else "the installed onnxruntime has no CUDA (install onnxruntime-gpu in its place)"
        )
        raise EngineMismatch(f"onnxruntime cannot run on {place}: {why}; or pass device='cpu'.")
    if place.type not in ("cpu", "cuda"):
        raise EngineMismatch(f"The onnxruntime backend runs on cpu or cuda, not on {place}.")
    return place


def session_options(ort: Any, *, pinned: bool) -> Any:
    """As many threads as torch takes (the physical cores, or what OMP_NUM_THREADS says), all graph
    optimisations, one memory arena; threads stop spinning when a call is done, since other sessions
    and torch want the cores then. `pinned` asks for results that are equal to the bit."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = True
    options.use_deterministic_compute = pinned
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # errors; a warning per folded node helps nobody
    return options


def provider_list(device: torch.device, stream: int) -> list[str | tuple[str, dict[str, str]]]:
    """Execution providers, the wanted one first. `stream` is a CUDA stream's handle, not 0: with it
    onnxruntime's kernels are ordered with torch's by events alone."""
    if device.type == "cpu":
        return [CPU]
    options = {
        "device_id": str(device.index or 0),
        "user_compute_stream": str(stream),
        "arena_extend_strategy": "kSameAsRequested",  # leave the rest of the memory to torch
        "use_tf32": "0",  # fp32 engines are asked for where exactness matters
    }
    return [(CUDA, options), CPU]


def check_external_data(path: Path, files: Sequence[str]) -> None:
    """Every weight file an ONNX file refers to must be one of the entry's own (hashed) files.

    Raises EngineMismatch: a reference that leaves the folder could read any file of the user's.
    """
    try:
        import onnx
    except (ImportError, OSError) as error:
        raise EngineMismatch(_not_installed("onnx", error)) from error
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise EngineMismatch(f"{path} is no ONNX file ({_line(error)}); build again.") from error
    for tensor in _tensors(model, onnx.TensorProto):
        for item in tensor.external_data:
            if item.key == "location" and (
                item.value not in files or Path(item.value).name != item.value
            ):
                raise EngineMismatch(
                    f"{path} refers to weights in {item.value!r}, which its manifest does not "
                    "list; the file is not one of ours: delete it and build again."
                )


def _tensors(message: Any, wanted: type) -> Iterator[Any]:
    """Every tensor in a protobuf message, however deep: subgraphs, functions, sparse ones."""
    for _, value in message.ListFields():
        repeated = hasattr(value, "__len__") and not isinstance(value, (str, bytes))
        for item in value if repeated else (value,):
            if isinstance(item, wanted):
                yield item
            elif hasattr(item, "ListFields"):
                yield from _tensors(item, wanted)
            else:
                break  # a field of numbers or strings holds no message further on


def _place(tensor: Tensor) -> tuple[str, int, Any, list[int], int]:
    """What onnxruntime wants to know of a tensor it is to use in place."""
    import numpy as np

    dtype = np.int64 if tensor.dtype == torch.int64 else np.float32
    device = tensor.device
    return device.type, device.index or 0, dtype, list(tensor.shape), tensor.data_ptr()


def _found(argument: Any) -> TensorInfo:
    sides = tuple(side if isinstance(side, int) else None for side in argument.shape[1:])
    return TensorInfo(argument.name, _BORDER.get(argument.type, argument.type), sides)


def _cannot_load(path: Path, spec: NetSpec, device: torch.device, error: Exception) -> str:
    if spec.precision == "bf16" and device.type == "cpu":
        return (
            f"onnxruntime has no bf16 kernels for a CPU, and {path} is in bf16; build with "
            "--precision fp32, or use backend='torch'."
        )
    return f"onnxruntime cannot load {path} ({_line(error)}); delete it and build again."


def _line(error: Exception) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:300]


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        raise EngineMismatch(_not_installed("onnxruntime", error)) from error
    return onnxruntime


def _not_installed(package: str, error: Exception) -> str:
    return (
        f"The onnxruntime backend needs the package {package} ({_line(error)}); install it with: "
        "pip install 'diffedit-trt[onnx]'"
    )
