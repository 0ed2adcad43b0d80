"""Options of the command line that name files beside the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Base = Annotated[
    str | None,
    typer.Option(help="For a single file: a checkpoint with the parts that the file lacks."),
]
PredictionType = Annotated[
    str | None,
    typer.Option(help="For a single file: what its U-Net predicts, epsilon or v_prediction."),
]
Vae = Annotated[
    Path | None, typer.Option(help="Another VAE: a folder or a single .safetensors file.")
]
Embeddings = Annotated[
    list[str] | None,
    typer.Option(
        "--embedding",
        metavar="FILE[:TOKEN]",
        help="Textual inversion (.safetensors); may be repeated.",
    ),
]
ClipSkip = Annotated[
    int, typer.Option(help="CLIP layers to leave out, beside those that always are.", min=0)
]
