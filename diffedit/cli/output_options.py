"""The options for a command's output files and messages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from diffedit.cli.options import option

OUTPUT = "Output"

Force = Annotated[bool, option(OUTPUT, "Overwrite existing files.", "--force", show_default=False)]
Json = Annotated[
    bool,
    option(OUTPUT, "Print one line of JSON on standard output.", "--json", show_default=False),
]
Quiet = Annotated[
    bool,
    option(OUTPUT, "Print neither progress nor summary.", "--quiet", "-q", show_default=False),
]


@dataclass(frozen=True)
class OutputOptions:
    """A command's output files and messages."""

    out: Annotated[
        str | None, option(OUTPUT, "File to write; - writes standard output.", "--out", "-o")
    ] = None
    heatmap_out: Annotated[
        Path | None,
        option(
            OUTPUT,
            "Also write the heatmap over the photograph, or its values if the name ends in .npy.",
            "--heatmap-out",
        ),
    ] = None
    force: Force = False
    as_json: Json = False
    quiet: Quiet = False


@dataclass(frozen=True)
class EditOutputOptions(OutputOptions):
    """The same, with the files that only an edit writes."""

    mask_out: Annotated[
        Path | None, option(OUTPUT, "Also write the mask, black and white.", "--mask-out")
    ] = None
    blend_out: Annotated[
        Path | None,
        option(
            OUTPUT,
            "Also write the blend mask: the opacity of the edit at each pixel.",
            "--blend-out",
        ),
    ] = None
    panel: Annotated[
        Path | None,
        option(OUTPUT, "Also write input, heatmap, mask and result side by side.", "--panel"),
    ] = None


@dataclass(frozen=True)
class RestoreOutputOptions(EditOutputOptions):
    """The same for `restore`, which has neither heatmap nor blend mask."""

    heatmap_out: None = None
    blend_out: None = None
