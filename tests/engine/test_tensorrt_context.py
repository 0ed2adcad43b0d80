"""Execution contexts: their settings and the runtime cache, without a driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.backends.tensorrt.context import ContextFactory
from engine.backends.tensorrt.product import load_module
from engine.backends.tensorrt.runtime_cache import RuntimeCacheFile
from engine.errors import EngineMismatch
from tests.engine.compiled import entry, spec
from tests.engine.tensorrt_products import needs_rtx


class Settings:
    """A runtime config of `tensorrt`. `RtxSettings` adds the settings of `tensorrt_rtx`."""

    def __init__(self) -> None:
        self.strategy: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy


class Cache:
    def __init__(self) -> None:
        self.blob = b"empty"

    def deserialize(self, blob: bytes) -> bool:
        self.blob = blob
        return True

    def serialize(self) -> memoryview:
        return memoryview(self.blob + b"+")


class RtxSettings(Settings):
    cuda_graph_strategy: Any = None
    dynamic_shapes_kernel_specialization_strategy: Any = None
    cache: Any = None

    def create_runtime_cache(self) -> Cache:
        return Cache()

    def set_runtime_cache(self, cache: Any) -> bool:
        self.cache = cache
        return True


def factory_of(trt: Any, folder: Path, config: Settings | None) -> tuple[ContextFactory, list[Any]]:
    """Return the factory of an engine with this runtime config, and its contexts' settings."""
    settings_used: list[Any] = []

    class Configured:
        def create_execution_context(self, settings: Any) -> str:
            settings_used.append(settings)
            return "context"

    engine: Any = Configured()
    if config is not None:
        engine.create_runtime_config = lambda: config
    cache = RuntimeCacheFile(entry(folder, spec("text")), folder)
    return ContextFactory(trt, engine, cache), settings_used


@needs_rtx
def test_the_settings_of_contexts_depend_on_the_product(tmp_path: Path) -> None:
    """All use memory of the backend. RTX alone has settings for kernels, graphs and a cache."""
    trt = load_module("tensorrt-rtx")
    managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    factory, settings = factory_of(trt, tmp_path, None)
    assert factory.create() == "context"
    assert settings == [managed]
    factory, settings = factory_of(trt, tmp_path, plain := Settings())
    factory.create()
    factory.save_cache()
    assert (settings, plain.strategy) == ([plain], managed)
    factory, settings = factory_of(trt, tmp_path, rtx := RtxSettings())
    factory.create()
    assert (settings, rtx.strategy) == ([rtx], managed)
    assert rtx.cuda_graph_strategy == trt.CudaGraphStrategy.DISABLED
    eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    assert rtx.dynamic_shapes_kernel_specialization_strategy == eager


@needs_rtx
def test_kernels_compiled_by_rtx_are_loaded_by_the_next_process(tmp_path: Path) -> None:
    trt = load_module("tensorrt-rtx")
    factory, _ = factory_of(trt, tmp_path, RtxSettings())
    factory.save_cache()
    factory_of(trt, tmp_path, again := RtxSettings())
    assert again.cache.blob == b"empty+"


@needs_rtx
def test_an_engine_without_a_context_is_an_error(tmp_path: Path) -> None:
    trt = load_module("tensorrt-rtx")

    class Refusing:
        def create_execution_context(self, settings: Any) -> None:
            return None

    factory = ContextFactory(
        trt, Refusing(), RuntimeCacheFile(entry(tmp_path, spec("text")), tmp_path)
    )
    with pytest.raises(EngineMismatch, match="no execution context could be created"):
        factory.create()
