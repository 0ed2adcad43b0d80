"""The engine thread: many submitters, its end, and calls that would wait for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import pytest
from torch import Tensor

from engine.backends.fake import FakeNetworks
from engine.batcher import Batcher
from engine.errors import Cancelled
from engine.rows import Flow
from tests.engine.flows import alone, asks, row


def test_many_threads_submit_to_one_engine() -> None:
    batcher = Batcher(FakeNetworks())
    batcher.start()
    results: dict[int, list[Tensor]] = {}

    def client(i: int) -> None:
        batcher.start()
        results[i] = batcher.submit(asks([[i], [i + 0.5]])).future.result(timeout=20)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    batcher.close()
    assert sorted(results) == list(range(16))
    assert all(r[0].equal(alone(i)) and r[1].equal(alone(i + 0.5)) for i, r in results.items())


def test_closing_cancels_what_is_under_way_and_refuses_more() -> None:
    def slow(net: str, batch: Mapping[str, Tensor], output: Tensor) -> None:
        time.sleep(0.01)

    def endless() -> Flow[None]:
        while True:
            yield [row(1.0)]

    batcher = Batcher(FakeNetworks(fault=slow))
    batcher.start()
    job = batcher.submit(endless())
    time.sleep(0.05)
    batcher.close()
    with pytest.raises(Cancelled):
        job.future.result(timeout=5)
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(asks([[1.0]]))
