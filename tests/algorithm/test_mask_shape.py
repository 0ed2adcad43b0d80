"""From a heatmap to the masks of an edit: equal to the reference's plain loops."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diffedit.algorithm import mask as masks
from diffedit.algorithm import mask_cleaning
from diffedit.algorithm.mask import ShapeOptions, shape
from diffedit.algorithm.reference_mask import found_mask
from diffedit.algorithm.schedule import Schedule
from diffedit.request import CLEANINGS, EditRequest
from engine.backends.torch.networks import TorchNetworks
from tests.algorithm.flow_tools import SD_CONFIG, new_inputs, resolved, run_edit
from tests.algorithm.test_edit import by_reference

ALL = torch.ones(12, 12, dtype=torch.bool)


def blobs(seed: int, side: int = 12) -> Tensor:
    """A smooth random map in [0, 1], with holes and separate regions."""
    noise = torch.randn(side, side, generator=torch.manual_seed(seed))
    smooth = mask_cleaning.blurred(noise, torch.ones(side, side, dtype=torch.bool), 0.8)
    return (0.5 + 0.6 * smooth).clamp(0, 1)


def request(**options: Any) -> EditRequest:
    return resolved(EditRequest(b"", "a pear", **options))


@given(
    seed=st.integers(0, 500),
    cleaning=st.sampled_from(CLEANINGS),
    threshold=st.sampled_from((0.0, 0.3, 0.5, 0.8)),
    dilation=st.integers(0, 2),
    top=st.integers(0, 5),
)
def test_masks_equal_the_reference(
    seed: int, cleaning: str, threshold: float, dilation: int, top: int
) -> None:
    heat, region = blobs(seed), ALL.clone()
    region[:top] = False
    one = request(mask_cleaning=cleaning, mask_threshold=threshold, mask_dilation=dilation)
    found = shape(heat, region, ShapeOptions.of(one))
    assert found.edit.equal(found_mask(heat, region, one))
    assert not (found.found & ~found.edit).any() and not (found.edit & ~region).any()


@given(seed=st.integers(0, 500), threshold=st.sampled_from((0.2, 0.5, 0.9)))
def test_without_cleaning_the_mask_is_the_papers(seed: int, threshold: float) -> None:
    heat = blobs(seed)
    found = shape(heat, ALL, ShapeOptions(threshold=threshold))
    assert found.edit.equal(heat > threshold)
    assert found.found.equal(found.edit)


@given(
    seed=st.integers(0, 500),
    cleaning=st.sampled_from(CLEANINGS),
    threshold=st.sampled_from((0.0, 0.3, 0.5, 0.8)),
    invert=st.booleans(),
)
def test_the_soft_map_is_above_one_half_inside_the_mask(
    seed: int, cleaning: Any, threshold: float, invert: bool
) -> None:
    found = shape(blobs(seed), ALL, ShapeOptions(threshold, 0, cleaning, invert=invert))
    assert (found.soft >= 0).all() and (found.soft <= 1).all()
    assert (found.soft[found.found] >= 0.5).all() and (found.soft[~found.found] <= 0.5).all()


@pytest.mark.parametrize("cleaning", CLEANINGS)
def test_inverting_swaps_what_is_found(cleaning: Any) -> None:
    heat = blobs(3)
    region = ALL.clone()
    region[:, 9:] = False
    plain = shape(heat, region, ShapeOptions(cleaning=cleaning))
    rest = shape(heat, region, ShapeOptions(cleaning=cleaning, invert=True))
    assert rest.found.equal(region & ~plain.found)


def test_a_map_of_a_512_pixel_picture_is_shaped_within_a_few_milliseconds() -> None:
    heat, region = blobs(1, 64), torch.ones(64, 64, dtype=torch.bool)
    options = ShapeOptions(cleaning="edges")
    seconds = []
    for _ in range(30):
        start = time.perf_counter()
        shape(heat, region, options)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.02, "far above what it takes (1 to 3 ms), or the rounds multiply"


def test_growing_is_square() -> None:
    mask = torch.zeros(9, 9, dtype=torch.bool)
    mask[4, 4] = True
    assert masks.grown(mask, 2).sum() == 25 and masks.grown(mask, 0) is mask


@pytest.mark.parametrize("cleaning", ["clean", "edges"])
@pytest.mark.parametrize("tolerance", [0.0, 0.2])
def test_an_edit_with_a_cleaned_mask_equals_the_reference(
    real: TorchNetworks, cleaning: str, tolerance: float
) -> None:
    region = torch.ones(16, 16, dtype=torch.bool)
    region[:, 12:] = False
    options: dict[str, Any] = {
        "num_maps_per_mask": 4,
        "mask_tolerance": tolerance,
        "mask_threshold": 0.4,
    }
    inputs = new_inputs(16, 4, region=region, mask_cleaning=cleaning, seed=7, **options)
    four = Schedule.from_config(SD_CONFIG, 4)
    edited, _ = run_edit(real, inputs, four)
    expected = by_reference(real, inputs, four)
    assert edited.mask.any() and edited.mask.equal(expected.mask)
    assert not edited.mask.equal(edited.heatmap > 0.4)
    torch.testing.assert_close(edited.latents, expected.latents[0], atol=1e-3, rtol=1e-3)
