"""Plots of the trade-off curves and of the sweeps, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.plots import pyplot, save
from benchmarks.quality.settings import (
    METHODS,
    PAPER_ROW,
    STRENGTHS,
    SWEPT,
    Fixed,
    curve_name,
    ratios,
)
from benchmarks.quality.summary import Estimate, Measured

COLOURS = {
    "diffedit": "#0b6e4f",
    "masked-sdedit": "#e08e1b",
    "encode-decode": "#3066be",
    "sdedit": "#b3303c",
}
LABELS = {
    "diffedit": "DiffEdit",
    "masked-sdedit": "DiffEdit w/o encode (masked SDEdit)",
    "encode-decode": "encode-decode (no mask)",
    "sdedit": "SDEdit",
}
SWEEP_LABELS = {
    "num_maps_per_mask": "n, noises a mask",
    "mask_encode_strength": "noise strength of the mask",
    "mask_thresholding_ratio": "clip ratio of the mask",
    "mask_dilation": "dilation, latent cells",
    "guidance_scale": "guidance scale",
    "strength": "strength (encoding ratio)",
    "num_inference_steps": "steps",
}
PRESETS = {PAPER_ROW: "paper"}
"""Labels of settings whose names in results are older than the presets."""


def trade_off(measured: Measured, fixed: Fixed, path: Path) -> None:
    """Edit success against the background kept: methods (left), mask thresholds (right)."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for method in METHODS:
        names = [curve_name(method, s, fixed.ratio) for s in STRENGTHS]
        _curve(left, measured, names, LABELS[method], COLOURS[method])
    for ratio, dashes in zip(ratios(fixed), (":", "-", "--", "-."), strict=False):
        names = [curve_name("diffedit", s, ratio) for s in STRENGTHS]
        label = f"clip ratio {ratio:g}"
        _curve(right, measured, names, label, COLOURS["diffedit"], dashes)
    left.set_title(f"Methods, at strengths {min(STRENGTHS):g} to {max(STRENGTHS):g}")
    right.set_title("Mask thresholds: DiffEdit at other clip ratios")
    for axes in (left, right):
        axes.set_xlabel("background kept, PSNR in dB (no compositing)  →")
        axes.set_ylabel("edit success  →")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    save(figure, path)


def sweeps(measured: Measured, path: Path) -> None:
    """The effect of each option, one panel an option: the mask's IoU or the edit's success."""
    figure, axes = pyplot().subplots(2, 4, figsize=(13, 5.6), layout="constrained")
    for panel, (name, values) in zip(axes.flat, SWEPT.items(), strict=False):
        points = [measured[f"{name}={value:g}"] for value in values]
        lines = (("iou", "mask IoU", "#0b6e4f"), ("recall", "mask recall", "#3066be"))
        if "success" in points[0]:
            lines = (("success", "edit success", "#b3303c"), *lines[:1])
        for figure_name, label, colour in lines:
            _line(panel, values, [p[figure_name] for p in points], label, colour)
        panel.set_xlabel(SWEEP_LABELS[name])
    name = "mask_thresholding_ratio"
    panel = axes.flat[len(SWEPT)]
    for suffix, label, colour in (
        ("", "with the source text", "#0b6e4f"),
        (", no source text", "without", "#888888"),
    ):
        found = [measured[f"{name}={value:g}{suffix}"]["iou"] for value in SWEPT[name]]
        _line(panel, SWEPT[name], found, f"mask IoU {label}", colour)
    panel.set_xlabel(SWEEP_LABELS[name])
    for panel in axes.flat:
        panel.grid(alpha=0.25)
        panel.legend(frameon=False, fontsize=8)
    save(figure, path)


def rows(measured: Measured, path: Path) -> None:
    """Rows and edit success of every setting that has both."""
    save(rows_figure(measured), path)


def rows_figure(measured: Measured) -> Any:
    """The figure of `rows`: one line a setting, those with the fewest rows first."""
    found = {n: m for n, m in measured.items() if "rows" in m and "success" in m}
    names = sorted(found, key=lambda name: (found[name]["rows"].mean, name))
    size = (8.4, 0.27 * len(names) + 1.0)
    figure, (left, right) = pyplot().subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    colours = [COLOURS["sdedit" if n.startswith("diffusers") else "diffedit"] for n in names]
    labels = [PRESETS.get(name, name) for name in names]
    cost = [found[name]["rows"].mean for name in names]
    left.bar_label(left.barh(labels, cost, color=colours), fmt=" {:.0f}", fontsize=8)
    left.margins(x=0.15)
    left.set_xlabel("denoiser rows of an edit, nothing cached")
    left.invert_yaxis()
    for label, name, colour in zip(labels, names, colours, strict=True):
        _interval(right, label, found[name]["success"], colour)
    right.set_xlabel("edit success, with its interval  →")
    right.grid(alpha=0.25)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _interval(axes: Any, label: str, one: Estimate, colour: str) -> None:
    """A point with the interval of its mean."""
    bars = [[one.mean - one.low], [one.high - one.mean]]
    axes.errorbar([one.mean], [label], xerr=bars, color=colour, marker="o", markersize=4)


def _curve(
    axes: Any,
    measured: Measured,
    names: Sequence[str],
    label: str,
    colour: str,
    style: str = "-",
) -> None:
    kept = [measured[name]["background_db"] for name in names]
    done = [measured[name]["success"] for name in names]
    xs, ys = [e.mean for e in kept], [e.mean for e in done]
    bars = [[e.mean - e.low for e in done], [e.high - e.mean for e in done]]
    axes.errorbar(xs, ys, yerr=bars, color=colour, alpha=0.25, fmt="none")
    axes.plot(xs, ys, style, color=colour, marker="o", markersize=4, label=label)
    for i in (0, len(names) - 1):
        axes.annotate(
            f"{STRENGTHS[i]:g}", (xs[i], ys[i]), (4, 4), textcoords="offset points", fontsize=7
        )


def _line(
    axes: Any, values: Sequence[float], found: Sequence[Estimate], label: str, colour: str
) -> None:
    axes.plot(values, [e.mean for e in found], marker="o", markersize=4, color=colour, label=label)
    axes.fill_between(
        values, [e.low for e in found], [e.high for e in found], color=colour, alpha=0.12
    )
