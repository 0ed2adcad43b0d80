"""`DiffEditPipeline.refine`: other masks from a heatmap, without a network call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from diffedit import DiffEditPipeline, EditRequest, EditResult
from diffedit.algorithm.mask import ShapeOptions
from diffedit.imaging import geometry
from diffedit.request import CLEANINGS, InvalidRequest
from diffedit.result import FoundMask
from diffedit.soft_map import SoftMap
from engine.backends.fake import FakeNetworks
from engine.checkpoint import Checkpoint

TEXTS: dict[str, Any] = {"prompt": "a blue ball", "source_prompt": "a red ball"}
FAST: dict[str, Any] = {"preset": "paper", "num_inference_steps": 5, "num_maps_per_mask": 2}


@pytest.fixture(scope="module")
def pipe(tiny: Path) -> Iterator[DiffEditPipeline]:
    with DiffEditPipeline(Checkpoint.open(tiny), FakeNetworks(factor=4)) as opened:
        yield opened


@pytest.fixture(scope="module")
def wide() -> Image.Image:
    """Not the canvas's aspect, so that cells beside the photograph exist."""
    rows = np.random.default_rng(0).integers(0, 255, (9, 16, 3), np.uint8)
    return Image.fromarray(rows).resize((320, 180))


def edited(pipe: DiffEditPipeline, photo: Image.Image, **options: Any) -> EditResult:
    return pipe.submit(EditRequest(photo, **{**TEXTS, **FAST, **options})).result()


def calls(pipe: DiffEditPipeline) -> int:
    return sum(pipe.batcher.calls.values())


def equal(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and ImageChops.difference(one, other).getbbox() is None


@pytest.mark.parametrize("cleaning", CLEANINGS)
def test_a_refined_mask_is_the_one_that_an_edit_with_these_options_finds(
    pipe: DiffEditPipeline, wide: Image.Image, cleaning: Any
) -> None:
    found = pipe.generate_mask(wide, **TEXTS, **FAST)
    options: dict[str, Any] = {"mask_threshold": 0.3, "mask_dilation": 1, "mask_feather": 0.05}
    expected = edited(pipe, wide, mask_cleaning=cleaning, **options)
    before = calls(pipe)
    for start in (found, edited(pipe, wide, mask_cleaning="clean"), expected):
        before = calls(pipe)
        mask = pipe.refine(start, threshold=0.3, grow=1, cleaning=cleaning, feather=0.05)
        assert calls(pipe) == before
        assert equal(mask.mask, expected.mask)
        assert equal(mask.blend_mask, expected.blend_mask)
        assert (mask.latent_mask == expected.latent_mask).all()
        assert (mask.heatmap == expected.heatmap).all()


def test_options_that_are_left_out_stay_those_of_the_mask(
    pipe: DiffEditPipeline, wide: Image.Image
) -> None:
    found = pipe.generate_mask(wide, **TEXTS, **FAST, mask_threshold=0.3, mask_cleaning="clean")
    assert equal(pipe.refine(found).mask, found.mask)
    grown = pipe.refine(pipe.refine(found, grow=3), grow=1)
    assert equal(grown.mask, pipe.refine(found, grow=1).mask)
    inverse = pipe.refine(found, invert=True)
    assert equal(inverse.mask, ImageChops.invert(found.mask))
    blurred = pipe.refine(found, blur=2.0)
    assert not equal(blurred.mask, found.mask)
    assert equal(pipe.refine(blurred, blur=0.7).mask, found.mask)


def test_a_refined_mask_is_a_mask_of_an_edit(pipe: DiffEditPipeline, wide: Image.Image) -> None:
    found = edited(pipe, wide)
    mask = pipe.refine(found, threshold=0.4).mask
    again = edited(pipe, wide, mask_image=mask)
    assert equal(again.mask, mask)


def test_writing_into_results_does_not_change_later_masks(
    pipe: DiffEditPipeline, wide: Image.Image
) -> None:
    found = pipe.generate_mask(wide, **TEXTS, **FAST)
    first = pipe.refine(found, grow=1)
    kept = first.mask.copy()
    found.heatmap[:] = 1
    first.heatmap[:] = 1
    first.latent_mask[:] = False
    first.mask.paste(7, (0, 0, *first.mask.size))
    assert equal(pipe.refine(found, grow=1).mask, kept)
    assert equal(pipe.refine(first).mask, kept)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"threshold": 1.0}, "threshold is 1.0, but must be a number from 0 to 0.99"),
        ({"threshold": "0.5"}, "threshold is '0.5', but must be a number"),
        ({"grow": 1.5}, "grow is 1.5, but must be a whole number from 0 to 64"),
        ({"blur": 17}, "blur is 17, but must be a number from 0 to 16"),
        ({"feather": -1}, "feather is -1, but must be a number from 0 to 0.25"),
        ({"cleaning": "cleen"}, "There is no cleaning 'cleen'; did you mean 'clean'"),
        ({"invert": 1}, "invert is 1, but must be True or False"),
        ({"treshold": 0.5}, "treshold"),
    ],
)
def test_bad_options(
    pipe: DiffEditPipeline, wide: Image.Image, options: dict[str, Any], sentence: str
) -> None:
    found = FoundMask(np.zeros((2, 2), np.float32), np.zeros((2, 2), bool), wide)
    with pytest.raises(InvalidRequest, match=sentence):
        pipe.refine(found, **options)


def test_what_has_no_heatmap(pipe: DiffEditPipeline, wide: Image.Image) -> None:
    mask = Image.new("L", wide.size)
    mask.paste(255, (20, 20, 90, 90))
    for result in (edited(pipe, wide, mask_image=mask), edited(pipe, wide, method="sdedit")):
        with pytest.raises(InvalidRequest, match=r"not computed from the texts.*generate_mask"):
            pipe.refine(result)
    with pytest.raises(InvalidRequest, match=r"found is .*but only the result of an edit"):
        pipe.refine(mask)  # type: ignore[arg-type]


def test_a_mask_of_512_pixels_takes_milliseconds() -> None:
    placement = geometry.place((512, 512), (512, 512))
    heat = np.random.default_rng(0).random((64, 64), np.float32)
    soft = SoftMap(heat, placement, 8, ShapeOptions())
    options = {"threshold": 0.4, "cleaning": "edges", "grow": 1}

    def seconds() -> float:
        began = time.thread_time()
        soft.refined(options).mask()
        return time.thread_time() - began

    assert min(seconds() for _ in range(20)) < 0.02  # 4 times the target, for slow machines
