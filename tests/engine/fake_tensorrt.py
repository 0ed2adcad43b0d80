"""A substitute for the `tensorrt` package on machines without a GPU.

An engine has the tensors and profiles of a `NetSpec`. A context records its calls and computes
nothing.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from engine.netspec import NetSpec, TensorSpec

DTYPES = {"fp32": "FLOAT", "int64": "INT64"}


class Context:
    """An execution context that records its calls and fails at the method named `refuse`."""

    def __init__(self, refuse: str = "") -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.refuse = refuse

    def infer_shapes(self) -> list[str]:
        return ["latent"] if self.refuse == "infer_shapes" else []

    def __getattr__(self, name: str) -> Any:
        def method(*arguments: Any) -> bool:
            self.calls.append((name, *arguments))
            return name != self.refuse

        return method

    def count(self, name: str) -> int:
        return sum(call[0] == name for call in self.calls)


class Engine:
    """An engine with the inputs, the outputs and a static profile per batch size of a spec."""

    device_memory_size_v2 = 4000

    def __init__(self, spec: NetSpec, outputs: tuple[TensorSpec, ...]) -> None:
        self.spec = spec
        self.tensors = {t.name: (t, "INPUT") for t in spec.inputs}
        self.tensors |= {t.name: (t, "OUTPUT") for t in outputs}
        self.num_io_tensors = len(self.tensors)
        self.num_optimization_profiles = len(spec.batch_sizes)
        self.contexts: list[Context] = []

    def create_execution_context(self, settings: str) -> Context:
        assert settings == "USER_MANAGED"
        self.contexts.append(Context())
        return self.contexts[-1]

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=DTYPES[self.tensors[name][0].dtype])

    def get_tensor_location(self, name: str) -> str:
        return "DEVICE"

    def get_tensor_mode(self, name: str) -> str:
        return self.tensors[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self.tensors[name][0].shape)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [(self.spec.batch_sizes[index], *self.tensors[name][0].shape)] * 3

    def get_device_memory_size_for_profile_v2(self, index: int) -> int:
        return 1000 * self.spec.batch_sizes[index]


def module(engine: Engine | None) -> Any:
    """Return a package whose runtime loads `engine` from any bytes; None is a failure."""

    class ILogger:
        INTERNAL_ERROR, ERROR = "INTERNAL_ERROR", "ERROR"

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            if engine is None:
                self.logger.log("ERROR", "the plan is damaged\nand a stack trace")
            return engine

    class TensorRT:
        pass

    trt: Any = TensorRT()
    trt.ILogger, trt.Runtime = ILogger, Runtime
    trt.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="USER_MANAGED")
    trt.TensorIOMode = SimpleNamespace(INPUT="INPUT")
    trt.TensorLocation = SimpleNamespace(DEVICE="DEVICE")
    return trt
