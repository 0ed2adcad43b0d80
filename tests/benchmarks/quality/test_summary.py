"""Means, intervals and the table."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality.summary import (
    difference,
    estimate,
    measurements,
    summarise,
    table,
)


def test_the_interval_of_a_share_is_that_of_a_binomial() -> None:
    values = np.array([1.0] * 150 + [0.0] * 50)
    found = estimate(values)
    spread = 1.96 * (0.75 * 0.25 / 200) ** 0.5
    assert found.mean == 0.75
    assert found.low == pytest.approx(0.75 - spread, abs=0.01)
    assert found.high == pytest.approx(0.75 + spread, abs=0.01)


def test_an_interval_is_the_same_every_time() -> None:
    values = np.random.default_rng(0).random(40)
    assert estimate(values) == estimate(values)


def test_values_that_are_missing_take_no_part() -> None:
    assert estimate(np.array([1.0, np.nan, 3.0])).mean == 2
    assert np.isnan(estimate(np.array([np.nan])).mean)


def test_errors_are_averaged_before_they_become_decibels() -> None:
    """One unchanged picture (infinite dB) must not decide the mean."""
    found = summarise({"mse_background": np.array([0.0, 2 * 65.025])})
    assert found["background_db"].mean == pytest.approx(30)
    assert found["background_db"].low <= 30 <= found["background_db"].high


def test_differences_are_paired() -> None:
    """Two settings that differ by the same amount in every case: no doubt about the difference,
    however much the cases vary."""
    values = np.random.default_rng(1).random(50)
    seeds = np.arange(50)
    found = difference({"seed": seeds, "iou": values + 0.1}, {"seed": seeds, "iou": values}, "iou")
    assert found.low == pytest.approx(0.1) and found.high == pytest.approx(0.1)
    with pytest.raises(AssertionError):
        difference({"seed": seeds, "iou": values}, {"seed": seeds + 1, "iou": values}, "iou")


def test_the_table_lines_up_and_shows_what_is_missing() -> None:
    rows = {
        "one": {"success": estimate(np.array([1.0, 1.0]))},
        "another": {"iou": estimate(np.array([0.5, 0.5]))},
    }
    assert table(rows, {"success": ".2f", "iou": ".1f"}).split("\n") == [
        "|         | success           | iou            |",
        "| ---     | ---               | ---            |",
        "| one     | 1.00 [1.00, 1.00] | -              |",
        "| another | -                 | 0.5 [0.5, 0.5] |",
    ]


def test_a_measurement_has_mean_and_interval() -> None:
    rows = {"one": {"iou": estimate(np.array([0.25, 0.25])), "ideal_db": estimate(np.array([9.0]))}}
    iou, ideal = measurements("table", rows, 2)
    assert (iou.name, iou.value, iou.low, iou.high, iou.unit) == ("iou", 0.25, 0.25, 0.25, "")
    assert iou.labels == {"part": "table", "setting": "one"}
    assert (iou.statistic, iou.repeats, ideal.unit) == ("mean", 2, "dB")
