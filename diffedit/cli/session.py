"""Opening what a command needs: the picture (from a file or standard input) and the pipeline."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffedit.cli.errors import say
from diffedit.cli.options import ModelOptions
from diffedit.cli.progress import Progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from diffedit.pipeline import DiffEditPipeline


def read_picture(name: str) -> Image:
    """The photograph as upright RGB; `-` is standard input. Raises InvalidRequest."""
    from diffedit.imaging import decode

    return decode.load(sys.stdin.buffer.read() if name == "-" else name)


def read_mask(name: str, photo: Image) -> Image:
    """A mask as L, 0 or 255, of the photograph's size; `-` is standard input."""
    from diffedit.imaging import decode

    data: Any = sys.stdin.buffer.read() if name == "-" else name
    return decode.load_mask(data, photo.size)


@contextmanager
def pipeline(
    options: ModelOptions, progress: Progress, *, quiet: bool
) -> Iterator[DiffEditPipeline]:
    """The opened pipeline, closed at the end; says which backend it took and why."""
    progress.stage("loading the program")
    from diffedit import DiffEditPipeline

    progress.stage("loading the model")
    arguments: dict[str, Any] = asdict(options)
    pipe = DiffEditPipeline.from_pretrained(arguments.pop("model"), **arguments)
    try:
        if not quiet:
            say(f"backend: {pipe.describe()}")
        yield pipe
    finally:
        pipe.close()


def overlay(pipe: DiffEditPipeline, photo: Image, heatmap: Any) -> Image:
    """The heatmap over the photograph it belongs to."""
    from diffedit.imaging import compose, geometry

    factor = pipe.checkpoint.family.factor
    height, width = heatmap.shape
    _, placement = geometry.fit(photo, (height * factor, width * factor))
    return compose.heatmap_overlay(photo, heatmap, placement, factor)


def default_output(image: str, ending: str) -> str:
    """Where a result goes that was given no name: beside the input, or to standard output."""
    if image == "-":
        return "-"
    return str(Path(image).with_name(f"{Path(image).stem}.{ending}.png"))
