"""ONNX Runtime sessions: device, execution providers, options and loading.

The caller has checked the digests of the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from engine.backends.tensor_checks import TensorInfo, check_tensors
from engine.errors import EngineMismatch, first_line
from engine.netspec import NetSpec
from engine.products import PRODUCTS

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
DTYPE_NAMES = {"tensor(float)": "fp32", "tensor(int64)": "int64"}
"""ONNX Runtime's names of the input and output types."""


def import_onnxruntime() -> Any:
    """Import the package. Raises EngineMismatch if it is missing."""
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        raise package_error("onnxruntime", error) from error
    return onnxruntime


def choose_device(device: str | None, providers: Sequence[str], cuda: bool) -> torch.device:
    """Return the device to run on.

    Args:
        device: "cpu", "cuda" or "cuda:1"; None is CUDA if PyTorch and ONNX Runtime support it.
        providers: the execution providers of the installed ONNX Runtime.
        cuda: whether PyTorch sees a GPU.

    Raises:
        EngineMismatch: the device is not supported here.
    """
    has_cuda = CUDA in providers and cuda
    chosen = torch.device(device or ("cuda" if has_cuda else "cpu"))
    if chosen.type == "cuda" and not has_cuda:
        why = (
            "torch finds no NVIDIA GPU here"
            if not cuda
            else "the installed onnxruntime has no CUDA (install onnxruntime-gpu instead)"
        )
        raise EngineMismatch(f"onnxruntime cannot run on {chosen}: {why}; or pass device='cpu'.")
    if chosen.type not in ("cpu", "cuda"):
        raise EngineMismatch(
            f"The onnxruntime backend runs on cpu or cuda, not on {chosen}; pass one of them."
        )
    return chosen


def session_options(ort: Any, *, deterministic: bool) -> Any:
    """Return the options of a session.

    It uses as many threads as PyTorch: the physical cores, or OMP_NUM_THREADS. Its threads stop
    spinning after a call, because other sessions and PyTorch need the cores then.

    Args:
        ort: the onnxruntime package.
        deterministic: use only kernels whose results are bit-identical in every run.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = True
    options.use_deterministic_compute = deterministic
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # errors only; warnings come for every folded node
    return options


def execution_providers(
    device: torch.device, stream: int, *, allow_tf32: bool = False, deterministic: bool = False
) -> list[str | tuple[str, dict[str, str]]]:
    """Return the execution providers, the preferred one first.

    Args:
        device: "cpu", or a GPU with its number.
        stream: the handle of the CUDA stream to run on; unused on a CPU.
        allow_tf32: compute in TF32 where the precision is fp32.
        deterministic: choose the convolutions by rule. By default the first call times all of
            them, and the next process may choose others.
    """
    if device.type == "cpu":
        return [CPU]
    options = {
        "device_id": str(device.index or 0),
        "user_compute_stream": str(stream),
        "arena_extend_strategy": "kSameAsRequested",  # leave the other memory to PyTorch
        "cudnn_conv_algo_search": "HEURISTIC" if deterministic else "EXHAUSTIVE",
        "use_tf32": str(int(allow_tf32)),  # by default an fp32 network computes in fp32
    }
    return [(CUDA, options), CPU]


def load_session(
    ort: Any, path: Path, spec: NetSpec, device: torch.device, *, options: Any, providers: Any
) -> Any:
    """Load an ONNX file and compare its inputs and outputs with `spec`.

    Raises EngineMismatch if it cannot be loaded on `device` or differs from `spec`.
    """
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise EngineMismatch(_load_error(path, spec, device, error)) from error
    if device.type == "cuda" and CUDA not in session.get_providers():
        raise EngineMismatch(
            f"onnxruntime {ort.__version__} could not start CUDA on {device} (it needs the CUDA "
            "and cuDNN libraries of its own version); install the matching onnxruntime-gpu, or "
            "pass device='cpu'."
        )
    inputs = [_tensor_info(argument) for argument in session.get_inputs()]
    outputs = [_tensor_info(argument) for argument in session.get_outputs()]
    check_tensors(spec, inputs, outputs, path)
    return session


def _tensor_info(argument: Any) -> TensorInfo:
    shape = tuple(side if isinstance(side, int) else None for side in argument.shape[1:])
    return TensorInfo(argument.name, DTYPE_NAMES.get(argument.type, argument.type), shape)


def _load_error(path: Path, spec: NetSpec, device: torch.device, error: Exception) -> str:
    if spec.precision == "bf16" and device.type == "cpu":
        return (
            f"onnxruntime has no bf16 kernels for a CPU, and {path} is in bf16; build with "
            "--precision fp32, or use backend='torch'."
        )
    return f"onnxruntime cannot load {path} ({first_line(error)}); delete it and build again."


def package_error(package: str, error: Exception) -> EngineMismatch:
    """Return the exception for a package that cannot be imported."""
    return EngineMismatch(
        f"The onnxruntime backend needs the package {package} ({first_line(error)}); install it "
        f"with: {PRODUCTS['onnx'].pip_install}"
    )
