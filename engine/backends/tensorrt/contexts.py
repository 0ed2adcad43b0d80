"""What both TensorRT products need to hand out execution contexts: logger, runtime, settings.

Every function takes the product's module as `trt` and detects what it can do; this file imports
neither product and knows no rows.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import cache
from typing import Any

import torch

from engine.backends.engine_folder import TensorInfo
from engine.backends.tensorrt.plan import BORDER, Plan, RuntimeCache, Shape
from engine.errors import DiffEditError, EngineMismatch

log = logging.getLogger(__name__)


class Contexts:
    """Makes the execution contexts of one engine, all with the same settings and runtime cache.

    Kernels are specialised eagerly, so that no capture records a fallback kernel, and the CUDA
    graph strategy of the RTX runtime is off: see `engine.backends.tensorrt.networks`.
    """

    def __init__(self, trt: Any, engine: Any, cache_file: RuntimeCache) -> None:
        self._trt = trt
        self._engine = engine
        self._file = cache_file
        self._cache: Any = None
        self._settings: Any = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(engine, "create_runtime_config"):
            self._settings = self._runtime_config(engine.create_runtime_config())

    def make(self) -> Any:
        """A new context without memory; raises what `error` says."""
        context = self._engine.create_execution_context(self._settings)
        if context is None:
            raise self.error("no execution context could be made")
        return context

    def save_cache(self) -> None:
        """Keep what was compiled for this GPU, where the product compiles at run time."""
        if self._cache is not None:
            self._file.save(bytes(self._cache.serialize()))

    def error(self, what: str) -> DiffEditError | torch.OutOfMemoryError:
        """The exception for a call that failed, with the runtime's last words."""
        return failure(self._trt, what, "build the engines again on this machine")

    def close(self) -> None:
        self._settings = self._cache = self._engine = None

    def _runtime_config(self, config: Any) -> Any:
        trt = self._trt
        config.set_execution_context_allocation_strategy(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if hasattr(config, "dynamic_shapes_kernel_specialization_strategy"):
            strategies = trt.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        if hasattr(config, "cuda_graph_strategy"):
            config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED
        if hasattr(config, "create_runtime_cache"):
            self._cache = config.create_runtime_cache()
            blob = self._file.load()
            if blob is not None and not self._cache.deserialize(blob):
                log.info("%s is of another GPU, driver or version; made anew", self._file.path)
            config.set_runtime_cache(self._cache)
        return config


def failure(trt: Any, what: str, remedy: str) -> DiffEditError | torch.OutOfMemoryError:
    """The exception for what failed: TensorRT itself only answers False or None."""
    tail = make_logger(trt).tail()
    if "out of memory" in tail.lower():
        return torch.OutOfMemoryError(f"TensorRT: {what} ({tail})")
    return EngineMismatch(f"TensorRT failed: {what} ({tail}); {remedy}.")


def invalid_reason(trt: Any, runtime: Any, plan: bytes) -> str | None:
    """What TensorRT for RTX has against a plan on this machine, before it is deserialised; None
    where it has nothing, or where the product cannot tell."""
    if not hasattr(runtime, "get_engine_validity"):
        return None
    validity, diagnostics = runtime.get_engine_validity(plan)
    if validity != trt.EngineValidity.INVALID:
        return None
    flags = trt.EngineInvalidityDiagnostics.__members__
    reasons = [name for name, flag in flags.items() if int(diagnostics) & int(flag)]
    return ", ".join(reasons).lower().replace("_", " ") or "no reason given"


def read_plan(trt: Any, engine: Any) -> Plan:
    """The facts that `check_plan` and `arena_bytes` decide on."""
    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = engine.get_tensor_dtype(name).name
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            dtype += " in host memory"
        shape = tuple(side if side >= 0 else None for side in engine.get_tensor_shape(name))
        found = TensorInfo(name, BORDER.get(dtype, dtype), shape[1:])
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(found)
    profiles = range(engine.num_optimization_profiles)
    return Plan(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        profiles=tuple({t.name: _shapes(engine, t.name, i) for t in inputs} for i in profiles),
        memory=tuple(int(engine.get_device_memory_size_for_profile_v2(i)) for i in profiles),
        total_memory=int(engine.device_memory_size_v2),
    )


def _shapes(engine: Any, name: str, profile: int) -> tuple[Shape, Shape, Shape]:
    low, best, high = engine.get_tensor_profile_shape(name, profile)
    return tuple(low), tuple(best), tuple(high)


@cache
def make_logger(trt: Any) -> Any:
    """One logger for the life of the process, as TensorRT wants it: it forwards to `logging` and
    keeps the last errors, since a failing call itself says nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._kept: deque[str] = deque(maxlen=2)

        def log(self, severity: Any, message: str) -> None:
            serious = severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)
            if serious:
                self._kept.append(message.strip().split("\n")[0][:240])
            log.log(logging.INFO if serious else logging.DEBUG, "%s", message)

        def tail(self) -> str:
            """The last errors in one line; they are forgotten then."""
            kept = "; ".join(self._kept) or "it gave no reason"
            self._kept.clear()
            return kept

    return Logger()


@cache
def make_runtime(trt: Any) -> Any:
    """The one runtime of a product in this process."""
    logger = make_logger(trt)
    if hasattr(trt, "init_libnvinfer_plugins"):
        trt.init_libnvinfer_plugins(logger, "")  # an ONNX parser may have used one
    return trt.Runtime(logger)
