"""Results belong to their caller: copies of everything, ordinary tensors, times of the edit.

Whatever is written into a result, or into the caller's own input after `submit`, no other edit
changes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from diffedit import DiffEditPipeline, EditRequest, EditResult
from engine.backends.fake import FakeNetworks
from engine.checkpoint import Checkpoint

FAST: dict[str, Any] = {"preset": "paper", "num_inference_steps": 5, "num_maps_per_mask": 2}
TEXTS: dict[str, Any] = {"prompt": "a blue ball", "source_prompt": "a red ball"}


@pytest.fixture
def pipe(tiny: Path) -> Iterator[DiffEditPipeline]:
    with DiffEditPipeline(Checkpoint.open(tiny), FakeNetworks(factor=4)) as opened:
        yield opened


def arrays(result: EditResult) -> list[np.ndarray[Any, Any]]:
    """Everything of a result that has memory, as copies."""
    pictures = [np.array(result.image), np.array(result.mask)]
    return [*pictures, result.heatmap.copy(), result.latent_mask.copy(), result.latents.copy()]


def same(one: list[np.ndarray[Any, Any]], other: list[np.ndarray[Any, Any]]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def spoil(result: EditResult) -> None:
    """Overwrite every array and tensor."""
    result.image.paste((1, 2, 3), (0, 0, *result.image.size))
    result.mask.paste(77, (0, 0, *result.mask.size))
    result.heatmap[:] = 9
    np.logical_not(result.latent_mask, out=result.latent_mask)
    result.latents[:] = float("nan")


OPTIONS: dict[str, Callable[[Image.Image], dict[str, Any]]] = {
    "edit": lambda photo: TEXTS,
    "equal texts": lambda photo: {"prompt": "a ball", "source_prompt": "a ball"},
    "own mask": lambda photo: TEXTS | {"mask_image": half(photo)},
    "sdedit": lambda photo: TEXTS | {"method": "sdedit"},
    "encode-decode": lambda photo: TEXTS | {"method": "encode-decode"},
    "without composite": lambda photo: TEXTS | {"composite": False},
}


def half(photo: Image.Image) -> Image.Image:
    mask = Image.new("L", photo.size, 0)
    mask.paste(255, (0, 0, photo.width // 2, photo.height))
    return mask


@pytest.mark.parametrize("name", OPTIONS)
def test_writing_into_a_result_changes_no_other_edit(
    pipe: DiffEditPipeline, photo: Image.Image, name: str
) -> None:
    """The caches are warm in the second edit; `result` may be called twice."""
    handle = pipe.submit(EditRequest(photo, **OPTIONS[name](photo), **FAST))
    first = arrays(handle.result())
    spoil(handle.result())
    assert same(arrays(handle.result()), first)
    again = pipe.submit(EditRequest(photo, **OPTIONS[name](photo), **FAST)).result()
    assert same(arrays(again), first)
    spoil(again)
    pipe.cache_clear()
    cold = pipe.submit(EditRequest(photo, **OPTIONS[name](photo), **FAST)).result()
    assert same(arrays(cold), first)


def test_writing_into_other_results_changes_no_edit(
    pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    """generate_mask, invert, the tensors of the future, the canvas."""
    first = arrays(pipe(photo, **TEXTS, **FAST))
    found = pipe.generate_mask(photo, **TEXTS, **FAST)
    found.heatmap[:] = 3
    found.latent_mask[:] = True
    found.mask.paste(9, (0, 0, *found.mask.size))
    pipe.invert(photo, 5).fill_(float("nan"))
    handle = pipe.submit(EditRequest(photo, **TEXTS, **FAST))
    handle.canvas[:] = 0
    outputs = handle.future.result(20)
    assert same(arrays(handle.result()), first)
    for tensor in (outputs.latents, outputs.heatmap, outputs.mask, outputs.image):
        assert tensor is not None
        tensor.zero_()
    assert same(arrays(pipe(photo, **TEXTS, **FAST)), first)


def test_writing_into_a_preview_changes_no_edit(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    first = arrays(pipe(photo, **TEXTS, **FAST))
    kept: list[Tensor] = []

    def preview(latent: Tensor, x0: Tensor) -> None:
        kept.extend([latent.clone(), x0.clone()])
        latent.fill_(float("nan"))
        x0.fill_(float("nan"))

    handle = pipe.submit(EditRequest(photo, **TEXTS, **FAST), on_preview=preview)
    assert same(arrays(handle.result()), first)
    assert same(arrays(pipe(photo, **TEXTS, **FAST)), first)
    assert len(kept) == 2 * 4 and all(bool(tensor.isfinite().all()) for tensor in kept)


def test_tensors_are_ordinary_ones(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    """Not of inference mode: they can be written to, and autograd takes them."""
    outputs = pipe.submit(EditRequest(photo, **TEXTS, **FAST)).future.result(20)
    previews: list[Tensor] = []
    pipe.submit(
        EditRequest(photo, **TEXTS, **FAST), on_preview=lambda *pair: previews.extend(pair)
    ).result()
    for tensor in (pipe.invert(photo, 5), outputs.latents, outputs.heatmap, *previews):
        assert tensor.device.type == "cpu" and not tensor.is_inference()
        tensor += 1
        (tensor.requires_grad_() * 2).sum().backward()
        assert tensor.grad is not None


@pytest.mark.parametrize("kind", ["array", "picture"])
def test_writing_into_the_input_after_submit_changes_nothing(
    tiny: Path, photo: Image.Image, kind: str
) -> None:
    submitted = threading.Event()

    def wait(net: str, batch: Mapping[str, Tensor], output: Tensor) -> None:
        assert submitted.wait(20)

    with DiffEditPipeline(
        Checkpoint.open(tiny), FakeNetworks(factor=4, fault=wait), size=(72, 96)
    ) as pipe:
        pictures = photo.copy(), half(photo)
        own = [np.array(p) for p in pictures] if kind == "array" else pictures
        options = TEXTS | FAST
        expected_handle = pipe.submit(EditRequest(photo, mask_image=half(photo), **options))
        handle = pipe.submit(EditRequest(own[0], mask_image=own[1], **options))
        for picture in own:
            if isinstance(picture, Image.Image):
                picture.paste(0, (0, 0, *picture.size))
            else:
                picture[:] = 0
        submitted.set()
        assert same(arrays(handle.result()), arrays(expected_handle.result()))


def test_seconds_are_those_of_the_edit_not_of_the_reader(
    pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    began = time.perf_counter()
    handle = pipe.submit(EditRequest(photo, **TEXTS, **FAST))
    handle.future.result(20)
    taken = time.perf_counter() - began
    time.sleep(0.3)
    first = handle.result().stats.seconds
    time.sleep(0.1)
    assert handle.result().stats.seconds == first
    assert first["total"] <= taken
    stages = [first[stage] for stage in ("mask", "encode", "decode")]
    assert all(seconds > 0 for seconds in stages) and sum(stages) <= first["total"]


def test_a_mask_alone_has_the_warnings_of_an_edit(
    pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    found = pipe.generate_mask(photo.convert("CMYK"), "a (red:1.4) ball", "a ball", **FAST)
    edited = pipe(photo.convert("CMYK"), "a (red:1.4) ball", "a ball", **FAST)
    assert len(found.warnings) >= 2
    assert set(found.warnings) <= set(edited.warnings)
