"""Draw the plot of a stored result, without measuring anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import plots
from benchmarks.quality import plots as quality_plots
from benchmarks.quality.summary import stored
from benchmarks.schema import Result, ResultError, load

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="A result file of ladder, roofline or quality.")
]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="The PNG to write.")]


def draw(file: File, out: Out) -> None:
    """Draw the plot of a stored result.

    The plot of `quality` is that of the presets: success against rows.

    Example: python -m benchmarks draw benchmarks/results/a.json a.png
    """
    for result in load(file):
        if result.benchmark in PLOTS:
            PLOTS[result.benchmark](result, out)
            print(f"wrote {out}")
            return
    raise ResultError(f"{file} has no plot; pass a result of {', '.join(PLOTS)}.")


def _presets(result: Result, out: Path) -> None:
    measured = stored(result, "presets")
    if not measured:
        raise ResultError("The result has no presets; measure them with --parts presets.")
    quality_plots.rows(measured, out)


PLOTS: dict[str, Callable[[Result, Path], None]] = {
    "ladder": plots.ladder,
    "roofline": plots.roofline,
    "quality": _presets,
}
