"""Pictures of speed: ladder, roofline, devices side by side. They draw what they are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

GREEN, RED, BLUE, GREY = "#0b6e4f", "#b3303c", "#3066be", "#9a9a9a"


def ladder(rungs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Seconds an edit, a bar a rung that ran."""
    ran = [rung for rung in rungs if "seconds" in rung]
    figure, axes = _axes((9.5, 0.42 * len(ran) + 1.2))
    names = [rung["name"] for rung in ran]
    seconds = [rung["seconds"] for rung in ran]
    colours = [RED if name.startswith("diffusers") else GREEN for name in names]
    axes.barh(names, seconds, color=colours)
    axes.invert_yaxis()
    axes.set_xlabel("seconds an edit")
    for i, taken in enumerate(seconds):
        axes.text(taken, i, f" {taken:.2f} s, {seconds[0] / taken:.1f} x", va="center", fontsize=8)
    axes.set_xlim(0, 1.25 * max(seconds))
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def roofline(result: Mapping[str, Any], path: Path) -> None:
    """What share of the matrix ceiling each call reaches, by its rows."""
    figure, axes = _axes((8, 4.2))
    calls = result["calls"]
    unet = [call for call in calls if call["network"] == "unet"]
    axes.plot(
        [call["rows"] for call in unet],
        [100 * call["of_ceiling"] for call in unet],
        marker="o",
        color=GREEN,
        label="UNet",
    )
    others = [call for call in calls if call["network"] != "unet"]
    for call, colour in zip(others, (BLUE, RED, GREY), strict=False):
        axes.plot(
            [call["rows"]], [100 * call["of_ceiling"]], "s", color=colour, label=call["network"]
        )
    axes.set_xticks(sorted({call["rows"] for call in calls}))
    axes.set_xlabel("rows a call")
    axes.set_ylabel(f"% of {result['matrix_tflops']:g} TFLOP/s ({result['precision']})")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    axes.set_title(result["backend"], fontsize=9)
    save(figure, path)


def devices(table: Mapping[str, Mapping[str, float]], names: Sequence[str], path: Path) -> None:
    """Every row of a comparison, each device as a multiple of the first."""
    rows = [row for row, values in table.items() if names[0] in values]
    figure, axes = _axes((9.5, 0.32 * len(rows) + 1.4))
    for name, colour in zip(names, (GREY, GREEN, BLUE, RED), strict=False):
        shares = [table[row].get(name, float("nan")) / table[row][names[0]] for row in rows]
        axes.plot(shares, rows, "o", color=colour, label=name)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel(f"as a multiple of {names[0]}")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    save(figure, path)


def pyplot() -> Any:
    """matplotlib without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as found

    return found


def save(figure: Any, path: Path) -> None:
    """Write a PNG whole or not at all, and let the figure go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.png")
    figure.savefig(part, dpi=110)
    pyplot().close(figure)
    part.replace(path)


def _axes(size: tuple[float, float]) -> tuple[Any, Any]:
    figure, axes = pyplot().subplots(figsize=size, layout="constrained")
    return figure, axes
