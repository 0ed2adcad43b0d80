"""Additions to a model: the parts that a single file lacks, another VAE, embeddings, scheduler.

Standard library only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

Report = Callable[[str, int, int], None]
"""`report(text, done, total)`: called while a model is converted."""


@dataclass(frozen=True)
class Additions:
    """Additions to a model. None of them is used by default.

    Attributes:
        base: for a single file: a checkpoint folder or hub id with the parts that the file lacks,
            such as FLUX's text encoders.
        prediction_type: for a single file: what its denoiser predicts.
        vae: a folder or single file with another VAE.
        embeddings: textual inversions: (.safetensors file, token); None takes the file's own token.
        clip_skip: number of last CLIP layers to skip, in addition to those that the model skips
            anyway.
        scheduler: "lcm", "tcd" or "trailing", for a LoRA that distils the model; see
            `engine.models.distilling_lora`.
    """

    base: str | Path | None = None
    prediction_type: str | None = None
    vae: Path | None = None
    embeddings: tuple[tuple[Path, str | None], ...] = ()
    clip_skip: int = 0
    scheduler: str | None = None


NOTHING = Additions()


def logged(text: str, done: int, total: int) -> None:
    """The default `Report`: log a line."""
    log.info("%s (%d of %d)" if total else "%s", *((text, done, total) if total else (text,)))
