"""Calls of the denoiser with other choices of PyTorch: what is worth a change of the program."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.configuration import Configuration
from benchmarks.gpu_check.exactness import release
from benchmarks.gpu_check.setup import Found, Setup
from benchmarks.networks import DENOISER, first_shape, random_inputs
from benchmarks.schema import Measurement, NotRun
from benchmarks.timing import repeat
from engine.checkpoint import Checkpoint

ROWS = (2, 16)


@contextlib.contextmanager
def measured_convolutions() -> Iterator[None]:
    """cuDNN tries its algorithms at the first call of each shape, instead of guessing the best."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


VARIANTS: dict[str, tuple[dict[str, Any], Callable[[], AbstractContextManager[Any]]]] = {
    "as it is": ({}, nullcontext),
    "no CUDA graphs": ({"cuda_graphs": False}, nullcontext),
    "no channels_last": ({"channels_last": False}, nullcontext),
    "cuDNN measures convolutions": ({}, measured_convolutions),
    "attention by flash": ({}, lambda: sdpa_kernel(SDPBackend.FLASH_ATTENTION)),
    "attention by cuDNN": ({}, lambda: sdpa_kernel(SDPBackend.CUDNN_ATTENTION)),
    "attention memory-efficient": ({}, lambda: sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION)),
}
"""Name -> options of the configuration, and a context for loading, capturing and running."""


def variants(setup: Setup) -> Found:
    """The same calls with every variant, each in networks of its own."""
    rows: list[Measurement] = []
    not_run: list[NotRun] = []
    sizes = setup.batches if setup.rehearse else ROWS
    for name, (options, context) in VARIANTS.items():
        try:
            with context(), torch.inference_mode():
                rows += _calls(name, setup, setup.configuration(**options), sizes)
        except RuntimeError as error:  # such as "No available kernel"
            not_run.append(NotRun(name, str(error).split("\n")[0]))
        release()
    return Found(tuple(rows), not_run=tuple(not_run))


def _calls(
    name: str, setup: Setup, configuration: Configuration, sizes: tuple[int, ...]
) -> Iterator[Measurement]:
    checkpoint = Checkpoint.open(setup.model)
    networks, _ = configuration.open(checkpoint)
    with contextlib.closing(networks):
        backend = networks.find(DENOISER, first_shape(checkpoint, DENOISER, setup.load.size))
        for size in sizes:
            inputs = random_inputs(backend, size)
            # The first call warms up, the second captures a graph.
            seconds = repeat(
                lambda inputs=inputs: backend(inputs),  # type: ignore[misc]
                setup.repeats,
                device=backend.device,
                warm_ups=3,
            )
            milliseconds = [1e3 * taken for taken in seconds]
            yield Measurement.of("call", milliseconds, "ms", {"variant": name, "rows": size})
