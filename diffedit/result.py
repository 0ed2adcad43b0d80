"""`EditResult` and `Stats`: the pictures and arrays that an edit returns, and its cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from diffedit.imaging.mask_reader import MaskConvention


@dataclass(frozen=True)
class Stats:
    """Cost of one request.

    Attributes:
        rows: rows the request needed, by network.
        calls: calls that contained rows of the request, by network. A call shared by several
            requests counts for each of them.
        seconds: wall time by stage ("mask", "encode", "decode") and in "total".
        denoiser: name of the network that runs at every step, such as "unet".
    """

    rows: dict[str, int]
    calls: dict[str, int]
    seconds: dict[str, float]
    denoiser: str


@dataclass(frozen=True, eq=False)
class EditResult:
    """An edited photograph.

    Attributes:
        image: PIL RGB of the photograph's size.
        mask: PIL L of the photograph's size: 255 where pixels were edited, 0 elsewhere.
        heatmap: float32 [h, w] in [0, 1] on the latent grid: how much the two prompts disagree.
        latent_mask: bool [h, w]: the latent pixels that were edited.
        latents: float32 [C, h, w]: y_0, the edited latents.
        stats: cost of the edit.
        seed: seed of the request.
        warnings: sentences for the user, such as that a prompt was truncated.
        mask_read_as: which pixels of the request's mask are edited: "alpha" (transparent ones),
            "white" or "black"; None if the mask was computed.
    """

    image: Image
    mask: Image
    heatmap: NDArray[np.float32]
    latent_mask: NDArray[np.bool_]
    latents: NDArray[np.float32]
    stats: Stats
    seed: int
    warnings: tuple[str, ...] = ()
    mask_read_as: MaskConvention | None = None


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
