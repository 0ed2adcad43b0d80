"""What an edit returns: pictures, arrays, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image


@dataclass(frozen=True)
class Stats:
    """What one request cost.

    Attributes:
        rows: network -> rows it asked for.
        calls: network -> engine calls its rows were in; a shared call counts for each sharer.
        seconds: stage ("mask", "encode", "decode", "total") -> wall time.
        denoiser: the name of the network that runs at every step, such as "unet".
    """

    rows: dict[str, int]
    calls: dict[str, int]
    seconds: dict[str, float]
    denoiser: str


@dataclass(frozen=True, eq=False)
class EditResult:
    """An edited photograph.

    Attributes:
        image: PIL RGB, the photograph's size.
        mask: PIL L, the photograph's size, 255 where pixels were edited, else 0.
        heatmap: float32 [h, w] in [0, 1], on the latent grid.
        latent_mask: bool [h, w].
        latents: float32 [C, h, w]: y_0.
        stats: rows, calls and seconds.
        seed: the request's.
        warnings: sentences for the user, such as a text that was cut off.
    """

    image: Image
    mask: Image
    heatmap: NDArray[np.float32]
    latent_mask: NDArray[np.bool_]
    latents: NDArray[np.float32]
    stats: Stats
    seed: int
    warnings: tuple[str, ...] = ()


class FoundMask(NamedTuple):
    """The mask alone.

    Attributes:
        heatmap: float32 [h, w] in [0, 1], on the latent grid.
        latent_mask: bool [h, w].
        mask: PIL L, the photograph's size, 0 or 255.
    """

    heatmap: NDArray[np.float32]
    latent_mask: NDArray[np.bool_]
    mask: Image
