"""The networks' input of a request: a picture on a canvas, and the cells of its mask."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffedit.imaging import geometry
from diffedit.imaging.geometry import Placement
from engine.netspec import Size

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Canvas:
    """A picture on the networks' canvas.

    Attributes:
        image: float32 [3, H, W] in [-1, 1].
        placement: where the picture is.
        region: bool [h, w]: the latent cells that show the picture.
        user_mask: bool [h, w]: the cells to edit; None without a mask.
        user_levels: float32 [h, w] in [0, 1]: how much each of them may change; None if the mask is
            black and white.
        key: identifies image and placement.
    """

    image: NDArray[np.float32]
    placement: Placement
    region: NDArray[np.bool_]
    user_mask: NDArray[np.bool_] | None
    user_levels: NDArray[np.float32] | None
    key: str


def make_canvas(
    picture: Image, mask: Image | None, size: Size, factor: int, soft: Image | None = None
) -> Canvas:
    """Fit a picture and its mask to a canvas.

    Args:
        picture: RGB.
        mask: L, 0 or 255, of the same size, or None.
        size: (height, width) of the canvas.
        factor: pixels per latent cell.
        soft: L, of the same size: how much each pixel may change; None for a black and white mask.
    """
    pixels, placement = geometry.fit_pixels(picture, size)
    cells = None if mask is None else geometry.latent_mask(mask, placement, factor)
    levels = None if soft is None else geometry.latent_levels(soft, placement, factor)
    digest = hashlib.sha256(np.ascontiguousarray(pixels).data)
    digest.update(repr(placement).encode())
    image, region = geometry.to_values(pixels), geometry.region(placement, factor)
    return Canvas(image, placement, region, cells, levels, digest.hexdigest())
