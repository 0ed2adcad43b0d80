"""Detect LoRAs that change no weight, such as one that was saved before its training began."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.checkpoint import Checkpoint
from engine.lora.file import Lora, Target

log = logging.getLogger(__name__)

FACTORS: tuple[tuple[str, ...], ...] = (
    ("up", "down", "mid"),
    ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    ("diff",),
)
"""The tensors whose product is a layer's change: it is zero if one of them is."""
NORMS = ("magnitude", "dora_scale")


def warn_without_effect(loras: Sequence[Lora], checkpoint: Checkpoint) -> None:
    """Log a warning for each LoRA that changes no weight.

    It reads two tensors of most files. Raises CheckpointError if a file does not fit the model.
    """
    scales: dict[str, list[Lora]] = {}
    for lora in loras:
        scales.setdefault(lora.sha256, []).append(lora)
    for same in scales.values():
        targets = [t for part in same[0].targets(checkpoint).values() for t in part.values()]
        if reason := _reason(same, targets):
            log.warning(
                "The LoRA %s changes nothing: %s; results are those of the model without it.",
                *(same[0].path, reason),
            )


def _reason(same: Sequence[Lora], targets: Iterable[Target]) -> str | None:
    if sum(lora.scale for lora in same) == 0:
        return "its scales add up to 0" if len(same) > 1 else "its scale is 0"
    return None if _has_effect(same[0].path, targets) else "all of its changes are 0"


def _has_effect(path: Path, targets: Iterable[Target]) -> bool:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return any(_changes(target, file) for target in targets)


def _changes(target: Target, file: Any) -> bool:
    """Whether a layer's tensors change its weight or its bias."""
    names: Mapping[str, str] = target.tensors

    def some(kind: str) -> bool:
        return bool(file.get_tensor(names[kind]).float().any())

    if any(kind in names for kind in NORMS) or ("diff_b" in names and some("diff_b")):
        return True  # a norm may differ from the model's own, whatever the factors are
    if target.factor == 0 or ("alpha" in names and not some("alpha")):
        return False
    factors = [[kind for kind in group if kind in names] for group in FACTORS]
    return any(group and all(some(kind) for kind in group) for group in factors)
