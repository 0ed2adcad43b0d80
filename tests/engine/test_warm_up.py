"""The warm-up: what it runs, what it measures, and what it finds out before the first request."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine import warm_up as module
from engine.backends.fake import CHANNELS, TOKENS, FakeBackend, FakeNetworks, Fault
from engine.batcher import Batcher
from engine.errors import Cancelled, EngineMismatch
from engine.row_queues import Kind
from engine.rows import Row
from engine.warm_up import Costs, run_warm_up
from tests.engine.fake_cuda import FakeCuda

SIZE = (32, 32)
TEXT: Kind = ("text", (TOKENS,))
UNET: Kind = ("unet", (CHANNELS, 4, 4))


class Recorder(FakeNetworks):
    """Records loads and calls in order: "load unet", "unet 4"."""

    def __init__(self, fault: Fault | None = None, **options: object) -> None:
        self.log: list[str] = []
        self.fault = fault
        super().__init__(fault=self._record, **options)  # type: ignore[arg-type]

    def find(self, net: str, shape: tuple[int, ...]) -> FakeBackend:
        if (net, shape) not in self.backends:
            self.log.append(f"load {net}")
        return super().find(net, shape)

    def _record(self, net: str, batch: Mapping[str, Tensor], output: Tensor) -> Tensor | None:
        self.log.append(f"{net} {len(output)}")
        return self.fault(net, batch, output) if self.fault else None


@pytest.fixture
def networks() -> Recorder:
    return Recorder(denoiser_batch_sizes=(1, 2, 4))


@pytest.fixture
def batcher(networks: Recorder) -> Iterator[Batcher]:
    made = Batcher(networks)
    made.start()
    yield made
    made.close()


def warmed(batcher: Batcher, *kinds: Kind) -> Costs:
    return run_warm_up(batcher, kinds or (TEXT, UNET))


def failing(kind: type[Exception], rows: int) -> Fault:
    def fault(net: str, batch: Mapping[str, Tensor], output: Tensor) -> None:
        if net == "unet" and len(output) >= rows:
            raise kind("kernel 7 failed\nand a stack trace")

    return fault


def test_everything_is_loaded_before_anything_runs(batcher: Batcher, networks: Recorder) -> None:
    """TensorRT's scratch memory then has its final size, so that no captured graph is lost."""
    costs = warmed(batcher)
    assert networks.log[:2] == ["load text", "load unet"]
    assert networks.log[2:] == [
        f"{net} {b}" for net in ("text", "unet") for b in (1, 1, 2, 2, 4, 4)
    ]
    assert {kind: set(calls) for kind, calls in costs.items()} == {
        ("text", None): {1, 2, 4},
        ("unet", SIZE): {1, 2, 4},
    }


def test_only_the_last_run_is_measured(batcher: Batcher, networks: Recorder) -> None:
    """The first one compiles, binds or captures."""

    def slow_once(net: str, batch: Mapping[str, Tensor], output: Tensor) -> None:
        if networks.log.count(f"{net} {len(output)}") == 1:
            time.sleep(0.2)

    networks.fault = slow_once
    assert all(s < 0.2 for calls in warmed(batcher).values() for s in calls.values())


def test_a_profile_that_fails_is_found(batcher: Batcher, networks: Recorder) -> None:
    """The batcher would hide it: it runs a failed batch in parts."""
    networks.sizes, networks.fault = (SIZE,), failing(RuntimeError, 4)
    with pytest.raises(
        EngineMismatch, match=r"do not run on this machine \(kernel 7 failed\); build"
    ):
        warmed(batcher)


def test_without_engines_the_error_is_raised_as_it_is(batcher: Batcher, networks: Recorder) -> None:
    networks.fault = failing(ValueError, 1)
    with pytest.raises(ValueError, match="kernel 7 failed"):
        warmed(batcher)


def test_a_profile_that_needs_too_much_memory_is_left_out(
    batcher: Batcher, networks: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    networks.fault = failing(torch.OutOfMemoryError, 2)
    assert set(warmed(batcher)["unet", SIZE]) == {1}
    assert "unet 32x32 with 2 rows does not fit into memory" in caplog.text
    assert "unet 4" not in networks.log
    backend = batcher.network_calls.backend(UNET)
    assert backend.spec.batch_sizes == (1,), "requests do not try it again"


def test_the_smallest_profile_must_fit(batcher: Batcher, networks: Recorder) -> None:
    networks.sizes, networks.fault = (SIZE,), failing(torch.OutOfMemoryError, 1)
    with pytest.raises(EngineMismatch, match="kernel 7 failed"):
        warmed(batcher)


def test_an_engine_that_cannot_be_loaded_is_an_error(batcher: Batcher) -> None:
    with pytest.raises(EngineMismatch, match="no network named 'vae'"):
        warmed(batcher, ("vae", (1,)))


def test_slow_networks_run_only_their_small_profiles_on_a_cpu(
    batcher: Batcher, networks: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CPU_SECONDS", 0.1)
    networks.fault = lambda net, batch, output: time.sleep(0.03 * len(output))
    assert set(warmed(batcher)["unet", SIZE]) == {1}
    monkeypatch.setattr(module, "CPU_SECONDS", 0.0)
    assert set(warmed(batcher)["unet", SIZE]) == {1}, "the smallest profile always runs"


def test_a_profile_for_every_number_of_rows_is_sampled() -> None:
    """PyTorch on a CPU has one for every number; 210 rows would take minutes."""
    networks = Recorder(denoiser_batch_sizes=tuple(range(1, 21)))
    batcher = Batcher(networks)
    batcher.start()
    assert set(warmed(batcher)["unet", SIZE]) == {1, 2, 4, 8, 16, 20}
    batcher.close()


def test_a_graph_is_captured_after_the_memory_of_the_first_run_was_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A capture cannot use it: the first run and the graph would need twice the memory."""
    cuda = FakeCuda()
    cuda.install(monkeypatch)

    def run_call(rows: list[Row]) -> list[Tensor]:
        cuda.log.append(f"run {len(rows)} rows")
        return [torch.zeros(2)] * len(rows)

    gpu: Any = SimpleNamespace(
        networks=SimpleNamespace(device=torch.device("cuda", 1)),
        network_calls=SimpleNamespace(run_call=run_call),
    )
    row = Row("unet", (torch.zeros(CHANNELS, 4, 4),))
    seconds = [*module._timed(gpu, [row] * 4, lambda: False)]
    assert len(seconds) == 3
    assert cuda.log == ["run 4 rows", "empty_cache of gpu 1", "run 4 rows", "run 4 rows"]


def test_closing_the_batcher_ends_the_warm_up(batcher: Batcher, networks: Recorder) -> None:
    """An interrupt while waiting sets `stopped`; the next call is not run."""
    started = threading.Event()
    stopped = threading.Event()

    def wait(net: str, batch: Mapping[str, Tensor], output: Tensor) -> None:
        started.set()
        stopped.wait(60)

    networks.fault = wait
    handle = batcher.submit(module.warm_up(batcher, (TEXT, UNET), stopped.is_set))
    assert started.wait(60)
    stopped.set()
    with pytest.raises(Cancelled):
        handle.future.result(60)
    assert networks.log == ["load text", "load unet", "text 1"]
