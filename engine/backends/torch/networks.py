"""The PyTorch backend: in fp32 the reference, in bf16 or fp16 with channels_last the fast one.

On CUDA one graph per profile removes the launch overhead, and `torch.compile` may be added; both
are applied from outside, the networks are the checkpoint's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from engine.backends.torch.compile import CPU_BATCH_SIZES, compile_modules, first_call
from engine.backends.torch.graphs import GraphedCall, GraphPool
from engine.backends.torch.kernels import attention, convolution
from engine.backends.torch.openmp import release_team
from engine.checkpoint import NETWORKS, Checkpoint
from engine.errors import CheckpointError, EngineMismatch
from engine.netspec import UNET_BATCH_SIZES, NetSpec, Precision, Size

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
KERNELS = {"attention": attention, "convolution": convolution}
"""Our own for CPUs in bf16; each takes the layers it can stand in for, where that pays."""


class TorchBackend:
    """One network at one size on a module that others may share.

    `pool` is what the CUDA graphs share; None runs without graphs. A module to be `compiled`
    is so at its first call with each batch size.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        spec: NetSpec,
        device: torch.device,
        *,
        pool: GraphPool | None = None,
        compiled: bool = False,
    ) -> None:
        self.spec = spec
        self.device = device
        self._module = module
        self._pool = pool
        self._graphs: dict[int, GraphedCall] = {}
        self._compiles = compiled
        self._compiled: set[int] = set()

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        inputs = [batch[tensor.name] for tensor in self.spec.inputs]
        size = len(inputs[0])
        if self._compiles and size not in self._compiled:
            with first_call(self.spec.name, size, self.device):
                out = self.eager(inputs)
            self._compiled.add(size)
            if self._pool is None:
                return out
        if self._pool is None:
            return self.eager(inputs)
        if size not in self._graphs:
            label = f"{self.spec.name} at batch {size}"
            self._graphs[size] = GraphedCall(self.eager, inputs, self._pool, label)
        return self._graphs[size](inputs)

    def eager(self, inputs: Sequence[Tensor]) -> Tensor:
        out: Tensor = NETWORKS[self.spec.name].call(
            self._module, DTYPES[self.spec.precision], *inputs
        )
        return out


class TorchNetworks:
    """Every network of a checkpoint in PyTorch; any size whose sides are whole latent cells."""

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
        unet_batch_sizes: Sequence[int] = UNET_BATCH_SIZES,
        pin_batch_size: int | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.modules = modules
        self.device = device
        self.precision = precision
        graphs = cuda_graphs and device.type == "cuda"
        self._pool = GraphPool(device) if graphs else None
        self._static = graphs or compile
        self._compile = compile
        if compile and device.type == "cpu":
            unet_batch_sizes = CPU_BATCH_SIZES
        self._batches = {*unet_batch_sizes} | ({pin_batch_size} if pin_batch_size else set())
        self._pin = pin_batch_size
        self._backends: dict[tuple[str, tuple[int, ...]], TorchBackend] = {}
        parts = (modules["unet"], modules["vae"])
        self._kernels = [k for k in kernels if sum(KERNELS[k].install(part) for part in parts)]
        if compile:
            compile_modules(modules, device)
        release_team()  # the batcher's thread runs the networks, not the one that loaded them

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
        unet_batch_sizes: Sequence[int] = UNET_BATCH_SIZES,
        pin_batch_size: int | None = None,
    ) -> TorchNetworks:
        """Load the weights. Raises CheckpointError where they are missing, unsafe or damaged."""
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        precision = dtype or default_precision(place)
        modules = {}
        for part in ("text_encoder", "vae", "unet"):
            narrow = DTYPES[part_precision(part, precision)]
            module = load_module(checkpoint, part, narrow).to(place)
            if part != "text_encoder" and precision != "fp32":
                module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            modules[part] = module
        return cls(
            checkpoint,
            modules,
            device=place,
            precision=precision,
            kernels=kernels,
            compile=compile,
            cuda_graphs=cuda_graphs,
            unet_batch_sizes=unet_batch_sizes,
            pin_batch_size=pin_batch_size,
        )

    def find(self, net: str, shape: tuple[int, ...]) -> TorchBackend:
        key = (net, shape)
        if key not in self._backends:
            spec = self._spec(net, shape)
            module = self.modules[NETWORKS[net].part]
            self._backends[key] = TorchBackend(
                module,
                spec,
                self.device,
                pool=self._pool,
                compiled=self._compile and net != "text",
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

    def close(self) -> None:
        self._backends.clear()
        self.modules = {}

    def _spec(self, net: str, shape: tuple[int, ...]) -> NetSpec:
        if net not in NETWORKS:
            raise EngineMismatch(f"There is no network named {net!r}.")
        if net != "text" and len(shape) != 3:
            raise EngineMismatch(f"The {net} takes three axes, not {shape}.")
        cell = self.checkpoint.factor
        scale = 1 if net == "vae_encode" else cell
        size = (cell, cell) if net == "text" else (shape[-2] * scale, shape[-1] * scale)
        try:
            spec = self.checkpoint.spec(
                net,
                size,
                precision=part_precision(NETWORKS[net].part, self.precision),
                unet_batch_sizes=self._batches,
            )
        except ValueError as error:
            raise EngineMismatch(f"The {net} cannot run on {shape}: {error}") from None
        if spec.kind != (net, shape):
            raise EngineMismatch(
                f"The {net} of this checkpoint takes {spec.inputs[0].shape}, not {shape}."
            )
        if not self._static:  # eager calls need no profiles, hence no padding
            spec = replace(spec, batch_sizes=tuple(range(1, spec.max_batch + 1)))
        return spec.pinned(self._pin) if self._pin else spec


def default_precision(device: torch.device) -> Precision:
    """fp16 on CUDA; on a CPU bf16 where it has instructions for it (AMX, AVX-512), else fp32.

    A UNet row of SD 1.5 at 512 px took 2.2 s in bf16 and 4.1 s in fp32 on two cores of an AMD
    EPYC with avx512_bf16, and 1.1 s and 3.6 s on two cores of an Intel Xeon with AMX.
    """
    if device.type == "cuda":
        return "fp16"
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if device.type == "cpu" and fast else "fp32"


def part_precision(part: str, precision: Precision) -> Precision:
    """The VAE overflows in fp16 on several published checkpoints, and it runs twice an edit only:
    it stays in fp32 there. bf16 has the range and is kept."""
    return "fp32" if part == "vae" and precision == "fp16" else precision


def load_module(checkpoint: Checkpoint, part: str, dtype: torch.dtype) -> torch.nn.Module:
    """One part with its weights, in evaluation mode, without gradients."""
    checkpoint.weights(part)  # refuses pickles and missing files with a sentence of its own
    try:
        with _quiet():
            module: torch.nn.Module = _class(part).from_pretrained(
                str(checkpoint.folder / part),
                torch_dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                variant=checkpoint.variant,
            )
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"The {part} in {checkpoint.folder} cannot be loaded ({reason}); its files are "
            "incomplete or damaged: fetch the checkpoint again."
        ) from error
    return module.eval().requires_grad_(False)


def _class(part: str) -> Any:
    if part == "text_encoder":
        from transformers import CLIPTextModel

        return CLIPTextModel
    from diffusers import AutoencoderKL, UNet2DConditionModel

    return {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Loading speaks through our own progress, not through the libraries' bars."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
            library.enable_progress_bar()
