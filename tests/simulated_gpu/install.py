"""Put the simulated GPU in the place of `torch.cuda`."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # it inspects functions that are replaced below
from torch import Tensor
from torch.utils._device import _device_constructors

from tests.simulated_gpu import order
from tests.simulated_gpu.graph import Graph
from tests.simulated_gpu.order import Allocator, Waits
from tests.simulated_gpu.tensor import GpuMode, SimulatedTensor, check_host_read

NAME = "Simulated GPU"
MEMORY = 80 * 2**30


class Selected(contextlib.AbstractContextManager[None]):
    """Takes the place of `torch.cuda.device`; a class, because libraries write types with it."""

    def __init__(self, device: object) -> None:
        self.device = device

    def __exit__(self, *error: object) -> None:
        pass


class Generator(torch.Generator):
    """The CPU's generator of random numbers, whatever the device."""

    def __new__(cls, device: object = "cpu") -> Generator:
        return super().__new__(cls, "cpu")  # type: ignore[call-arg]


def _cuda() -> dict[str, Any]:
    """Replacements in `torch.cuda`."""
    properties = SimpleNamespace(name=NAME, total_memory=MEMORY, major=9, minor=0)
    return {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: NAME,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (9, 0),
        "is_bf16_supported": lambda *_, **__: True,
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "memory_allocated": lambda device=None: Allocator.used,
        "memory_reserved": lambda device=None: Allocator.kept,
        "max_memory_allocated": lambda device=None: Allocator.kept,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": Allocator.empty_cache,
        "device": Selected,
        "Stream": order.Stream,
        "Event": order.Event,
        "stream": order.use_stream,
        "current_stream": order.current_stream,
        "default_stream": lambda device=None: order.DEFAULT,
        "synchronize": order.synchronize,
        "set_sync_debug_mode": Waits.set_mode,
        "CUDAGraph": Graph,
        "graph_pool_handle": lambda: (0, 1),
    }


def _torch() -> dict[str, Any]:
    """Replacements in `torch`."""
    return {
        "tensor": _from_host(torch.tensor),
        "as_tensor": _from_host(torch.as_tensor),
        "Generator": Generator,
        # `Module.to` would put the memory of the GPU into the parameter of the CPU.
        "_has_compatible_shallow_copy_type": _alike,
    }


def _from_host(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.tensor`, which copies the values of the host to the GPU and waits for that."""

    def made(data: Any, **options: Any) -> Tensor:
        device = options.get("device")
        if device is None or torch.device(device).type != "cuda":
            return make(data, **options)
        return make(data, **{**options, "device": "cpu"}).to(device)

    return made


def _alike(one: Tensor, other: Tensor) -> bool:
    return isinstance(one, SimulatedTensor) == isinstance(other, SimulatedTensor)


def _checked_numpy(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Tensor.numpy`, after a look at the copies into that memory."""

    def numpy(tensor: Tensor, *, force: bool = False) -> Any:
        check_host_read(tensor, "numpy")
        return original(tensor, force=force)

    return numpy


def _in_mode(run: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    """`Thread.run` in a thread that has the simulated GPU."""

    def simulated(thread: threading.Thread) -> None:
        with GpuMode():
            run(thread)

    return simulated


@functools.cache
def _device_guard() -> None:
    """Let PyTorch select a GPU that is not there."""
    if torch.version.cuda is not None:
        torch._C._ensureCUDADeviceGuardSet()  # as FakeTensorMode does
        return
    root = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "device_guard.so"
        source = Path(__file__).with_name("device_guard.cpp")
        paths = ["-I", str(root / "include"), "-L", str(root / "lib"), "-lc10"]
        command = ["g++", "-std=c++20", "-shared", "-fPIC", str(source), "-o", str(library), *paths]
        subprocess.run(command, check=True)
        torch.ops.load_library(str(library))


@contextlib.contextmanager
def simulated_gpu() -> Iterator[None]:
    """Have a GPU, in this thread and in every thread that is started meanwhile."""
    _device_guard()
    _device_constructors()  # remembers `torch.tensor` for good, so before it is replaced
    with contextlib.ExitStack() as stack:
        for module, replacements in ((torch.cuda, _cuda()), (torch, _torch())):
            for name, replacement in replacements.items():
                stack.enter_context(mock.patch.object(module, name, replacement))
        for name in ("endAllocateToPool", "releasePool", "clearCublasWorkspaces"):
            patch = mock.patch.object(torch._C, f"_cuda_{name}", create=True)
            stack.enter_context(patch)
        numpy, run = _checked_numpy(Tensor.numpy), _in_mode(threading.Thread.run)
        stack.enter_context(mock.patch.object(Tensor, "numpy", numpy))
        stack.enter_context(mock.patch.object(threading.Thread, "run", run))
        stack.enter_context(GpuMode())
        Waits.mode, Waits.count = "default", 0
        order.synchronize()  # whatever an earlier use has left
        yield
