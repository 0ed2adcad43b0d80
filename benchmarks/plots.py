"""Plots of speed results: ladder, roofline. Each draws the result it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.networks import DENOISER
from benchmarks.schema import Result

GREEN, RED = "#0b6e4f", "#b3303c"


def ladder(result: Result, path: Path) -> None:
    """Seconds an edit, one bar for each rung that ran."""
    rows = result.measurements
    figure, axes = _axes((9.5, 0.42 * len(rows) + 1.2))
    names = [row.labels["rung"] for row in rows]
    seconds = [row.value or 0.0 for row in rows]
    colours = [RED if name.startswith("diffusers") else GREEN for name in names]
    spread = [
        [s - (row.low or s) for s, row in zip(seconds, rows, strict=True)],
        [(row.high or s) - s for s, row in zip(seconds, rows, strict=True)],
    ]
    axes.barh(names, seconds, color=colours, xerr=spread)
    axes.invert_yaxis()
    axes.set_xlabel("seconds an edit")
    ends = [row.high or taken for row, taken in zip(rows, seconds, strict=True)]
    for i, (taken, end) in enumerate(zip(seconds, ends, strict=True)):
        axes.text(end, i, f"  {taken:.3g} s, {seconds[0] / taken:.1f} x", va="center", fontsize=8)
    axes.set_xlim(0, 1.25 * max(ends))
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def roofline(result: Result, path: Path) -> None:
    """The share of the matrix limit that each call reaches, by its rows."""
    figure, axes = _axes((8, 4.2))
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in result.measurements:
        if row.name == "call":
            name = f"{row.labels['network']}, {row.labels['backend']}"
            share = 100 * row.extras["share_of_limit"]
            lines.setdefault(name, []).append((row.labels["rows"], share))
    for name, points in lines.items():
        rows, shares = zip(*points, strict=True)
        axes.plot(rows, shares, marker="o" if name.startswith(DENOISER) else "s", label=name)
    axes.set_xticks(sorted({rows for points in lines.values() for rows, _ in points}))
    axes.set_xlabel("rows a call")
    axes.set_ylabel("% of the rate of a matrix product")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    axes.set_title(result.configuration.get("backend", ""), fontsize=9)
    save(figure, path)


def pyplot() -> Any:
    """matplotlib without a display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as found

    return found


def save(figure: Any, path: Path) -> None:
    """Write a PNG, whole or not at all, and close the figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.png")
    figure.savefig(part, dpi=110)
    pyplot().close(figure)
    part.replace(path)


def _axes(size: tuple[float, float]) -> tuple[Any, Any]:
    figure, axes = pyplot().subplots(figsize=size, layout="constrained")
    return figure, axes
