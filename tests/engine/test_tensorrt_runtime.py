"""The installed TensorRT packages, as far as they work without a driver: names, logger, errors."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from engine.backends.tensor_checks import TensorInfo
from engine.backends.tensorrt import runtime as runtime_module
from engine.backends.tensorrt.plan import Plan, read_plan
from engine.backends.tensorrt.product import load_module
from engine.errors import EngineMismatch
from tests.engine.tensorrt_products import MODULES, needs_rtx

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
def test_the_package_has_every_name_that_the_backend_uses(module: str) -> None:
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


@needs_rtx
def test_a_file_that_is_not_an_engine_is_refused_before_it_is_deserialized() -> None:
    trt = load_module("tensorrt-rtx")
    runtime = runtime_module.get_runtime(trt)
    assert runtime_module.invalid_reason(trt, runtime, b"no plan" * 100) == "malformed engine"


@needs_rtx
def test_the_runtimes_last_errors_are_part_of_the_exception(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trt = load_module("tensorrt-rtx")
    runtime = runtime_module.get_runtime(trt)
    runtime_module.get_logger(trt).pop_errors()
    with caplog.at_level(logging.DEBUG, logger="engine.backends.tensorrt.runtime"):
        assert runtime.deserialize_cuda_engine(b"no plan" * 100) is None
    assert any("deserializeCudaEngine" in message for message in caplog.messages)
    error = runtime_module.runtime_error(trt, "file cannot be loaded", "build again")
    assert isinstance(error, EngineMismatch)
    assert "deserializeCudaEngine" in str(error)
    assert "it gave no reason" in str(runtime_module.runtime_error(trt, "again", "build"))


@needs_rtx
def test_lack_of_memory_is_an_out_of_memory_error() -> None:
    trt = load_module("tensorrt-rtx")
    runtime_module.get_logger(trt).log(trt.ILogger.ERROR, "Requested 9 bytes: out of memory\nmore")
    assert isinstance(runtime_module.runtime_error(trt, "loading", "build"), torch.OutOfMemoryError)


class Engine:
    """A substitute for an engine of the small text encoder, with TensorRT's own types."""

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
def test_the_facts_of_an_engine_are_read() -> None:
    trt = load_module("tensorrt-rtx")
    assert read_plan(trt, Engine(trt)) == Plan(
        inputs=(TensorInfo("input_ids", "int64", (5,)),),
        outputs=(TensorInfo("embedding", "HALF", (5, 3)),),
        profiles=({"input_ids": ((1, 5),) * 3}, {"input_ids": ((2, 5),) * 3}),
        memory=(1000, 2000),
        total_memory=4000,
    )
