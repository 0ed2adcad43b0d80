"""The PyTorch backend: the reference in fp32, fast in bf16 or fp16 with channels_last.

On CUDA, one graph per profile removes the launch overhead; `torch.compile` is optional. Both are
applied from outside: the modules are the checkpoint's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from engine.backends import Details
from engine.backends.torch.compile import CPU_BATCH_SIZES, compile_modules, first_call
from engine.backends.torch.kernels import attention, convolution
from engine.backends.torch.openmp import release_team
from engine.checkpoint import Checkpoint
from engine.cuda import (
    ExecutionStream,
    cuda_device,
    device_queue,
    fp32_arithmetic,
    give_back_memory,
    wait_for,
)
from engine.cuda_graphs import MAX_GRAPHS, Call, CudaGraphs
from engine.dtypes import TORCH_DTYPES
from engine.errors import EngineMismatch
from engine.loader import load_module
from engine.lora.file import Lora
from engine.lora.fuse import fuse
from engine.models import Network
from engine.netspec import DENOISER_BATCH_SIZES, NetSpec, Precision, Size
from engine.weights_check import check_weights

KERNELS = {"attention": attention, "convolution": convolution}
"""This project's kernels for CPUs in bf16; each replaces layers that it runs faster."""


class TorchBackend:
    """One network at one size, on a module that other networks may share.

    Args:
        network: how the module is called.
        graphs: runs the calls on a GPU; None on a CPU.
        allow_tf32: compute in TF32 where `spec` says fp32; for GPUs.
        compiled: whether the module is compiled at its first call with each batch size.
    """

    def __init__(
        self,
        network: Network,
        module: torch.nn.Module,
        spec: NetSpec,
        device: torch.device,
        *,
        graphs: CudaGraphs[tuple[Tensor, ...]] | None = None,
        allow_tf32: bool = False,
        compiled: bool = False,
    ) -> None:
        self.spec = spec
        self.device = device
        self._network = network
        self._module = module
        self._graphs = graphs
        self._allow_tf32 = allow_tf32
        self._compiles = compiled
        self._compiled: set[int] = set()

    def __call__(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        inputs = [batch[tensor.name] for tensor in self.spec.inputs]
        size = len(inputs[0])
        run = partial(self.eager if size in self._compiled else self._first_call, inputs)
        if self._graphs is None:
            return run()
        addresses = tuple(tensor.data_ptr() for tensor in inputs)
        return self._graphs.run(Call(*self.spec.kind, size), addresses, run)

    def eager(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Enqueue one call on the current stream."""
        exact = self.device.type == "cuda" and self.spec.precision == "fp32"
        with fp32_arithmetic(self._allow_tf32) if exact else contextlib.nullcontext():
            out = self._network.call(self._module, TORCH_DTYPES[self.spec.precision], *inputs)
        return out if isinstance(out, tuple) else (out,)

    def _first_call(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The first call with a batch size: it compiles, if the module is to be compiled."""
        size = len(inputs[0])
        compiling = first_call(self.spec.name, size, self.device)
        with compiling if self._compiles else contextlib.nullcontext():
            out = self.eager(inputs)
        self._compiled.add(size)
        return out


class TorchNetworks:
    """Every network of a checkpoint in PyTorch, at any size of whole latent cells."""

    name = "torch"
    sizes: tuple[Size, ...] | None = None

    def __init__(
        self,
        checkpoint: Checkpoint,
        modules: dict[str, torch.nn.Module],
        *,
        device: torch.device,
        precision: Precision,
        kernels: Sequence[str] = tuple(KERNELS),
        compile: bool = False,
        cuda_graphs: bool = False,
        allow_tf32: bool = False,
        denoiser_batch_sizes: Sequence[int] = DENOISER_BATCH_SIZES,
        pin_batch_size: int | None = None,
        loras: Sequence[Lora] = (),
    ) -> None:
        self.checkpoint = checkpoint
        self.modules = modules
        self.device = device
        self.queue = device_queue(device)
        self.precision = precision
        self._graphs: CudaGraphs[tuple[Tensor, ...]] | None = None
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the weights arrived, whatever stream brought them
            self._graphs = CudaGraphs(ExecutionStream(device), MAX_GRAPHS if cuda_graphs else 0)
        self._allow_tf32 = allow_tf32
        self._static = compile or (cuda_graphs and device.type == "cuda")
        self._compile = compile
        if compile and device.type == "cpu":
            denoiser_batch_sizes = CPU_BATCH_SIZES
        self._batches = {*denoiser_batch_sizes} | ({pin_batch_size} if pin_batch_size else set())
        self._pin = pin_batch_size
        self._loras = tuple(loras)
        self._backends: dict[tuple[str, tuple[int, ...]], TorchBackend] = {}
        self._kernels = self._install(kernels)
        if compile:
            compile_modules(self._compiled_modules(), device)
        release_team()  # the engine thread runs the networks, not the thread that loaded them

    @classmethod
    def open(
        cls,
        checkpoint: Checkpoint,
        *,
        device: str | None = None,
        dtype: Precision | None = None,
        kernels: Sequence[str] = tuple(KERNELS),
        compile: bool = False,
        cuda_graphs: bool = True,
        allow_tf32: bool = False,
        denoiser_batch_sizes: Sequence[int] = DENOISER_BATCH_SIZES,
        pin_batch_size: int | None = None,
        loras: Sequence[Lora] = (),
    ) -> TorchNetworks:
        """Load the weights.

        Args:
            checkpoint: the model.
            device: such as "cpu" or "cuda:1"; by default CUDA if it is available.
            dtype: "fp32", "bf16" or "fp16"; see `default_precision`.
            kernels: names in `KERNELS` that may be used.
            compile: compile the denoiser and the VAE at their first calls.
            cuda_graphs: on CUDA, capture one graph per profile.
            allow_tf32: on CUDA, compute in TF32 where the precision is fp32.
            denoiser_batch_sizes: the denoiser's profiles.
            pin_batch_size: the only profile of every network.
            loras: fused into the weights in fp32, before they are cast.

        Raises CheckpointError if weights are missing, unsafe, damaged or do not fit the configs,
        ResourceError if there is not enough memory, and EngineMismatch if there is no such GPU.
        """
        on = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        on = cuda_device(str(on), "PyTorch") if on.type == "cuda" else on
        precision = dtype or default_precision(on)
        check_weights(checkpoint)
        modules = {}
        for part in checkpoint.family.parts:
            own_precision = checkpoint.family.part_precision(part.name, precision)
            module = _load(checkpoint, part.name, own_precision, loras).to(on)
            if part.convolutional and precision != "fp32":
                module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            modules[part.name] = module
        return cls(
            checkpoint,
            modules,
            device=on,
            precision=precision,
            kernels=kernels,
            compile=compile,
            cuda_graphs=cuda_graphs,
            allow_tf32=allow_tf32,
            denoiser_batch_sizes=denoiser_batch_sizes,
            pin_batch_size=pin_batch_size,
            loras=loras,
        )

    def find(self, net: str, shape: tuple[int, ...]) -> TorchBackend:
        key = (net, shape)
        if key not in self._backends:
            network = self._network(net)
            self._backends[key] = TorchBackend(
                network,
                self.modules[network.part],
                self._spec(network, shape),
                self.device,
                graphs=self._graphs,
                allow_tf32=self._allow_tf32,
                compiled=self._compile and bool(network.compiled),
            )
        return self._backends[key]

    def describe(self) -> str:
        if self.device.type == "cuda":
            where = torch.cuda.get_device_name(self.device)
        else:
            where = f"{self.device.type}, {torch.get_num_threads()} threads"
        own = f", own kernels: {' and '.join(self._kernels)}" if self._kernels else ""
        compiled = ", compiled" if self._compile else ""
        return f"torch {torch.__version__} on {where}, {self.precision}{own}{compiled}"

    def details(self) -> Details:
        loras = tuple(lora.identity for lora in self._loras)
        return Details(self.precision, tuple(self._kernels), loras)

    def close(self) -> None:
        if self._graphs is not None:
            wait_for(self.device)
            self._graphs.clear()
        self._backends.clear()
        self.modules = {}
        if self._graphs is not None:
            give_back_memory(self.device)

    def _install(self, kernels: Sequence[str]) -> list[str]:
        """Install kernels in the convolutional parts; returns the names of those in use."""
        parts = [self.modules[p.name] for p in self.checkpoint.family.parts if p.convolutional]
        return [name for name in kernels if sum(KERNELS[name].install(part) for part in parts)]

    def _compiled_modules(self) -> list[torch.nn.Module]:
        return [
            self.modules[network.part].get_submodule(path)
            for network in self.checkpoint.family.networks
            for path in network.compiled
        ]

    def _network(self, net: str) -> Network:
        try:
            return self.checkpoint.network(net)
        except KeyError:
            raise EngineMismatch(f"This model has no network named {net!r}.") from None

    def _spec(self, network: Network, shape: tuple[int, ...]) -> NetSpec:
        family = self.checkpoint.family
        try:
            size = family.size_of(network.name, shape) or (family.size_multiple,) * 2
            spec = self.checkpoint.spec(
                network.name,
                size,
                precision=family.part_precision(network.part, self.precision),
                denoiser_batch_sizes=self._batches,
            )
        except ValueError as error:
            raise EngineMismatch(f"The {network.name} cannot run on {shape}: {error}.") from None
        if spec.kind != (network.name, shape):
            raise EngineMismatch(
                f"The {network.name} of this checkpoint takes {spec.inputs[0].shape}, not {shape}."
            )
        if not self._static:  # eager calls need no profiles, hence no padding
            spec = replace(spec, batch_sizes=tuple(range(1, spec.max_batch + 1)))
        return spec.pinned(self._pin) if self._pin else spec


def _load(
    checkpoint: Checkpoint, part: str, precision: Precision, loras: Sequence[Lora]
) -> torch.nn.Module:
    """A part on the CPU, with the LoRAs that change it: fused in fp32, then cast."""
    module = load_module(checkpoint, part, TORCH_DTYPES[precision])
    changing = [lora for lora in loras if lora.changes(checkpoint, part)]
    if not changing:
        return module
    exact = module if precision == "fp32" else load_module(checkpoint, part, torch.float32)
    fuse(exact, checkpoint, part, changing)
    with torch.no_grad():  # a library may keep single layers in fp32, so the dtypes are theirs
        for parameter, fused in zip(module.parameters(), exact.parameters(), strict=True):
            parameter.copy_(fused)
    return module


def default_precision(device: torch.device) -> Precision:
    """fp16 on CUDA; on a CPU bf16 if it has instructions for it (AMX, AVX-512), else fp32.

    A U-Net row of SD 1.5 at 512 px took 2.2 s in bf16 and 4.1 s in fp32 on two cores of an AMD
    EPYC with avx512_bf16, and 1.1 s and 3.6 s on two cores of an Intel Xeon with AMX.
    """
    if device.type == "cuda":
        return "fp16"
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if device.type == "cpu" and fast else "fp32"
