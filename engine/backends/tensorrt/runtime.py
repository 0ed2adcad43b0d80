"""The TensorRT runtime of this process: its logger, its errors, and loading an engine.

TensorRT reports a failure as None or False and logs the reason, so the logger keeps the last
errors for the exception. Every function takes the product's package as `trt`.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import cache
from typing import Any

import torch

from engine.errors import DiffEditError, EngineMismatch

log = logging.getLogger(__name__)


@cache
def get_logger(trt: Any) -> Any:
    """Return the logger of a product. TensorRT needs the same one until the process ends."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        """Forwards messages to `logging` and keeps the last errors."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: deque[str] = deque(maxlen=2)

        def log(self, severity: Any, message: str) -> None:
            is_error = severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)
            if is_error:
                self._errors.append(message.strip().split("\n")[0][:240])
            log.log(logging.INFO if is_error else logging.DEBUG, "%s", message)

        def pop_errors(self) -> str:
            """Return the last errors in one line and clear them."""
            errors = "; ".join(self._errors) or "it gave no reason"
            self._errors.clear()
            return errors

    return Logger()


@cache
def get_runtime(trt: Any) -> Any:
    """Return the runtime of a product; one per process."""
    logger = get_logger(trt)
    if hasattr(trt, "init_libnvinfer_plugins"):
        trt.init_libnvinfer_plugins(logger, "")  # the ONNX parser may have used a plugin
    return trt.Runtime(logger)


def runtime_error(trt: Any, what: str, remedy: str) -> DiffEditError | torch.OutOfMemoryError:
    """Return the exception for a failed call, with the runtime's last errors."""
    reason = get_logger(trt).pop_errors()
    if "out of memory" in reason.lower():
        return torch.OutOfMemoryError(f"TensorRT: {what} ({reason})")
    return EngineMismatch(f"TensorRT failed: {what} ({reason}); {remedy}.")


def invalid_reason(trt: Any, runtime: Any, plan: bytes) -> str | None:
    """Ask TensorRT for RTX why a plan cannot run on this machine, before it is deserialized.

    Returns None for a valid plan, and for `tensorrt`, which has no such check.
    """
    if not hasattr(runtime, "get_engine_validity"):
        return None
    validity, diagnostics = runtime.get_engine_validity(plan)
    if validity != trt.EngineValidity.INVALID:
        return None
    flags = trt.EngineInvalidityDiagnostics.__members__
    reasons = [name for name, flag in flags.items() if int(diagnostics) & int(flag)]
    return ", ".join(reasons).lower().replace("_", " ") or "no reason given"


def deserialize(trt: Any, plan: bytes, file: object, command: str) -> Any:
    """Load an engine from bytes whose digest was checked.

    Args:
        trt: the product's package.
        plan: the engine as it was built. It contains executable code.
        file: where it comes from, for error messages.
        command: rebuilds it, for error messages.

    Raises:
        EngineMismatch: the engine cannot run on this machine.
        torch.OutOfMemoryError: the GPU's memory is full.
    """
    runtime = get_runtime(trt)
    reason = invalid_reason(trt, runtime, plan)
    if reason:
        raise EngineMismatch(f"{file} does not run here ({reason}); rebuild with: {command}")
    torch.cuda.empty_cache()  # TensorRT allocates the weights outside PyTorch's cache
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        remedy = f"delete the file and run: {command}"
        raise runtime_error(trt, f"{file} cannot be loaded", remedy)
    return engine
