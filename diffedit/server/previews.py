"""Latents to RGB without the decoder, by a linear map.

The map is fitted on the checkpoint's own encoder when the server starts. For each edit it is fitted
again on the edited image, with the first map as the prior. This module handles arrays only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
PRIOR_WEIGHT = 0.01
"""Weight of the prior relative to the image's latent cells; it stabilises images of few colours."""


def fit_rgb_map(latents: Floats, images: Floats, prior: Floats | None = None) -> Floats:
    """Fit the least-squares map from latents to the mean colours of their cells.

    Args:
        latents: float32 [K, C, h, w].
        images: float32 [K, 3, H, W] in [-1, 1], the encoded images.
        prior: a map to stay close to where the images do not determine the result.

    Returns: float32 [C + 1, 3]; the last row is the constant.
    """
    count, channels, height, width = latents.shape
    cell = images.shape[-1] // width
    mean_colours = images.reshape(count, 3, height, cell, width, cell).mean((3, 5))
    inputs = latents.transpose(0, 2, 3, 1).reshape(-1, channels).astype(np.float64)
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], 1)
    targets = mean_colours.transpose(0, 2, 3, 1).reshape(-1, 3).astype(np.float64)
    if prior is not None:
        weight = np.sqrt(PRIOR_WEIGHT * len(inputs)) * np.eye(channels + 1)
        inputs = np.concatenate([inputs, weight])
        targets = np.concatenate([targets, weight @ prior])
    rgb_map, *_ = np.linalg.lstsq(inputs, targets, rcond=None)
    return np.asarray(rgb_map, np.float32)


def latent_to_rgb(latent: Floats, rgb_map: Floats) -> Floats:
    """Map a latent [C, h, w] to approximate colours, float32 [h, w, 3] in [-1, 1]."""
    channels = latent.shape[0]
    flat = latent.reshape(channels, -1).T @ rgb_map[:channels] + rgb_map[channels]
    return np.ascontiguousarray(flat.reshape(*latent.shape[1:], 3).clip(-1, 1), dtype=np.float32)
