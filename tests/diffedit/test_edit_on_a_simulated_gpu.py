"""Whole edits on the simulated GPU: the values of a CPU, no race, no wait inside a stage, graphs.

The simulation raises `GpuFault` for a race, and the error fails the edit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffedit import DiffEditPipeline, EditRequest, EditResult
from engine.errors import Cancelled
from tests.shared import Folders
from tests.simulated_gpu import simulated_gpu
from tests.simulated_gpu.order import Waits

TEXTS = ("a blue ball on a table", "a red ball on a table")
KINDS = ("tiny", "tiny-lcm", "tiny-sdxl", "tiny-sd3", "tiny-flux")
SHORT: dict[str, Any] = {"num_inference_steps": 8, "mask_threshold": 0.2}
TOLERANCE = 2e-4
"""Of the latents: the GPU has other batch sizes, which the CPU sums in another order."""
READS = {"paper": 2, "balanced": 9, "instant": 4}
"""Waits of the host in an edit: for the mask and for the last check; a cleaned mask adds two each
time, and a further noise asks whether the mask is stable."""

Run = Callable[[DiffEditPipeline], Any]


def on_both(model: Any, run: Run, **options: Any) -> tuple[Any, Any, Any]:
    """What `run` returns on the CPU, and on the simulated GPU the first and the second time."""
    with DiffEditPipeline.from_pretrained(model, device="cpu", dtype="fp32", **options) as pipe:
        want = run(pipe)
    with (
        simulated_gpu(),
        DiffEditPipeline.from_pretrained(model, device="cuda", dtype="fp32", **options) as pipe,
    ):
        assert pipe.networks.device.type == "cuda"
        first = run(pipe)
        pipe.cache_clear()
        return want, first, run(pipe)


def assert_near(got: EditResult, want: EditResult) -> None:
    assert (got.latent_mask == want.latent_mask).all() and want.latent_mask.any()
    assert np.abs(got.latents - want.latents).max() < TOLERANCE


@pytest.mark.parametrize("preset", READS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_is_the_cpus(
    kind: str,
    preset: str,
    folders: Folders,
    photo: Image.Image,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every call is captured, so nothing in a network waits or copies from the host."""
    waits = []

    def edit(pipe: DiffEditPipeline) -> EditResult:
        Waits.count = 0
        result = pipe(photo, *TEXTS, preset=preset, **SHORT)
        waits.append(Waits.count)
        return result

    want, first, second = on_both(folders(kind), edit)
    assert_near(first, want)
    assert_near(second, want)
    assert waits[0] == 0 and waits[2] <= READS[preset]
    assert not [record for record in caplog.records if record.name == "engine.cuda_graphs"]


def test_a_stage_does_not_wait(folders: Folders, photo: Image.Image) -> None:
    with (
        simulated_gpu(),
        DiffEditPipeline.from_pretrained(folders("tiny"), device="cuda", warm=True) as pipe,
    ):
        pipe(photo, *TEXTS, preset="paper", **SHORT)

        def guard(stage: str, done: int, total: int) -> None:
            torch.cuda.set_sync_debug_mode(
                "error" if stage != "mask" and done < total else "default"
            )

        pipe.cache_clear()
        pipe.submit(EditRequest(photo, *TEXTS, preset="paper", **SHORT), callback=guard).result()


def submitted_on_its_own_stream(pipe: DiffEditPipeline, photo: Image.Image) -> EditResult:
    """The caller's stream is not the engine's."""
    cuda = pipe.networks.device.type == "cuda"
    with torch.cuda.stream(torch.cuda.Stream()) if cuda else nullcontext():
        return pipe(photo, *TEXTS, **SHORT)


def after_a_cancel(pipe: DiffEditPipeline, photo: Image.Image) -> EditResult:
    handle = pipe.submit(EditRequest(photo, *TEXTS, num_inference_steps=200))
    handle.cancel()
    with pytest.raises(Cancelled):
        handle.result()
    return pipe(photo, *TEXTS, **SHORT)


def with_previews(pipe: DiffEditPipeline, photo: Image.Image) -> EditResult:
    seen: list[Any] = []
    request = EditRequest(photo, *TEXTS, **SHORT)
    result = pipe.submit(request, on_preview=lambda *preview: seen.append(preview)).result()
    assert seen
    return result


def with_a_mask(pipe: DiffEditPipeline, photo: Image.Image) -> EditResult:
    """Grey levels, so that pixels are released step by step."""
    grey = np.linspace(0, 255, photo.width)[None] * np.ones((photo.height, 1))
    mask = Image.fromarray(grey.astype(np.uint8))
    return pipe(photo, *TEXTS, mask_image=mask, num_inference_steps=8)


def several(pipe: DiffEditPipeline, photo: Image.Image) -> EditResult:
    edits = [("a red ball", "a blue ball"), ("a table", "a white table")]
    return pipe(photo, edits=[{"source_prompt": r, "prompt": q} for r, q in edits], **SHORT)


@pytest.mark.parametrize(
    "run", [submitted_on_its_own_stream, after_a_cancel, with_previews, with_a_mask, several]
)
def test_ways_to_edit(
    run: Callable[[DiffEditPipeline, Image.Image], EditResult], tiny: Any, photo: Image.Image
) -> None:
    want, *found = on_both(tiny, lambda pipe: run(pipe, photo))
    for got in found:
        assert_near(got, want)


@pytest.mark.parametrize("options", [{"offload_text": True}, {"warm": True}])
def test_ways_to_open(options: dict[str, Any], tiny: Any, photo: Image.Image) -> None:
    want, *found = on_both(tiny, lambda pipe: pipe(photo, *TEXTS, **SHORT), **options)
    for got in found:
        assert_near(got, want)


def test_many_edits_at_once(tiny: Any, photo: Image.Image) -> None:
    requests = [EditRequest(photo, *TEXTS, seed=seed, **SHORT) for seed in range(5)]
    want, *found = on_both(tiny, lambda pipe: list(pipe.edit_many(requests)))
    for results in found:
        for got, one in zip(results, want, strict=True):
            assert_near(got, one)


def test_an_inversion(tiny: Any, photo: Image.Image) -> None:
    want, *found = on_both(tiny, lambda pipe: pipe.invert(photo, 8, 0.8))
    for got in found:
        torch.testing.assert_close(torch.stack([*got]), torch.stack([*want]))


def test_without_its_order_of_streams_an_edit_fails(
    tiny: Any, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above can fail: here the networks do not wait for the work of the flows."""
    monkeypatch.setattr("tests.simulated_gpu.order.Stream.wait_stream", lambda *_: None)
    with (
        simulated_gpu(),
        DiffEditPipeline.from_pretrained(tiny, device="cuda", dtype="fp32") as pipe,
        pytest.raises(RuntimeError, match=r"Race: .* reads what .* may not have written"),
    ):
        pipe(photo, *TEXTS, **SHORT)
