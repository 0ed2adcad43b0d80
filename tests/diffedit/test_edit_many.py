"""`edit_many` when the caller's iterable or a later request fails: earlier results come first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import Image

from diffedit import DiffEditPipeline, EditRequest, InvalidRequest
from tests.diffedit.edits import FAST, TEXTS
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("cold")


def request(photo: Image.Image, seed: int = 0) -> EditRequest:
    return EditRequest(photo, TEXTS[1], TEXTS[0], seed=seed, **FAST)


def broken(photo: Image.Image, count: int) -> Iterator[EditRequest]:
    for seed in range(count):
        yield request(photo, seed)
    raise OSError("the caller's list cannot be read")


@pytest.mark.parametrize(("in_flight", "return_errors"), [(1, False), (2, True), (8, False)])
def test_results_before_a_failure_of_the_callers_iterable(
    pipe: DiffEditPipeline, photo: Image.Image, in_flight: int, return_errors: bool
) -> None:
    results = pipe.edit_many(broken(photo, 3), in_flight=in_flight, return_errors=return_errors)
    assert [getattr(next(results), "seed", None) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the caller's list"):
        next(results)
    assert list(results) == []


def test_a_failure_before_the_first_request(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    with pytest.raises(OSError, match="the caller's list"):
        next(pipe.edit_many(broken(photo, 0)))


def test_results_before_a_request_that_cannot_start(
    pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    bad = EditRequest("no-such-picture.png", TEXTS[1])
    results = pipe.edit_many([request(photo, 4), bad, request(photo, 5)])
    assert next(results).seed == 4
    with pytest.raises(InvalidRequest, match="no-such-picture"):
        next(results)


def test_an_iterator_dropped_after_the_failure_cancels_its_edits(
    pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    endless = EditRequest(photo, TEXTS[1], num_inference_steps=1000, strength=1, preset="paper")

    def requests() -> Iterator[EditRequest]:
        yield request(photo)
        yield endless
        raise OSError

    results = pipe.edit_many(requests())
    next(results)
    del results
    assert eventually(lambda: not len(pipe.batcher._queues))
