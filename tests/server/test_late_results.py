"""What comes too late has an owner: loads, submits and jobs of clients that have left.

The parts run here without HTTP, on one event loop, so that each interruption is exact.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

from demo.fake_server import open_fake
from diffedit.pipeline import DiffEditPipeline
from diffedit.server import Settings
from diffedit.server.engine_host import EngineHost
from diffedit.server.forms import EditForm
from diffedit.server.jobs import Job
from diffedit.server.scheduler import Scheduler
from tests.server.helpers import FAST, PROMPTS, image_bytes

SECONDS = 30.0
OPTIONS = {**PROMPTS, "num_inference_steps": 5, "num_maps_per_mask": 2}
FORM = EditForm(image_bytes(), None, OPTIONS)
assert int(FAST["num_inference_steps"]) == OPTIONS["num_inference_steps"]


class Opener:
    """Opens fake pipelines; from the second one on it waits for `gate`.

    Attributes:
        opened: every pipeline.
        gate: set to let reloads continue.
        opening: set when a reload has begun.
    """

    def __init__(self, folder: Path, call_seconds: float = 0.0) -> None:
        self._folder, self._call_seconds = folder, call_seconds
        self.opened: list[DiffEditPipeline] = []
        self.gate, self.opening = threading.Event(), threading.Event()

    def __call__(self) -> DiffEditPipeline:
        if self.opened:
            self.opening.set()
            assert self.gate.wait(SECONDS)
        self.opened.append(open_fake(self._folder, call_seconds=self._call_seconds))
        return self.opened[-1]

    @property
    def alive(self) -> list[DiffEditPipeline]:
        """The pipelines that have not been closed."""
        return [pipeline for pipeline in self.opened if pipeline.batcher.alive]


async def until(condition: Callable[[], object], description: str) -> None:
    """Wait for a condition on the event loop."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, description
        await asyncio.sleep(0.005)


def on_server(
    opener: Opener, test: Callable[[EngineHost, Scheduler], Awaitable[None]], **limits: float
) -> None:
    """Run a test against a ready engine host and scheduler."""

    async def run() -> None:
        settings = Settings.model_validate(limits)
        host = EngineHost(opener, "fake", settings)
        scheduler = Scheduler(host, settings)
        host.start()
        await until(lambda: host.warm, "the model is loaded")
        try:
            await test(host, scheduler)
        finally:
            await scheduler.drain(0)
            await host.stop()
            scheduler.runner.close()

    asyncio.run(run())


async def unload(host: EngineHost) -> None:
    await until(lambda: host.pipeline is None and not host.loading, "the idle model is unloaded")


def admit(scheduler: Scheduler, form: EditForm = FORM) -> Job:
    return scheduler.admit(form, timeout=None, request_id="test")


@pytest.fixture(autouse=True)
def nothing_is_lost(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No exception of a task or future is dropped, and no task is left pending."""
    caplog.set_level(logging.ERROR, "asyncio")
    yield
    gc.collect()
    assert [r.getMessage() for r in caplog.records if r.name == "asyncio"] == []


# -- loads -----------------------------------------------------------------------------------------


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


# -- submits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["at once", "while decoding", "while submitting", "running"])
def test_cancelled_edit_makes_no_further_calls(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    opener = Opener(tiny, call_seconds=0.01)
    entered, gate = threading.Event(), threading.Event()

    def hold(name: str) -> None:
        """Stop in a function of the image pool until `gate` is set."""
        target: object = DiffEditPipeline if name == "submit" else decode_module
        original = getattr(target, name)

        def held(*arguments: object, **options: object) -> object:
            entered.set()
            assert gate.wait(SECONDS)
            return original(*arguments, **options)

        monkeypatch.setattr(target, name, held)

    from diffedit.server import image_codec as decode_module

    async def test(host: EngineHost, scheduler: Scheduler) -> None:
        pipeline = opener.opened[0]
        if moment == "while decoding":
            hold("decode_form")
        if moment == "while submitting":
            hold("submit")
        before = sum(pipeline.batcher.calls.values())
        job = admit(scheduler)
        if moment.startswith("while"):
            await until(entered.is_set, moment)
        if moment == "running":
            await until(lambda: sum(pipeline.batcher.calls.values()) > before, "it runs")
        await asyncio.wait_for(scheduler.cancel(job), SECONDS)
        assert job.state == "cancelled"
        assert not scheduler.active
        gate.set()
        await asyncio.sleep(0.1)
        calls = sum(pipeline.batcher.calls.values())
        await asyncio.sleep(0.1)
        assert sum(pipeline.batcher.calls.values()) == calls, "the edit runs on"
        assert calls - before <= {"running": 2, "while submitting": 1}.get(moment, 0)

    on_server(opener, test)


def test_job_is_cancelled_before_its_task_has_begun(tiny: Path) -> None:
    async def test(host: EngineHost, scheduler: Scheduler) -> None:
        job = admit(scheduler)
        scheduler.request_cancel(job)
        await asyncio.wait_for(job.wait(), SECONDS)
        assert job.state == "cancelled"
        assert not scheduler.active
        assert not scheduler.waiting

    on_server(Opener(tiny), test)


def test_drain_out_of_time_answers_every_job_with_draining(tiny: Path) -> None:
    opener = Opener(tiny, call_seconds=0.01)
    slow = EditForm(image_bytes(), None, {**OPTIONS, "num_inference_steps": 900}, n=2)

    async def test(host: EngineHost, scheduler: Scheduler) -> None:
        jobs = [admit(scheduler, slow) for _ in range(3)]
        await until(lambda: len(scheduler.active) == 1, "one runs, two wait")
        await asyncio.sleep(0.1)
        assert not await scheduler.drain(0.1)
        for job in jobs:
            assert job.error is not None
            assert (job.error.status, job.error.code) == (503, "draining")
            assert int(job.error.headers["Retry-After"]) >= 1
            assert job.state == "failed"

    on_server(opener, test, max_active=1, max_queue_seconds=1e6, request_seconds=1e6)


def test_failed_preview_does_not_fail_the_edit(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffedit.server import image_codec

    def no_memory(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(image_codec, "encode_preview", no_memory)
    form = EditForm(image_bytes(), None, OPTIONS, partial_images=2)

    async def test(host: EngineHost, scheduler: Scheduler) -> None:
        job = admit(scheduler, form)
        await job.wait()
        assert job.state == "succeeded"

    on_server(Opener(tiny), test)


def test_engine_that_dies_fails_its_jobs_with_engine_lost(tiny: Path) -> None:
    """Whatever the batcher raises: the client learns that the engine is lost."""
    opener = Opener(tiny, call_seconds=0.01)

    async def test(host: EngineHost, scheduler: Scheduler) -> None:
        jobs = [admit(scheduler), admit(scheduler)]
        await until(lambda: len(scheduler.active) == 2, "they run")
        await asyncio.to_thread(opener.opened[0].batcher.close)
        for job in jobs:
            await job.wait()
            assert job.error is not None
            assert (job.error.status, job.error.code) == (503, "engine_lost")
        assert not host.warm
        with pytest.raises(Exception, match="engine thread"):
            admit(scheduler)

    on_server(opener, test)
