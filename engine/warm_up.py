"""Warm-up: load every network, run every profile, and measure how long its calls take.

The calls use the batcher's input tensors, because CUDA graphs and bindings depend on their
addresses.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from engine.backends import Backend
from engine.batcher import Batcher
from engine.cuda import empty_cache
from engine.dtypes import TORCH_DTYPES
from engine.errors import Cancelled, DiffEditError, EngineMismatch, first_line, out_of_memory
from engine.netspec import NetSpec, Size, TensorSpec, format_size
from engine.row_queues import Kind
from engine.rows import Answer, Flow, Row

log = logging.getLogger(__name__)

Costs = Mapping[tuple[str, Size | None], Mapping[int, float]]
"""(network, picture size) -> rows in the call -> seconds. The size is None for text encoders."""

RUNS_ON_GPU = 3
"""The first call binds and warms up, the second captures a CUDA graph, the third is measured."""
RUNS_ON_CPU = 2
"""The first call warms up, the second is measured."""
CPU_SECONDS = 10.0
"""Maximum seconds for the measured calls of one network on a CPU. The smallest profile always runs;
larger ones run if they are expected to fit. The time of a call on a CPU is proportional to its
rows, so the other profiles need no measurement."""


def run_warm_up(batcher: Batcher, kinds: Sequence[Kind]) -> Costs:
    """Submit `warm_up` and wait for it. An interrupt (Ctrl-C) while waiting ends it.

    Raises:
        EngineMismatch: an engine cannot be loaded, or does not run on this machine.
    """
    stop = threading.Event()
    try:
        return batcher.submit(warm_up(batcher, kinds, stop.is_set)).future.result()
    except DiffEditError:
        raise
    except Exception as error:
        if batcher.networks.sizes is None:  # there are no engines to build again
            raise
        raise EngineMismatch(
            f"The engines do not run on this machine ({first_line(error)}); build them again here, "
            "or use backend='torch'."
        ) from error
    finally:
        stop.set()


def warm_up(batcher: Batcher, kinds: Sequence[Kind], stopped: Callable[[], bool]) -> Flow[Costs]:
    """Load the networks of `kinds`, run their profiles and measure them. A flow, like an edit.

    All networks are loaded before the first call, so that their shared scratch memory has its final
    size when CUDA graphs are captured. If a profile does not fit into memory, it and the larger
    ones are disabled with a warning; the smallest must fit.

    Args:
        batcher: runs this flow.
        kinds: the networks, each with the shape of its first input.
        stopped: called between network calls; if it returns True, Cancelled is raised.

    Raises any error of a network while it is loaded or run.
    """
    yield []  # continue on the engine thread, which owns the networks
    backends = [batcher.network_calls.backend(kind) for kind in kinds]
    costs: dict[tuple[str, Size | None], Mapping[int, float]] = {}
    for backend in backends:
        costs[backend.spec.name, backend.spec.size] = _measure(batcher, backend, stopped)
    return costs


def _measure(batcher: Batcher, backend: Backend, stopped: Callable[[], bool]) -> dict[int, float]:
    """Rows in the call -> seconds, for the profiles of one network."""
    spec, device = backend.spec, batcher.networks.device
    row = Row(spec.name, tuple(_sample(tensor, device) for tensor in spec.inputs))
    size = f" {format_size(spec.size)}" if spec.size else ""
    seconds: dict[int, float] = {}
    for batch in _profiles(spec, device):
        if device.type == "cpu" and _expected(seconds, batch) > CPU_SECONDS:
            log.info("warm-up: %s%s, %d rows and more: not run, too slow", spec.name, size, batch)
            break
        try:
            *_, last = _timed(batcher, [row] * batch, stopped)
        except Exception as error:
            if not seconds or not out_of_memory(error):
                raise
            log.warning("%s%s with %d rows does not fit into memory", spec.name, size, batch)
            fitting = tuple(b for b in spec.batch_sizes if b < batch)
            backend.spec = replace(spec, batch_sizes=fitting)  # not tried again
            break
        seconds[batch] = last
        batcher.network_calls.times.observe(spec.kind, batch, last)
        log.info("warm-up: %s%s, %d rows: %.4f s", spec.name, size, batch, last)
    return seconds


def _timed(batcher: Batcher, rows: list[Row], stopped: Callable[[], bool]) -> Iterator[float]:
    """Run the same call several times; yields the seconds of each."""
    device = batcher.networks.device
    for run in range(RUNS_ON_GPU if device.type == "cuda" else RUNS_ON_CPU):
        if stopped():
            raise Cancelled("The warm-up was cancelled.")
        if device.type == "cuda" and run == 1:
            empty_cache(device)  # what the first run used; the graph has memory of its own
        began = time.perf_counter()
        _synchronize(batcher.network_calls.run_call(rows)[-1])
        yield time.perf_counter() - began


def _synchronize(answer: Answer) -> None:
    """Wait until the device has computed an answer."""
    tensor = answer if isinstance(answer, Tensor) else answer[0]
    tensor.flatten()[0].item()


def _profiles(spec: NetSpec, device: torch.device) -> tuple[int, ...]:
    """The profiles to run. PyTorch on a CPU has one for every number of rows; powers of two and the
    largest are enough there."""
    sizes = spec.batch_sizes
    every_number = sizes == tuple(range(1, spec.max_batch + 1))
    if device.type != "cpu" or not every_number:
        return sizes
    return tuple(b for b in sizes if b & (b - 1) == 0 or b == spec.max_batch)


def _expected(seconds: Mapping[int, float], batch: int) -> float:
    """Seconds of all measured runs of a network, if a profile of `batch` rows is run next."""
    if not seconds:
        return 0.0
    rows, last = max(seconds.items())
    return RUNS_ON_CPU * (sum(seconds.values()) + last * batch / rows)


def _sample(tensor: TensorSpec, device: torch.device) -> Tensor:
    """An input of one row: zeros for ids, otherwise reproducible numbers in [0, 1)."""
    dtype = TORCH_DTYPES[tensor.dtype]
    if not dtype.is_floating_point:
        return torch.zeros(tensor.shape, dtype=dtype, device=device)
    generator = torch.Generator().manual_seed(0)
    return torch.rand(tensor.shape, dtype=dtype, generator=generator).to(device)
