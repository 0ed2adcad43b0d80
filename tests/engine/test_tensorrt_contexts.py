"""The products' own objects, as far as they go without a driver: names, logger, settings, facts."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.backends.engine_folder import TensorInfo
from engine.backends.tensorrt import contexts
from engine.backends.tensorrt.contexts import Contexts
from engine.backends.tensorrt.networks import load_module
from engine.backends.tensorrt.plan import Plan, RuntimeCache
from engine.errors import EngineMismatch
from tests.engine.compiled import entry, spec

MODULES = [m for m in ("tensorrt", "tensorrt_rtx") if find_spec(m)]

NEEDED = {
    "Runtime": ["deserialize_cuda_engine"],
    "ICudaEngine": [
        "create_execution_context",
        "device_memory_size_v2",
        "get_device_memory_size_for_profile_v2",
        "get_tensor_dtype",
        "get_tensor_location",
        "get_tensor_mode",
        "get_tensor_name",
        "get_tensor_profile_shape",
        "get_tensor_shape",
        "num_io_tensors",
        "num_optimization_profiles",
    ],
    "IExecutionContext": [
        "execute_async_v3",
        "infer_shapes",
        "set_device_memory",
        "set_input_shape",
        "set_optimization_profile_async",
        "set_tensor_address",
    ],
    "DataType": ["FLOAT", "INT64"],
    "ExecutionContextAllocationStrategy": ["USER_MANAGED"],
    "ILogger": ["ERROR", "INTERNAL_ERROR"],
    "TensorIOMode": ["INPUT"],
    "TensorLocation": ["DEVICE"],
}
NEEDED_RTX = {
    "Runtime": ["get_engine_validity"],
    "ICudaEngine": ["create_runtime_config"],
    "IRuntimeConfig": [
        "create_runtime_cache",
        "cuda_graph_strategy",
        "dynamic_shapes_kernel_specialization_strategy",
        "set_execution_context_allocation_strategy",
        "set_runtime_cache",
    ],
    "IRuntimeCache": ["deserialize", "serialize"],
    "IExecutionContext": ["is_stream_capturable"],
    "CudaGraphStrategy": ["DISABLED"],
    "DynamicShapesKernelSpecializationStrategy": ["EAGER"],
    "EngineValidity": ["INVALID"],
    "EngineInvalidityDiagnostics": ["VERSION_MISMATCH"],
}


@pytest.mark.parametrize("module", MODULES)
def test_the_package_has_every_name_that_is_used(module: str) -> None:
    trt = load_module("tensorrt" if module == "tensorrt" else "tensorrt-rtx")
    needed = [NEEDED] if module == "tensorrt" else [NEEDED, NEEDED_RTX]
    missing = [
        f"{owner}.{name}"
        for names in needed
        for owner, wanted in names.items()
        for name in wanted
        if not hasattr(getattr(trt, owner), name)
    ]
    assert missing == []


needs_rtx = pytest.mark.skipif("tensorrt_rtx" not in MODULES, reason="tensorrt_rtx is not here")


@needs_rtx
def test_a_plan_that_is_none_is_refused_before_it_is_deserialised() -> None:
    trt = load_module("tensorrt-rtx")
    runtime = contexts.make_runtime(trt)
    assert contexts.invalid_reason(trt, runtime, b"no plan" * 100) == "malformed engine"


@needs_rtx
def test_the_runtimes_last_words_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    trt = load_module("tensorrt-rtx")
    runtime = contexts.make_runtime(trt)
    contexts.make_logger(trt).tail()
    with caplog.at_level(logging.DEBUG, logger="engine.backends.tensorrt.contexts"):
        assert runtime.deserialize_cuda_engine(b"no plan" * 100) is None
    assert any("deserializeCudaEngine" in message for message in caplog.messages)
    error = contexts.failure(trt, "file cannot be loaded", "build again")
    assert isinstance(error, EngineMismatch)
    assert "deserializeCudaEngine" in str(error)
    assert "it gave no reason" in str(contexts.failure(trt, "again", "build"))


@needs_rtx
def test_lack_of_memory_is_told_as_such() -> None:
    trt = load_module("tensorrt-rtx")
    contexts.make_logger(trt).log(trt.ILogger.ERROR, "Requested 9 bytes: out of memory\nmore")
    assert isinstance(contexts.failure(trt, "loading", "build"), torch.OutOfMemoryError)


class Engine:
    """An engine of the small text encoder, saying in TensorRT's own types what a real one says."""

    num_io_tensors = 2
    num_optimization_profiles = 2
    device_memory_size_v2 = 4000

    def __init__(self, trt: Any) -> None:
        self.trt = trt

    def get_tensor_name(self, index: int) -> str:
        return ("embedding", "input_ids")[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return self.trt.DataType.INT64 if name == "input_ids" else self.trt.DataType.HALF

    def get_tensor_location(self, name: str) -> Any:
        return self.trt.TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> Any:
        return self.trt.Dims([-1, 5] if name == "input_ids" else [-1, 5, 3])

    def get_tensor_mode(self, name: str) -> Any:
        modes = self.trt.TensorIOMode
        return modes.INPUT if name == "input_ids" else modes.OUTPUT

    def get_tensor_profile_shape(self, name: str, index: int) -> Any:
        assert name == "input_ids"
        return [self.trt.Dims([index + 1, 5])] * 3

    def get_device_memory_size_for_profile_v2(self, index: int) -> int:
        return 1000 * (index + 1)


@needs_rtx
def test_facts_are_read_by_name_and_mode() -> None:
    trt = load_module("tensorrt-rtx")
    assert contexts.read_plan(trt, Engine(trt)) == Plan(
        inputs=(TensorInfo("input_ids", "int64", (5,)),),
        outputs=(TensorInfo("embedding", "HALF", (5, 3)),),
        profiles=({"input_ids": ((1, 5),) * 3}, {"input_ids": ((2, 5),) * 3}),
        memory=(1000, 2000),
        total_memory=4000,
    )


class Settings:
    """A runtime config of `tensorrt`; `RtxSettings` adds what `tensorrt_rtx` has."""

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


def contexts_of(trt: Any, folder: Path, config: Settings | None) -> tuple[Contexts, list[Any]]:
    """Contexts of an engine that has this runtime config, and what they were made with."""
    made_with: list[Any] = []

    class Configured:
        def create_execution_context(self, settings: Any) -> str:
            made_with.append(settings)
            return "context"

    engine: Any = Configured()
    if config is not None:
        engine.create_runtime_config = lambda: config
    cache = RuntimeCache(entry(folder, spec("text")), folder)
    return Contexts(trt, engine, cache), made_with


@needs_rtx
def test_contexts_of_each_kind_of_product(tmp_path: Path) -> None:
    """Memory is ours in all of them; only RTX is told of kernels, graphs and a cache."""
    trt = load_module("tensorrt-rtx")
    managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    made, settings = contexts_of(trt, tmp_path, None)
    assert made.make() == "context"
    assert settings == [managed]
    made, settings = contexts_of(trt, tmp_path, plain := Settings())
    made.make()
    made.save_cache()
    assert (settings, plain.strategy) == ([plain], managed)
    made, settings = contexts_of(trt, tmp_path, rtx := RtxSettings())
    made.make()
    assert (settings, rtx.strategy) == ([rtx], managed)
    assert rtx.cuda_graph_strategy == trt.CudaGraphStrategy.DISABLED
    eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    assert rtx.dynamic_shapes_kernel_specialization_strategy == eager


@needs_rtx
def test_what_rtx_compiled_is_kept_for_the_next_process(tmp_path: Path) -> None:
    trt = load_module("tensorrt-rtx")
    made, _ = contexts_of(trt, tmp_path, RtxSettings())
    made.save_cache()
    contexts_of(trt, tmp_path, again := RtxSettings())
    assert again.cache.blob == b"empty+"


@needs_rtx
def test_no_context_is_an_error(tmp_path: Path) -> None:
    trt = load_module("tensorrt-rtx")

    class Refusing:
        def create_execution_context(self, settings: Any) -> None:
            return None

    made = Contexts(trt, Refusing(), RuntimeCache(entry(tmp_path, spec("text")), tmp_path))
    with pytest.raises(EngineMismatch, match="no execution context could be made"):
        made.make()
