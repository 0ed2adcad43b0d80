"""Step 1's arithmetic."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from diffedit.algorithm import mask as masks

ALL = torch.ones(8, 8, dtype=torch.bool)


def random_map(seed: int) -> torch.Tensor:
    return torch.rand((8, 8), generator=torch.Generator().manual_seed(seed)) ** 3


def test_the_map_averages_noises_and_channels() -> None:
    zero = torch.zeros(2, 1, 1)
    one = torch.tensor([1.0, -3.0]).reshape(2, 1, 1)
    assert masks.difference_map([one, zero], [zero, zero]).tolist() == [
        [1.0]
    ]  # (1 + 3 + 0 + 0) / 4


@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3))
def test_the_mask_is_free_of_scale(seed: int, scale: float) -> None:
    difference = random_map(seed)
    heat = masks.heatmap(difference, ALL, 3.0)
    torch.testing.assert_close(masks.heatmap(difference * scale, ALL, 3.0), heat)
    assert float(heat.min()) >= 0 and float(heat.max()) <= 1


def test_the_mask_is_where_the_map_exceeds_half_the_clip() -> None:
    difference = random_map(1)
    expected = difference > 1.5 * difference.mean()
    assert 0 < expected.sum() < 64
    assert masks.binarise(masks.heatmap(difference, ALL, 3.0), ALL).equal(expected)


def test_equal_predictions_give_the_empty_mask_and_no_nan() -> None:
    heat = masks.heatmap(torch.zeros(8, 8), ALL, 3.0)
    assert heat.equal(torch.zeros(8, 8)) and not masks.binarise(heat, ALL).any()


def test_what_is_not_finite_stays_visible() -> None:
    for bad in (float("nan"), float("inf")):
        difference = random_map(0)
        difference[3, 3] = bad
        assert not masks.heatmap(difference, ALL, 3.0).isfinite().all()


def test_padding_takes_no_part() -> None:
    region = ALL.clone()
    region[:, 5:] = False
    difference = random_map(2)
    loud = torch.where(region, difference, 1e6)
    heat = masks.heatmap(loud, region, 3.0)
    torch.testing.assert_close(heat[:, :5], masks.heatmap(difference[:, :5], ALL[:, :5], 3.0))
    assert heat[:, 5:].count_nonzero() == 0
    assert not (masks.binarise(heat, region, dilation=3) & ~region).any()


def test_dilation_grows_each_way() -> None:
    heat = torch.zeros(8, 8)
    heat[4, 4] = 1
    grown = masks.binarise(heat, ALL, dilation=2)
    assert grown.sum() == 25 and grown[2:7, 2:7].all()
