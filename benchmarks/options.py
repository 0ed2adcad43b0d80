"""The options that several benchmarks share, each declared once.

A benchmark is a function whose parameters are annotated with these; it is called with the same
values from Python. Lists are comma-separated on the command line and tuples in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.timing import MINIMUM_REPEATS
from engine.netspec import parse_size

WORK, BACKEND, OUTPUT = "What to run", "Backend", "Output"
DEMO = Path("demo/model")


def option(panel: str, text: str, *names: str, **more: Any) -> Any:
    """An option in one panel of the help."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


def choices(panel: str, text: str, allowed: Iterable[str]) -> Any:
    """A comma-separated list whose items must be among `allowed`."""
    allowed = tuple(allowed)

    def parse(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        chosen = tuple(text.split(","))
        if not set(chosen) <= set(allowed):
            raise typer.BadParameter(f"{text!r} is unknown; use some of {','.join(allowed)}.")
        return chosen

    names = ",".join(allowed)
    return option(panel, f"{text}, of {names}.", parser=parse, metavar="LIST")


def _size(text: Any) -> Any:
    try:
        return parse_size(text) if isinstance(text, str) else text
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from None


def values(panel: str, text: str, kind: Callable[[str], Any] = int, **more: Any) -> Any:
    """A comma-separated list; each item is converted by `kind`."""

    def parse(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise typer.BadParameter(
                f"{text!r} is not a comma-separated list of values like {kind('1')!r}."
            ) from None

    return option(panel, text, parser=parse, metavar="LIST", **more)


Model = Annotated[Path, option(WORK, "A checkpoint folder in diffusers' format.")]
Size = Annotated[
    Any,
    option(
        WORK,
        "Picture size in pixels, e.g. 512 or 512x768 (height x width). [default: the model's]",
        parser=_size,
        metavar="SIZE",
        show_default=False,
    ),
]
Steps = Annotated[int, option(WORK, "N, the steps of the schedule.", min=1)]
Strength = Annotated[float, option(WORK, "Encoding ratio.")]
Guidance = Annotated[float, option(WORK, "Guidance scale.")]
Maps = Annotated[int, option(WORK, "Noises that the mask is averaged over.", min=1)]
Threshold = Annotated[
    float, option(WORK, "Mask threshold. With random weights use 0.3: at 0.5 the mask is empty.")
]
Repeats = Annotated[
    int, option(WORK, "Timings of each figure; the median is reported.", min=MINIMUM_REPEATS)
]
Batches = Annotated[Any, values(WORK, "Rows in a call of the denoiser.")]

Device = Annotated[
    str | None, option(BACKEND, "cpu, cuda or cuda:N. [default: a GPU if there is one]")
]
Backend = Annotated[str, option(BACKEND, "auto, torch, onnxruntime or tensorrt.")]
Engines = Annotated[
    Path | None, option(BACKEND, "Engine folder, for onnxruntime, tensorrt and openvino.")
]
DType = Annotated[
    str | None,
    option(BACKEND, "torch: fp32, bf16 or fp16. [default: the fastest one that is safe]"),
]
Compile = Annotated[bool, option(BACKEND, "torch: compile the networks (minutes).", "--compile")]

Plot = Annotated[Path | None, option(OUTPUT, "Draw the result into this PNG file.")]
Json = Annotated[Path | None, option(OUTPUT, "Write the result to this file as well.", "--json")]
