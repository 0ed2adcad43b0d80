"""The PyTorch backend: the reference in fp32, fast in bf16 or fp16 with channels_last.

On CUDA, one graph per profile removes the launch overhead; `torch.compile` is optional. Neither
changes the modules of the checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from engine.backends import Details
from engine.backends.torch.compile import CPU_BATCH_SIZES, compile_modules, first_call
from engine.backends.torch.kernels import attention, convolution
from engine.backends.torch.openmp import release_team
from engine.backends.torch.parts import Parts
from engine.backends.torch.weights import Weights, default_precision
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
from engine.forecast import text_parts
from engine.lora.file import Lora
from engine.models import Network
from engine.netspec import DENOISER_BATCH_SIZES, NetSpec, Precision, Size
from engine.weights_check import check_weights

KERNELS = {"attention": attention, "convolution": convolution}
"""This project's kernels for CPUs in bf16; each replaces layers that it runs faster."""


class TorchBackend:
    """One network at one size, on a module that other networks may share.

    Args:
        network: how the module of its part is called.
        parts: has the module.
        graphs: runs the calls on a GPU; None on a CPU.
        allow_tf32: compute in TF32 where `spec` says fp32; for GPUs.
        compiled: whether the module is compiled at its first call with each batch size.
    """

    def __init__(
        self,
        network: Network,
        parts: Parts,
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
        self._parts = parts
        self._graphs = graphs
        self._allow_tf32 = allow_tf32
        self._compiles = compiled
        self._compiled: set[int] = set()

    def __call__(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        self._parts.use(self._network.part)  # here, because the replay of a graph needs no module
        inputs = [batch[tensor.name] for tensor in self.spec.inputs]
        size = len(inputs[0])
        run = partial(self.eager if size in self._compiled else self._first_call, inputs)
        if self._graphs is None or self._parts.is_offloaded(self._network.part):
            return run()
        addresses = tuple(tensor.data_ptr() for tensor in inputs)
        return self._graphs.run(Call(*self.spec.kind, size), addresses, run)

    def eager(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Enqueue one call on the current stream."""
        exact = self.device.type == "cuda" and self.spec.precision == "fp32"
        with fp32_arithmetic(self._allow_tf32) if exact else contextlib.nullcontext():
            module = self._parts.use(self._network.part)
            out = self._network.call(module, TORCH_DTYPES[self.spec.precision], *inputs)
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
        own_precisions: Mapping[str, Precision] | None = None,
        offloaded: Collection[str] = (),
        kernels: Sequence[str] = tuple(KERNELS),
        compile: bool = False,
        cuda_graphs: bool = False,
        allow_tf32: bool = False,
        denoiser_batch_sizes: Sequence[int] = DENOISER_BATCH_SIZES,
        pin_batch_size: int | None = None,
        loras: Sequence[Lora] = (),
    ) -> None:
        self.checkpoint = checkpoint
        self.device = device
        weights = Weights(checkpoint, device, precision, own_precisions or {}, loras)
        self._weights = weights.reopening(offloaded)
        self.parts = Parts(modules, device, offloaded, self._weights.load)
        self.queue = device_queue(device)
        self.precision = precision
        self._graphs: CudaGraphs[tuple[Tensor, ...]] | None = None
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # wait until the weights are copied, on any stream
            self._graphs = CudaGraphs(ExecutionStream(device), MAX_GRAPHS if cuda_graphs else 0)
        self._allow_tf32 = allow_tf32
        self._static = compile or (cuda_graphs and device.type == "cuda")
        self._compile = compile
        if compile and device.type == "cpu":
            denoiser_batch_sizes = CPU_BATCH_SIZES
        self._batches = {*denoiser_batch_sizes} | ({pin_batch_size} if pin_batch_size else set())
        self._pin = pin_batch_size
        self._backends: dict[tuple[str, tuple[int, ...]], TorchBackend] = {}
        self._kernels = self._install(kernels)
        if compile:
            compile_modules(self._compiled_modules(), device)
        release_team()  # the engine thread runs the networks, not the thread that loaded them

    @property
    def modules(self) -> dict[str, torch.nn.Module]:
        """Part -> module, without the parts that are offloaded now."""
        return self.parts.modules

    @classmethod
    def open(
        cls,
        checkpoint: Checkpoint,
        *,
        device: str | None = None,
        dtype: Precision | None = None,
        own_dtypes: Mapping[str, Precision] | None = None,
        offload_text: bool = False,
        ignore_memory: bool = False,
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
            own_dtypes: part -> dtype, for parts that need another one.
            offload_text: load text encoders only while they run; see `Parts`.
            ignore_memory: load even if the weights are larger than the free memory.
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
        weights = Weights(checkpoint, on, precision, own_dtypes or {}, loras)
        check_weights(checkpoint)
        if not ignore_memory:
            weights.require_memory(offload_text=offload_text)
        offloaded = text_parts(checkpoint) if offload_text else frozenset()
        names = [part.name for part in checkpoint.family.parts if part.name not in offloaded]
        return cls(
            checkpoint,
            {name: weights.load(name).to(on) for name in names},
            device=on,
            precision=precision,
            own_precisions=weights.own,
            offloaded=offloaded,
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
                self.parts,
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
        precision = self.details().precision
        return f"torch {torch.__version__} on {where}, {precision}{own}{compiled}"

    def details(self) -> Details:
        own = ", ".join(f"{part} in {other}" for part, other in self._weights.own.items())
        precision = f"{self.precision} with {own}" if own else self.precision
        loras = tuple(lora.identity for lora in self._weights.loras)
        return Details(precision, tuple(self._kernels), loras)

    def close(self) -> None:
        if self._graphs is not None:
            wait_for(self.device)
            self._graphs.clear()
        self._backends.clear()
        self.parts.clear()
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
                precision=self._weights.precision_of(network.part),
                denoiser_batch_sizes=self._batches,
            )
        except ValueError as error:
            raise EngineMismatch(f"The {network.name} cannot run on {shape}: {error}.") from None
        if spec.kind != (network.name, shape):
            raise EngineMismatch(
                f"The {network.name} of this checkpoint takes {spec.inputs[0].shape}, not {shape}."
            )
        if not self._static:  # eager calls need no profiles and no padding
            spec = replace(spec, batch_sizes=tuple(range(1, spec.max_batch + 1)))
        return spec.pinned(self._pin) if self._pin else spec
