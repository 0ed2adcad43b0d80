"""Jobs that are cancelled, drained or lost with the engine get one response."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

from diffedit.pipeline import DiffEditPipeline
from diffedit.server.engine_host import EngineHost
from diffedit.server.forms import EditForm
from diffedit.server.scheduler import Scheduler
from tests.server.engine_loop import OPTIONS, SECONDS, Opener, admit, on_server, until
from tests.server.helpers import image_bytes

pytestmark = pytest.mark.usefixtures("nothing_is_lost")


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
