"""The identity of weights with LoRAs fused into them, which decides what a build makes again.

A fused engine costs nothing at run time; another scale is another engine. The fusing itself is done
by `engine.lora`.
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
    """sha256 of a part's weights after every LoRA that changes it was fused.

    `digest` is that of the checkpoint's own weights.
    """
    fused = [lora for lora in loras if lora.changes(checkpoint, part)]
    if not fused:
        return digest
    changes = "".join(f" {lora.sha256} {lora.scale!r}" for lora in fused)
    return hashlib.sha256(f"{digest} {FUSE_VERSION}{changes}".encode()).hexdigest()
