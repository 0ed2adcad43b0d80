"""An engine host and a scheduler without HTTP, on one event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from demo.fake_server import open_fake
from diffedit.pipeline import DiffEditPipeline
from diffedit.server import Settings
from diffedit.server.engine_host import EngineHost
from diffedit.server.forms import EditForm
from diffedit.server.jobs import Job
from diffedit.server.scheduler import Scheduler
from tests.server.helpers import FAST, PROMPTS, image_bytes

SECONDS = 30.0
OPTIONS = {**PROMPTS, "preset": "paper", "num_inference_steps": 5, "num_maps_per_mask": 2}
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
