"""Compare photographs by their own values, and with masks."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops

from diffedit.imaging.photograph import Photograph


def hidden_share(photo: Photograph, mask: Image.Image) -> float:
    """Return the share of a mask's area, in [0, 1], that is transparent in the photograph."""
    if not photo.has_alpha or not (count := mask.histogram()[255]):
        return 0.0
    alpha = photo.eight_bit.getchannel("A").histogram(mask)
    return sum(alpha[:128]) / count


def largest_difference(
    first: Photograph, second: Photograph, area: Image.Image | None = None
) -> int:
    """Return the largest difference of any value, 0 to 255. 16-bit values are divided by 257.

    Args:
        first, second: photographs of one size. Their own values are compared if both have the same
            kind of values, otherwise their sRGB values.
        area: L: compare pixels where it is 255 only.
    """
    a, b = first.values, second.values
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.shape == b.shape:
        distance = np.maximum(a, b) - np.minimum(a, b)
        inside = distance if area is None else distance[np.asarray(area) == 255]
        return -(-int(inside.max(initial=0)) // 257)
    if first.eight_bit.mode != second.eight_bit.mode:
        difference = ImageChops.difference(first.rgb, second.rgb)
    else:
        difference = ImageChops.difference(first.eight_bit, second.eight_bit)
    box = difference.getbbox(alpha_only=False)  # the rest is equal, usually most of it
    if box is None:
        return 0
    levels = difference.crop(box).histogram(None if area is None else area.crop(box))
    return max((index % 256 for index, count in enumerate(levels) if count), default=0)


def share(mask: Image.Image) -> float:
    """Return the share, in [0, 1], of a mask that is 255."""
    return int(np.count_nonzero(np.asarray(mask) == 255)) / (mask.width * mask.height)
