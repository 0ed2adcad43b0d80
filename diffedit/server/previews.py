"""What a latent looks like, without the decoder: a linear map from latents to colours.

It is fitted on the checkpoint's own encoder when the server starts, and once more, with that as its
prior, on the very picture that is edited. Arrays in, arrays out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
TRUST = 0.01
"""The prior's weight, in latent cells of the picture: enough for pictures of few colours."""


def fit(latents: Floats, pictures: Floats, prior: Floats | None = None) -> Floats:
    """The least-squares map from latents [K, C, h, w] to the mean colours of their cells.

    Args:
        pictures: float32 [K, 3, H, W] in [-1, 1], what the latents encode.
        prior: a map to stay close to where these pictures say nothing.

    Returns: float32 [C + 1, 3]; the last line is the constant.
    """
    count, channels, height, width = latents.shape
    cell = pictures.shape[-1] // width
    cells = pictures.reshape(count, 3, height, cell, width, cell).mean((3, 5))
    known = latents.transpose(0, 2, 3, 1).reshape(-1, channels).astype(np.float64)
    known = np.concatenate([known, np.ones((len(known), 1))], 1)
    wanted = cells.transpose(0, 2, 3, 1).reshape(-1, 3).astype(np.float64)
    if prior is not None:
        weight = np.sqrt(TRUST * len(known)) * np.eye(channels + 1)
        known = np.concatenate([known, weight])
        wanted = np.concatenate([wanted, weight @ prior])
    table, *_ = np.linalg.lstsq(known, wanted, rcond=None)
    return np.asarray(table, np.float32)


def colours(latent: Floats, table: Floats) -> Floats:
    """A latent [C, h, w] through a map: about its picture, [h, w, 3] in [-1, 1]."""
    channels = latent.shape[0]
    flat = latent.reshape(channels, -1).T @ table[:channels] + table[channels]
    return np.ascontiguousarray(flat.reshape(*latent.shape[1:], 3).clip(-1, 1), dtype=np.float32)
