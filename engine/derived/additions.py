"""What a user adds to a model: the parts that a single file lacks, another VAE, embeddings.

Standard library only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

Report = Callable[[str, int, int], None]
"""`report(text, done, total)`, while a model is converted."""


@dataclass(frozen=True)
class Additions:
    """Options beside the model itself. Each is left out by default.

    Attributes:
        base: for a single file: a checkpoint folder or hub id with what the file lacks, such as
            FLUX's text encoders.
        prediction_type: for a single file: what its denoiser predicts.
        vae: a folder or single file with another VAE.
        embeddings: textual inversions: (.safetensors file, token); None takes the file's own token.
        clip_skip: CLIP layers that are left out, beside those that always are.
    """

    base: str | Path | None = None
    prediction_type: str | None = None
    vae: Path | None = None
    embeddings: tuple[tuple[Path, str | None], ...] = ()
    clip_skip: int = 0


NOTHING = Additions()


def logged(text: str, done: int, total: int) -> None:
    """The usual `Report`: a line in the log."""
    log.info("%s (%d of %d)" if total else "%s", *((text, done, total) if total else (text,)))
