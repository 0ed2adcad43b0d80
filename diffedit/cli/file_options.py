"""Options that name files beside the model: what completes a single file, and what is added."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

PANEL = "Model and backend"


def _option(text: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=PANEL, **settings)


Base = Annotated[
    str | None,
    _option(
        "For a single file: folder or Hub id of a checkpoint with the parts that the file lacks, "
        "such as FLUX's text encoders.",
        "--base",
    ),
]
PredictionType = Annotated[
    str | None,
    _option(
        "For a single file: what its U-Net predicts, epsilon or v_prediction.",
        "--prediction-type",
        show_default="what the file says, or is usual",
    ),
]
Vae = Annotated[Path | None, _option("Another VAE: a folder or a .safetensors file.", "--vae")]
Embeddings = Annotated[
    list[str] | None,
    _option(
        "Textual inversion (.safetensors), with the token that stands for it in prompts; may be "
        "repeated. The token is by default what the file says, or its name.",
        "--embedding",
        metavar="FILE[:TOKEN]",
        show_default=False,
    ),
]
ClipSkip = Annotated[
    int,
    _option("CLIP layers to leave out, beside those that always are.", "--clip-skip", min=0),
]
