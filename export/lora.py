"""The digest of weights with fused LoRAs, which determines what a build has to build again.

A fused LoRA costs nothing at run time, but another scale needs another engine. `engine.lora` fuses
the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from engine.checkpoint import Checkpoint
from engine.lora.file import Lora

__all__ = ["Lora", "weights_digest"]

FUSE_VERSION = 2
"""Increase it with every change of `engine.lora` that changes fused weights."""


def weights_digest(checkpoint: Checkpoint, part: str, digest: str, loras: Sequence[Lora]) -> str:
    """sha256 of a part's weights with every LoRA that changes it.

    `digest` is the digest of the weights without LoRAs.
    """
    fused = [lora for lora in loras if lora.changes(checkpoint, part)]
    if not fused:
        return digest
    changes = "".join(f" {lora.sha256} {lora.scale!r}" for lora in fused)
    return hashlib.sha256(f"{digest} {FUSE_VERSION}{changes}".encode()).hexdigest()
