"""Measures of how far an array is from a reference."""

from __future__ import annotations

from typing import Any

import numpy as np


def relative_error(array: Any, reference: Any) -> float:
    """|array - reference| / |reference|, in float64."""
    a, b = np.asarray(array, np.float64), np.asarray(reference, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def mask_iou(mask: Any, reference: Any) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    a, b = np.asarray(mask, bool), np.asarray(reference, bool)
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def quality(mask: Any, latents: Any, exact_mask: Any, exact_latents: Any) -> dict[str, float]:
    """Both measures of an edit against the exact one; without latents only the mask's."""
    found = {"mask_iou": round(mask_iou(mask, exact_mask), 4)}
    if latents is not None:
        found["latents_relative_error"] = round(relative_error(latents, exact_latents), 6)
    return found
