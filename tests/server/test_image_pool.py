"""The threads that decode and encode images: owners take turns, and nothing is left waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future

import pytest

from diffedit.server.image_pool import ImagePool


class Gate:
    """A call that ends when it is opened; `order` has the names of the calls that began."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self._open = threading.Event()
        self._began = threading.Semaphore(0)

    def __call__(self, name: str) -> str:
        self.order.append(name)
        self._began.release()
        assert self._open.wait(10)
        return name

    def wait_until_begun(self) -> None:
        assert self._began.acquire(timeout=10)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def pool() -> Iterator[ImagePool]:
    pool = ImagePool(1)
    yield pool
    pool.close()


def test_an_owner_with_many_calls_does_not_delay_another(pool: ImagePool) -> None:
    gate = Gate()
    flood = [pool.submit("flood", gate, f"flood {k}") for k in range(8)]
    gate.wait_until_begun()
    quiet = [pool.submit("quiet", gate, f"quiet {k}") for k in range(2)]
    gate.open()
    assert [one.result(10) for one in quiet] == ["quiet 0", "quiet 1"]
    assert [one.result(10) for one in flood] == [f"flood {k}" for k in range(8)]
    assert gate.order[:5] == ["flood 0", "quiet 0", "flood 1", "quiet 1", "flood 2"]


def test_the_owner_with_the_fewest_running_calls_is_next() -> None:
    pool, gate = ImagePool(3), Gate()
    calls = [pool.submit("many", gate, "many") for _ in range(2)]
    for _ in calls:
        gate.wait_until_begun()
    calls += [pool.submit("few", gate, "few"), pool.submit("many", gate, "many")]
    gate.wait_until_begun()
    assert gate.order == ["many", "many", "few"]
    calls.append(pool.submit("few", gate, "few"))
    gate.open()
    assert [one.result(10) for one in calls] == ["many", "many", "few", "many", "few"]
    pool.close()


def test_errors_belong_to_their_call(pool: ImagePool) -> None:
    def fail() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        pool.submit(None, fail).result(10)
    assert pool.submit(None, len, "ab").result(10) == 2


def test_a_call_that_has_not_begun_can_be_cancelled(pool: ImagePool) -> None:
    gate = Gate()
    first: Future[str] = pool.submit("a", gate, "first")
    gate.wait_until_begun()
    second, third = (pool.submit("a", gate, name) for name in ("second", "third"))
    assert second.cancel()
    gate.open()
    assert (first.result(10), third.result(10)) == ("first", "third")
    assert gate.order == ["first", "third"]


def test_a_coroutine_that_ends_cancels_its_call(pool: ImagePool) -> None:
    gate = Gate()

    async def run() -> str:
        running = asyncio.create_task(pool.run("a", gate, "first"))
        await asyncio.to_thread(gate.wait_until_begun)
        waiting = asyncio.create_task(pool.run("a", gate, "second"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.open()
        return await running

    assert asyncio.run(run()) == "first"
    assert pool.submit("b", len, "abc").result(10) == 3
    assert gate.order == ["first"]


def test_closing_cancels_what_has_not_begun() -> None:
    pool, gate = ImagePool(1), Gate()
    running = pool.submit("a", gate, "first")
    gate.wait_until_begun()
    waiting = [pool.submit(owner, gate, "late") for owner in "ab"]
    pool.close()
    gate.open()
    assert running.result(10) == "first"
    for one in waiting:
        with pytest.raises(CancelledError):
            one.result(10)
    assert gate.order == ["first"]
