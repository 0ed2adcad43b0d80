"""What a user adds to a model: the parts that a single file lacks, another VAE, embeddings.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Report = Callable[[str, int, int], None]
"""`report(text, done, total)`, while a model is converted."""


@dataclass(frozen=True)
class Additions:
    """Options beside the model itself. Each is left out by default.

    Attributes:
        base: for a single file: a checkpoint folder or hub id with what the file lacks, such as
            FLUX's text encoders.
        prediction_type: for a single file: what its denoiser predicts.
    """

    base: str | Path | None = None
    prediction_type: str | None = None


NOTHING = Additions()


def silent(text: str, done: int, total: int) -> None:
    """A `Report` that shows nothing."""
