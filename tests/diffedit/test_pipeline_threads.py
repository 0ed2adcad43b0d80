"""Calls that could deadlock: in callbacks, in forked children, and after `close`.

The networks are fake, so an edit takes milliseconds.
"""

from __future__ import annotations

import gc
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from diffedit import Cancelled, DiffEditError, DiffEditPipeline, EditRequest, pipeline
from diffedit.handle import EditHandle
from engine.backends.fake import FakeNetworks
from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint
from engine.errors import EngineUnavailable
from tests.forking import in_child
from tests.waiting import eventually

FAST: dict[str, Any] = {"preset": "paper", "num_inference_steps": 5, "num_maps_per_mask": 2}


def fake_pipeline(tiny: Path, **options: Any) -> DiffEditPipeline:
    return DiffEditPipeline(Checkpoint.open(tiny), FakeNetworks(factor=4, **options))


@pytest.fixture
def pipe(tiny: Path) -> Iterator[DiffEditPipeline]:
    with fake_pipeline(tiny) as opened:
        yield opened


def request(photo: Image.Image, **options: Any) -> EditRequest:
    return EditRequest(photo, "a blue ball", "a red ball", **{**FAST, **options})


def endless(photo: Image.Image) -> EditRequest:
    """An edit that takes long enough to be interrupted."""
    return EditRequest(photo, "a blue ball", method="sdedit", num_inference_steps=1000, strength=1)


CALLS: dict[str, Callable[[DiffEditPipeline, Image.Image], object]] = {
    "edit": lambda pipe, photo: pipe(photo, "c", **FAST),
    "generate_mask": lambda pipe, photo: pipe.generate_mask(photo, "c", **FAST),
    "invert": lambda pipe, photo: pipe.invert(photo, 5),
    "edit_many": lambda pipe, photo: list(pipe.edit_many([request(photo)] * 3)),
    "result": lambda pipe, photo: pipe.submit(request(photo)).result(),
    "future": lambda pipe, photo: pipe.submit(request(photo)).future.result(20),
}


@pytest.mark.parametrize("name", [*CALLS, "close", "with"])
def test_a_callback_that_waits_for_its_own_thread_gets_an_error(
    pipe: DiffEditPipeline, photo: Image.Image, name: str
) -> None:
    def with_block(pipe: DiffEditPipeline, photo: Image.Image) -> None:
        with pipe:
            pass

    others = {"close": lambda pipe, photo: pipe.close(), "with": with_block}
    call = {**CALLS, **others}[name]
    with pytest.raises(EngineUnavailable, match=r"waits for the engine thread.*another thread"):
        pipe(photo, "b", callback=lambda *_: call(pipe, photo), **FAST)
    assert pipe(photo, "d", **FAST).image.size == photo.size  # the pipeline goes on


def test_a_callback_may_submit_and_cancel(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    handles: list[EditHandle] = []

    def submit(stage: str, done: int, total: int) -> None:
        if not handles:
            handles.append(pipe.submit(request(photo, seed=1)))
            handles.append(pipe.submit(endless(photo)))
        handles[1].cancel()

    pipe(photo, "b", callback=submit, **FAST)
    assert handles[0].result().seed == 1
    with pytest.raises(Cancelled):
        handles[1].result()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_callback_that_leaves_reaches_its_own_caller(
    pipe: DiffEditPipeline, photo: Image.Image, error: BaseException
) -> None:
    def leave(*_: object) -> None:
        raise error

    other = pipe.submit(request(photo, num_inference_steps=50))
    with pytest.raises(type(error)):
        pipe(photo, "b", callback=leave, **FAST)
    with pytest.raises(type(error)):
        pipe.submit(request(photo), on_preview=leave).result()
    assert other.result().image.size == photo.size
    assert pipe.batcher.alive


@pytest.mark.parametrize("name", CALLS)
def test_a_forked_child_gets_an_error_after_use_in_the_parent(
    pipe: DiffEditPipeline, photo: Image.Image, name: str
) -> None:
    pipe(photo, "b", **FAST)
    said = in_child(lambda: CALLS[name](pipe, photo))
    assert re.match(r"EngineUnavailable: .*forked.*'spawn'.*open the pipeline in the child", said)
    assert pipe(photo, "d", **FAST).image.size == photo.size


def test_a_forked_child_may_leave_a_with_block(tiny: Path, photo: Image.Image) -> None:
    with fake_pipeline(tiny) as pipe:
        running = pipe.submit(endless(photo))
        assert in_child(pipe.close) == "None"
        assert not running.done


def test_a_pipeline_may_be_used_first_in_a_forked_child(tiny: Path, photo: Image.Image) -> None:
    pipe = fake_pipeline(tiny)
    assert in_child(lambda: pipe(photo, "b", **FAST).image.size) == str(photo.size)
    assert pipe(photo, "b", **FAST).image.size == photo.size
    pipe.close()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("used", [False, True])
def test_a_closed_pipeline_says_so(tiny: Path, photo: Image.Image, name: str, used: bool) -> None:
    pipe = fake_pipeline(tiny)
    if used:
        pipe(photo, "b", **FAST)
    pipe.close()
    pipe.close()
    with pytest.raises(EngineUnavailable, match=r"closed.*open it again"):
        CALLS[name](pipe, photo)


@pytest.mark.parametrize("name", CALLS)
def test_a_pipeline_whose_engine_died_says_so(tiny: Path, photo: Image.Image, name: str) -> None:
    submitted = threading.Event()

    def dies(net: str, batch: Mapping[str, Tensor], output: Tensor) -> None:
        assert submitted.wait(20)
        raise SystemExit("from a driver")

    pipe = fake_pipeline(tiny, fault=dies)
    running = [pipe.submit(request(photo, seed=seed)) for seed in range(3)]
    submitted.set()
    for handle in running:
        with pytest.raises(EngineUnavailable, match=r"failed \(SystemExit: from a driver\)"):
            handle.result()
    with pytest.raises(EngineUnavailable, match="from a driver"):
        CALLS[name](pipe, photo)
    assert not pipe.batcher.alive
    pipe.close()


def test_edit_many_that_is_left_early_cancels_what_runs(
    pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    results = pipe.edit_many([request(photo), *[endless(photo)] * 3], in_flight=4)
    next(results)
    del results
    assert eventually(lambda: not len(pipe.batcher._queues))


def test_a_pipeline_that_is_closed_within_edit_many(
    pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    requests = [request(photo), endless(photo), request(photo), request(photo)]
    results = pipe.edit_many(requests, in_flight=2, return_errors=True)
    next(results)
    pipe.close()
    errors = list(results)
    assert [type(error) for error in errors] == [Cancelled, EngineUnavailable, EngineUnavailable]
    strict = pipe.edit_many(requests)
    with pytest.raises(EngineUnavailable):
        next(strict)


def test_errors_that_edit_many_returns_keep_no_request(
    pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    class Photo:
        """Not a picture."""

    wrong = Photo()
    kept = weakref.ref(wrong)
    requests = iter([EditRequest(wrong, "a ball")])  # type: ignore[arg-type]
    del wrong
    (error,) = pipe.edit_many(requests, return_errors=True)
    assert isinstance(error, DiffEditError)
    gc.collect()
    assert kept() is None


# -- memory -------------------------------------------------------------------------------------


def test_a_deleted_pipeline_is_freed(tiny: Path, photo: Image.Image) -> None:
    before = threading.active_count()
    kept: list[Any] = []
    networks = []
    for _ in range(3):
        pipe = DiffEditPipeline.from_pretrained(tiny, dtype="fp32", device="cpu")
        kept.append(pipe.submit(request(photo), callback=lambda *_, pipe=pipe: None))
        kept.append(kept[-1].result())
        networks.append(weakref.ref(pipe.networks))
        del pipe
    gc.collect()
    assert eventually(lambda: [reference() for reference in networks] == [None] * 3)
    assert eventually(lambda: threading.active_count() <= before)


def test_an_edit_whose_pipeline_is_deleted_is_finished(tiny: Path, photo: Image.Image) -> None:
    handle = fake_pipeline(tiny).submit(request(photo, num_inference_steps=50))
    gc.collect()
    assert handle.result().image.size == photo.size


@pytest.mark.parametrize("broken", ["preprocessor", "warm_up"])
def test_what_was_opened_is_closed_when_opening_fails(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    closed: list[TorchNetworks] = []
    close = TorchNetworks.close

    def record(self: TorchNetworks) -> None:
        closed.append(self)
        close(self)

    def fails(*_: object) -> None:
        raise MemoryError("no memory is left")

    monkeypatch.setattr(TorchNetworks, "close", record)
    if broken == "warm_up":
        monkeypatch.setattr(TorchNetworks, "find", fails)
    else:
        monkeypatch.setattr(pipeline, "Preprocessor", fails)
    threads = threading.active_count()
    with pytest.raises(MemoryError, match="no memory is left"):
        DiffEditPipeline.from_pretrained(tiny, device="cpu", warm=broken == "warm_up")
    assert len(closed) == 1
    assert eventually(lambda: threading.active_count() <= threads)
