"""Device time of calls, also if the host launches calls ahead of it.

The device is simulated: a call returns at once and is finished 1 s + 0.1 s a row later.
"""

from __future__ import annotations

import pytest

from engine.backends import HostQueue
from engine.backends.fake import FakeNetworks
from engine.backends.fake_device import FakeDevice
from engine.batcher import Batcher
from tests.engine.flows import asks, drain

Observed = list[tuple[str, int, float]]


def cost(net: str, rows: int) -> float:
    return 1.0 + 0.1 * rows


def observed_calls(device: FakeDevice, *, idle_until: float = 0.0) -> Observed:
    """What `on_call` is told of three flows of five steps, two of them later than the first."""
    networks = FakeNetworks(denoiser_batch_sizes=(1, 2, 4, 8), clock=device)
    batcher = Batcher(networks)
    observed: Observed = []
    batcher.network_calls.on_call = lambda net, shape, rows, s: observed.append((net, rows, s))
    device.wait_until(idle_until)
    batcher.submit(asks([[1.0, 1.0]] * 5))
    for time in (2.5, 4.5):
        device.at(idle_until + time, lambda: batcher.submit(asks([[2.0, 2.0]] * 5)))
    drain(batcher)
    return observed


@pytest.mark.parametrize("in_flight", [1, 2])
def test_the_device_is_measured_not_the_launch(in_flight: int) -> None:
    device = FakeDevice(cost, in_flight=in_flight)
    observed = observed_calls(device)
    assert len(observed) == len(device.calls) > 5
    assert {rows for _, rows, _ in observed} >= {2, 4}
    for (net, batch, seconds), (_, rows, _) in zip(observed, device.calls, strict=True):
        assert net == "unet" and rows == batch
        assert seconds == pytest.approx(cost(net, rows))


def test_the_time_before_a_call_does_not_count() -> None:
    """The device was idle for 100 s, so its clock is ahead of the last call."""
    device = FakeDevice(cost)
    assert max(seconds for _, _, seconds in observed_calls(device, idle_until=100.0)) < 2


def test_events_of_the_host_measure_the_host() -> None:
    queue = HostQueue()
    began, ended = queue.record(), queue.record()
    assert 0 <= began.elapsed_time(ended) < 1000
    assert ended.elapsed_time(began) <= 0
