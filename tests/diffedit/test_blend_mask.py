"""The blend mask of a result: the opacity of the composite, 0 outside the mask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from diffedit import DiffEditPipeline, EditRequest, EditResult
from diffedit.imaging import borders
from diffedit.request import InvalidRequest
from engine.backends.fake import FakeNetworks
from engine.checkpoint import Checkpoint
from tests.imaging.pictures import composite

TEXTS: dict[str, Any] = {"prompt": "a blue ball", "source_prompt": "a red ball"}
FAST: dict[str, Any] = {"preset": "paper", "num_inference_steps": 5, "num_maps_per_mask": 2}
RECTANGLE = (24, 16, 70, 60)


@pytest.fixture(scope="module")
def pipe(tiny: Path) -> Iterator[DiffEditPipeline]:
    with DiffEditPipeline(Checkpoint.open(tiny), FakeNetworks(factor=4)) as opened:
        yield opened


def edited(pipe: DiffEditPipeline, photo: Image.Image, **options: Any) -> EditResult:
    return pipe.submit(EditRequest(photo, **{**TEXTS, **FAST, **options})).result()


def rectangle(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, RECTANGLE)
    return mask


@pytest.mark.parametrize("cleaning", ["none", "clean", "edges"])
def test_the_picture_is_composited_with_the_blend_mask(
    pipe: DiffEditPipeline, photo: Image.Image, cleaning: str
) -> None:
    large = photo.resize((400, 300))  # wide enough for a fade
    result = edited(pipe, large, mask_cleaning=cleaning)
    whole = edited(pipe, large, mask_cleaning=cleaning, composite=False)
    assert result.blend_mask.size == large.size
    assert result.mask.getbbox() is not None and result.mask.getextrema() == (0, 255)
    assert ImageChops.subtract(result.blend_mask, result.mask).getbbox() is None
    expected = large.convert("RGB")
    expected.paste(whole.image, mask=result.blend_mask)
    assert result.image.convert("RGB") == expected
    outside = np.asarray(result.blend_mask) == 0
    assert (np.asarray(result.image)[outside] == np.asarray(large)[outside]).all()


def test_without_cleaning_the_result_is_as_it_was(
    pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    """The blend mask is the edit mask, faded inwards by 1/256 of the longer side."""
    large = photo.resize((600, 450))
    result = edited(pipe, large)
    whole = edited(pipe, large, composite=False)
    assert result.parameters["mask_cleaning"] == "none"
    assert result.image == composite(large, whole.image, result.mask)
    assert (result.latent_mask == (result.heatmap > 0.5)).all()


def test_edges_repaint_a_margin_and_blend_less(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    clean, edges = (edited(pipe, photo, mask_cleaning=name) for name in ("clean", "edges"))
    assert (edges.latent_mask | clean.latent_mask == edges.latent_mask).all()
    assert edges.latent_mask.sum() > clean.latent_mask.sum()
    faded = borders.faded(edges.mask)
    assert ImageChops.subtract(edges.blend_mask, faded).getbbox() is None
    assert edges.blend_mask != faded


def test_feather_is_a_share_of_the_longer_side(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    large = photo.resize((400, 300))
    mask = rectangle((400, 300))
    hard = edited(pipe, large, mask_image=mask, mask_feather=0)
    assert hard.blend_mask == hard.mask == mask
    wide = edited(pipe, large, mask_image=mask, mask_feather=0.05)  # 20 pixels
    left, top, right, bottom = RECTANGLE
    row = np.asarray(wide.blend_mask)[(top + bottom) // 2, left:right].astype(int)
    assert row[0] < 30 and (np.diff(row[:20]) >= 0).all() and row[20] > 200


def test_a_users_mask_is_not_cleaned(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    mask = rectangle(photo.size)
    mask.putpixel((90, 5), 255)
    mask.paste(0, (40, 30, 44, 34))
    for cleaning in ("none", "clean", "edges"):
        result = edited(pipe, photo, mask_image=mask, mask_cleaning=cleaning)
        assert result.mask == mask
        assert result.blend_mask == borders.faded(mask)


def test_what_takes_everything_and_nothing(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    whole = edited(pipe, photo, composite=False)
    assert whole.blend_mask.getextrema() == (255, 255)
    same = edited(pipe, photo, source_prompt=TEXTS["prompt"], mask_cleaning="edges")
    assert same.blend_mask.getextrema() == (0, 0)
    assert same.image.convert("RGB") == photo.convert("RGB")
    bare = edited(pipe, photo, method="encode-decode", mask_cleaning="edges")
    assert bare.blend_mask.getextrema() == (255, 255)


def test_a_higher_threshold_edits_less(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    low, high = (edited(pipe, photo, mask_threshold=t) for t in (0.3, 0.7))
    assert (low.latent_mask == (low.heatmap > 0.3)).all()
    assert 0 < high.latent_mask.sum() < low.latent_mask.sum()


@pytest.mark.parametrize(
    "options",
    [
        {"mask_cleaning": "cleen"},
        {"mask_threshold": 1},
        {"mask_threshold": float("nan")},
        {"mask_feather": 0.5},
        {"mask_feather": None},
        {"mask_threshold": 0.4, "mask_image": b""},
    ],
    ids=str,
)
def test_options_that_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"mask_cleaning|mask_threshold|mask_feather"):
        EditRequest(b"", "a pear", **options)


def test_a_soft_mask_is_the_blend_mask(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    ramp = np.tile(np.linspace(0, 1, photo.width), (photo.height, 1))
    result = edited(pipe, photo, mask_image=(ramp * 65535).astype(np.uint16))
    blend = np.asarray(result.blend_mask)
    assert len(np.unique(blend)) > 50 and (np.diff(blend.astype(int), axis=1) >= 0).all()
    assert (np.asarray(result.mask) == np.where(blend > 0, 255, 0)).all()
    kept = blend == 0
    assert kept.any() and (np.asarray(result.image)[kept] == np.asarray(photo)[kept]).all()
    assert result.heatmap.min() == 0 and result.heatmap.max() == 1
