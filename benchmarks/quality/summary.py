"""Means with confidence intervals of the figures of many cases, and tables of them.

Intervals are percentile bootstraps over the cases: 2,000 resamples from one fixed seed. A resample
takes the same cases under every setting, so differences between settings are paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.measures import decibel
from benchmarks.report import aligned
from benchmarks.schema import Measurement, Result

RESAMPLES = 2000
INTERVAL = "95 % bootstrap interval"
Values = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]

SHARES = ("success", "kind_right", "colour_right", "others_right")
MASKS = ("iou", "iou_old", "iou_dilated", "recall", "precision", "area_ratio", "false_area")
PICTURES = ("equal", "changed_outside_mask", "leak", "miss", "perceptual")
COSTS = ("rows", "seconds")
"""Of the edits that ran alone."""
SEAM = ("seam", "seam_ideal")
"""Gradients along the border of the blend mask; their ratio is reported as `seam`."""
ERRORS = {
    "mse_background": "background_db",
    "mse_outside_mask": "outside_mask_db",
    "mse_picture": "picture_db",
    "mse_ideal": "ideal_db",
}
"""Squared errors are averaged over the cases before they are converted to dB. One edit that changes
nothing has an infinite PSNR and would dominate a mean of dB values."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        spec = spec or ".2f"
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def measurement(self, figure: str, labels: Mapping[str, Any], count: int) -> Measurement:
        """The estimate as a row of a result; `count` is the number of cases."""
        mean, low, high = (round(v, 5) for v in (self.mean, self.low, self.high))
        unit = "dB" if figure.endswith("_db") else ""
        return Measurement(figure, mean, unit, dict(labels), low, high, count, "mean", INTERVAL)


def estimate(values: Values, *, in_decibel: bool = False) -> Estimate:
    """The mean over the cases; cases without a value (NaN) are left out."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return Estimate(float("nan"), float("nan"), float("nan"))
    means = np.concatenate([[values.mean()], values[_draws(len(values))].mean(1)])
    if in_decibel:
        means = decibel(means)
    low, high = np.percentile(means[1:], (2.5, 97.5))
    return Estimate(float(means[0]), float(low), float(high))


def _draws(count: int) -> NDArray[np.int64]:
    """The cases of each resample: [RESAMPLES, count]."""
    return np.random.Generator(np.random.PCG64(0)).integers(count, size=(RESAMPLES, count))


def summarise(columns: Columns) -> dict[str, Estimate]:
    """Every figure of a setting."""
    plain = {k: estimate(columns[k]) for k in (*SHARES, *MASKS, *PICTURES) if k in columns}
    errors = {
        name: estimate(columns[error], in_decibel=True)
        for error, name in ERRORS.items()
        if error in columns
    }
    seams = {"seam": ratio(columns, *SEAM)} if SEAM[1] in columns else {}
    counted = [k for k in COSTS if k in columns and not np.isnan(columns[k]).all()]
    return plain | errors | seams | {k: estimate(columns[k]) for k in counted}


def ratio(columns: Columns, above: str, below: str) -> Estimate:
    """The ratio of the means of two figures; cases without one of them are left out."""
    pairs = np.stack([columns[above], columns[below]], -1).astype(np.float64)
    pairs = pairs[~np.isnan(pairs).any(1)]
    if not len(pairs):
        return estimate(np.array([np.nan]))
    means = np.concatenate([[pairs.mean(0)], pairs[_draws(len(pairs))].mean(1)])
    ratios = means[:, 0] / np.maximum(means[:, 1], 1e-9)
    low, high = np.percentile(ratios[1:], (2.5, 97.5))
    return Estimate(float(ratios[0]), float(low), float(high))


def difference(first: Columns, second: Columns, figure: str) -> Estimate:
    """The mean difference of a figure between two settings, case by case."""
    assert np.array_equal(first["seed"], second["seed"])
    return estimate(first[figure].astype(np.float64) - second[figure])


def head(columns: Columns, count: int) -> dict[str, NDArray[Any]]:
    """The first cases."""
    return {figure: values[:count] for figure, values in columns.items()}


def ahead(
    ours: Mapping[str, Columns], theirs: Mapping[str, Columns], figure: str
) -> dict[str, dict[str, Estimate]]:
    """The paired difference of a figure between every two settings of the same cases."""
    return {
        f"{name}, ahead of {other}": {figure: difference(found, theirs[other], figure)}
        for name, found in ours.items()
        for other in theirs
    }


Measured = Mapping[str, Mapping[str, Estimate]]
"""Setting -> figure -> estimate; the rows of a table."""


def table(rows: Measured, figures: Mapping[str, str]) -> str:
    """A Markdown table with aligned columns; `figures` maps each figure to its format."""
    body = [
        [name, *(f"{found[f]:{spec}}" if f in found else "-" for f, spec in figures.items())]
        for name, found in rows.items()
    ]
    head = ["", *figures]
    lines = aligned([head, ["---"] * len(head), *body], between=" | ")
    return "\n".join(f"| {line} |" for line in lines)


def stored(result: Result, part: str) -> Measured:
    """The estimates of one part of a stored result: setting -> figure -> estimate."""
    found: dict[str, dict[str, Estimate]] = {}
    for row in result.measurements:
        if row.labels.get("part") == part and row.value is not None:
            low, high = (row.value if end is None else end for end in (row.low, row.high))
            figures = found.setdefault(row.labels["setting"], {})
            figures[row.name] = Estimate(row.value, low, high)
    return found


def measurements(part: str, rows: Measured, count: int) -> list[Measurement]:
    """Every figure of every row of a table."""
    return [
        estimate.measurement(figure, {"part": part, "setting": name}, count)
        for name, figures in rows.items()
        for figure, estimate in figures.items()
    ]
