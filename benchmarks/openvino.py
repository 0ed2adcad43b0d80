"""OpenVINO on the ONNX file of an engine folder: a comparison for CPUs, not a backend.

`python -m benchmarks roofline --backends openvino --engines FOLDER` uses it where it is installed
(`pip install openvino`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.backends import Details, DeviceQueue, HostQueue
from engine.backends.engine_folder import EngineFolder
from engine.errors import DiffEditError
from engine.netspec import NetSpec, Size


class OpenVinoNetworks:
    """The networks of an engine folder, run by OpenVINO in the precision that it chooses."""

    name = "openvino"
    sizes: tuple[Size, ...] | None = None
    device = torch.device("cpu")
    queue: DeviceQueue = HostQueue()

    def __init__(self, folder: Path) -> None:
        """Raises DiffEditError where OpenVINO is not installed."""
        try:
            import openvino
        except ImportError as error:
            raise DiffEditError(
                f"OpenVINO is not installed ({error}); install it with: pip install openvino"
            ) from None
        self._version = openvino.__version__.split("-")[0]
        self._core: Any = openvino.Core()
        self._folder = EngineFolder.open(folder, ["onnx"])
        self._backends: dict[tuple[str, tuple[int, ...]], OpenVinoBackend] = {}

    def find(self, net: str, shape: tuple[int, ...]) -> OpenVinoBackend:
        if (net, shape) not in self._backends:
            entry = self._folder.entry(net, shape)
            path = entry.verified(self._folder.path)
            self._backends[net, shape] = OpenVinoBackend(self._core, path, entry.spec)
        return self._backends[net, shape]

    def describe(self) -> str:
        """Its version and the precision that it chose."""
        used = {str(backend.precision) for backend in self._backends.values()}
        return f"openvino {self._version} on cpu{''.join(f', {name}' for name in sorted(used))}"

    def details(self) -> Details:
        return self._folder.details

    def close(self) -> None:
        self._backends.clear()


class OpenVinoBackend:
    """One network, compiled again for every batch size, with fixed shapes."""

    device = torch.device("cpu")

    def __init__(self, core: Any, path: Path, spec: NetSpec) -> None:
        self.spec = spec
        self._core, self._path = core, path
        self._size = 0
        self._compiled: Any = None

    @property
    def precision(self) -> str:
        """The precision of the last compiled model."""
        if self._compiled is None:
            return self.spec.precision
        found = self._compiled.get_property("INFERENCE_PRECISION_HINT")
        return str(found.get_type_name() if hasattr(found, "get_type_name") else found)

    def __call__(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        inputs = [batch[tensor.name] for tensor in self.spec.inputs]
        if len(inputs[0]) != self._size:
            self._size, self._compiled = len(inputs[0]), None  # frees the last one's memory first
            model = self._core.read_model(self._path)
            model.reshape({t.name: [self._size, *t.shape] for t in self.spec.inputs})
            self._compiled = self._core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
        assert self._compiled is not None
        named = {t.name: x.numpy() for t, x in zip(self.spec.inputs, inputs, strict=True)}
        return (torch.from_numpy(self._compiled(named)[0]),)
