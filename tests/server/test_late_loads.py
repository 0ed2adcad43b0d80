"""Models that are loaded too late, or that fail to load: none is lost or left open."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

from demo.fake_server import open_fake
from diffedit.pipeline import DiffEditPipeline
from diffedit.server import Settings
from diffedit.server.engine_host import EngineHost
from diffedit.server.scheduler import Scheduler
from tests.server.engine_loop import SECONDS, Opener, admit, on_server, unload, until

pytestmark = pytest.mark.usefixtures("nothing_is_lost")


def test_reload_that_its_client_abandons_serves_the_next_one(tiny: Path) -> None:
    opener = Opener(tiny)

    async def test(host: EngineHost, scheduler: Scheduler) -> None:
        await unload(host)
        for _ in range(3):
            job = admit(scheduler)
            await until(opener.opening.is_set, "the reload has begun")
            await scheduler.cancel(job)
        last = admit(scheduler)
        opener.gate.set()
        await last.wait()
        assert last.state == "succeeded"
        assert len(opener.opened) == 2, "the load of the abandoned request is used"
        assert len(opener.alive) == 1

    on_server(opener, test, idle_unload_seconds=0.05)
    assert opener.alive == []


def test_load_that_ends_after_the_server_is_closed(tiny: Path) -> None:
    opener = Opener(tiny)

    async def test(host: EngineHost, scheduler: Scheduler) -> None:
        await unload(host)
        admit(scheduler)
        await until(opener.opening.is_set, "the reload has begun")

    on_server(opener, test, idle_unload_seconds=0.05)
    opener.gate.set()
    deadline = time.monotonic() + SECONDS
    while len(opener.opened) < 2 or opener.alive:
        assert time.monotonic() < deadline, "the late pipeline closes itself"
        time.sleep(0.01)


def test_pipeline_that_cannot_be_measured_is_closed(tiny: Path) -> None:
    pipeline = open_fake(tiny)

    def broken(net: str, shape: tuple[int, ...]) -> None:
        raise RuntimeError("the networks do not run")

    pipeline.networks.find = broken  # type: ignore[assignment, method-assign]
    failed = threading.Event()

    async def run() -> None:
        host = EngineHost(lambda: pipeline, "fake", Settings(), failed.set)
        host.start()
        await until(failed.is_set, "the first load has failed")
        assert "the networks do not run" in str(host.load_error)
        assert not pipeline.batcher.alive
        await host.stop()

    asyncio.run(run())


def test_failed_reload_is_tried_again(tiny: Path) -> None:
    opener, fails = Opener(tiny), [True, False]

    def open_sometimes() -> DiffEditPipeline:
        if opener.opened and fails.pop(0):
            raise OSError("the disk is away")
        opener.gate.set()
        return opener()

    async def test(host: EngineHost, scheduler: Scheduler) -> None:
        await unload(host)
        first = admit(scheduler)
        await first.wait()
        second = admit(scheduler)
        await second.wait()
        assert (first.state, second.state) == ("failed", "succeeded")

    settings = {"idle_unload_seconds": 0.05}

    async def run() -> None:
        host = EngineHost(open_sometimes, "fake", Settings.model_validate(settings))
        scheduler = Scheduler(host, Settings.model_validate(settings))
        host.start()
        await until(lambda: host.warm, "the model is loaded")
        await test(host, scheduler)
        await host.stop()
        scheduler.runner.close()

    asyncio.run(run())
