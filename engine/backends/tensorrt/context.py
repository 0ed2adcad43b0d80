"""Execution contexts of an engine, all with the same settings and the same runtime cache.

The contexts of both products use the scratch memory of `arena`. TensorRT for RTX has three more
settings: kernels are specialized eagerly, so that no graph records a fallback kernel; its own CUDA
graphs are off, because `profile` captures the graphs of both products; and kernels compiled for
this GPU are saved in a file (`runtime_cache`).
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from engine.backends.tensorrt.runtime import runtime_error
from engine.backends.tensorrt.runtime_cache import RuntimeCacheFile
from engine.errors import DiffEditError

log = logging.getLogger(__name__)


class ContextFactory:
    """Creates the execution contexts of one engine."""

    def __init__(self, trt: Any, engine: Any, cache_file: RuntimeCacheFile) -> None:
        self._trt = trt
        self._engine = engine
        self._cache_file = cache_file
        self._cache: Any = None
        self._settings: Any = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(engine, "create_runtime_config"):
            self._settings = self._configure(engine.create_runtime_config())

    def create(self) -> Any:
        """Return a new context without scratch memory. Raises the exception made by `error`."""
        context = self._engine.create_execution_context(self._settings)
        if context is None:
            raise self.error("no execution context could be created")
        return context

    def save_cache(self) -> None:
        """Save the kernels compiled so far, if the product compiles at run time."""
        if self._cache is not None:
            self._cache_file.save(bytes(self._cache.serialize()))

    def error(self, what: str) -> DiffEditError | torch.OutOfMemoryError:
        """Return the exception for a failed call; see `runtime.runtime_error`."""
        return runtime_error(self._trt, what, "build the engines again on this machine")

    def close(self) -> None:
        """Drop the engine. Its contexts must be gone already."""
        self._settings = self._cache = self._engine = None

    def _configure(self, config: Any) -> Any:
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
            self._cache = self._load_cache(config)
            config.set_runtime_cache(self._cache)
        return config

    def _load_cache(self, config: Any) -> Any:
        cache = config.create_runtime_cache()
        content = self._cache_file.load()
        if content is not None and not cache.deserialize(content):
            log.info(
                "%s is of another GPU, driver or version; it is created again",
                self._cache_file.path,
            )
        return cache
