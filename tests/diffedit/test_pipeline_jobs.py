"""Several edits at once, progress, callbacks, cancelling and closing."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffedit import Cancelled, DiffEditPipeline, EditRequest, EditResult, InvalidRequest
from tests.diffedit.edits import FAST, TEXTS, edit, pixels

pytestmark = pytest.mark.usefixtures("cold")


def test_edits_that_share_calls_come_in_order(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    requests = [
        EditRequest(photo.rotate(90 * i, expand=True), TEXTS[1], TEXTS[0], seed=i, **FAST)
        for i in range(5)
    ]
    together = list(pipe.edit_many(iter(requests), in_flight=5))
    assert [r.seed for r in together] == [0, 1, 2, 3, 4]
    assert len(pipe.batcher._queues) == 0
    for request, shared in zip(requests, together, strict=True):
        pipe.cache_clear()
        alone = next(pipe.edit_many([request]))
        assert (alone.latent_mask == shared.latent_mask).all()
        np.testing.assert_allclose(alone.latents, shared.latents, atol=2e-3)


def test_a_pinned_pipeline_gives_the_same_bits_in_company(tiny: Path, photo: Image.Image) -> None:
    requests = [
        EditRequest(photo.rotate(180 * i), TEXTS[1], TEXTS[0], seed=i, **FAST) for i in range(3)
    ]
    with DiffEditPipeline.from_pretrained(
        tiny, dtype="fp32", device="cpu", pin_batch_size=8
    ) as pinned:
        together = list(pinned.edit_many(requests))
        for request, shared in zip(requests, together, strict=True):
            pinned.cache_clear()
            alone = pinned.submit(request).result()
            assert (alone.latents == shared.latents).all()
            assert (pixels(alone.image) == pixels(shared.image)).all()


def test_a_bad_request_among_many_fails_alone(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    good = EditRequest(photo, TEXTS[1], **FAST)
    bad = EditRequest("no-such-picture.png", TEXTS[1])
    found = list(pipe.edit_many([good, bad, good], return_errors=True))
    assert isinstance(found[0], EditResult) and isinstance(found[2], EditResult)
    assert isinstance(found[1], InvalidRequest)
    with pytest.raises(InvalidRequest, match="no-such-picture"):
        list(pipe.edit_many([bad, good]))


def test_progress_names_stages_and_reaches_its_end(
    pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    seen: list[tuple[str, int, int]] = []
    result = edit(pipe, photo, callback=lambda *p: seen.append(p))
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == ["mask", "encode", "decode"]
    done = [d for _, d, _ in seen]
    assert done == sorted(done) and seen[-1][1:] == (16, 16)
    assert set(result.stats.seconds) == {"mask", "encode", "decode", "total"}
    assert sum(result.stats.seconds.values()) - result.stats.seconds["total"] > 0


def test_cancelling_stops_within_a_call(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    begun = threading.Event()
    request = EditRequest(photo, TEXTS[1], num_inference_steps=500, method="sdedit")
    pending = pipe.submit(request, callback=lambda stage, done, total: begun.set())
    assert begun.wait(20)
    pending.cancel()
    with pytest.raises(Cancelled):
        pending.result()
    assert len(pipe.batcher._queues) == 0


Progress = list[tuple[str, int, int]]


@pytest.mark.parametrize(
    ("run", "stage", "total"),
    [
        (lambda pipe, photo, report: edit(pipe, photo, callback=report), "decode", 16),
        (
            lambda pipe, photo, report: pipe.generate_mask(
                photo, TEXTS[1], TEXTS[0], callback=report, **FAST
            ),
            *("mask", 4),
        ),
        (lambda pipe, photo, report: pipe.invert(photo, 10, 0.5, callback=report), "encode", 2),
    ],
    ids=["edit", "generate_mask", "invert"],
)
def test_progress_counts_the_rows_of_the_plan_and_ends_at_100_percent(
    pipe: DiffEditPipeline, photo: Image.Image, run: Any, stage: str, total: int
) -> None:
    seen: Progress = []
    run(pipe, photo, lambda *progress: seen.append(progress))
    assert {all_rows for _, _, all_rows in seen} == {total}
    done = [rows for _, rows, _ in seen]
    assert done == sorted(done) and seen[-1] == (stage, total, total)


def test_progress_ends_at_100_percent_when_fewer_rows_are_needed(
    pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    """An empty mask ends an edit early, and a cached trajectory needs no row at all."""
    seen: Progress = []
    pipe(photo, "a ball", "a ball", **FAST, callback=lambda *p: seen.append(p))
    assert seen[-1] == ("mask", 16, 16)
    pipe.invert(photo, 10, 0.5)
    seen.clear()
    pipe.invert(photo, 10, 0.5, callback=lambda *p: seen.append(p))
    assert seen == [("encode", 0, 0)]


def test_a_callback_may_end_the_edit(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        edit(pipe, photo, callback=stop)


def test_closing_ends_what_is_under_way(tiny: Path, photo: Image.Image) -> None:
    pipe = DiffEditPipeline.from_pretrained(tiny, dtype="fp32", device="cpu")
    pending = pipe.submit(EditRequest(photo, TEXTS[1], num_inference_steps=500, method="sdedit"))
    pipe.close()
    with pytest.raises(Cancelled):
        pending.result()
