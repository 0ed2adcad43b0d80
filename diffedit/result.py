"""`EditResult` and `Stats`: the pictures and arrays that an edit returns, and its cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from diffedit.notices import Notice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from diffedit.imaging.mask_reader import MaskConvention
    from diffedit.imaging.photograph import Photograph
    from diffedit.provenance import Provenance
    from diffedit.soft_map import SoftMap


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
        image: PIL image of the photograph's size, in its own color space (`.info` has the ICC
            profile) and mode: RGB, RGBA, L or LA. 16-bit grey is I;16. Of 16-bit colors it has the
            high bytes. Palettes become RGB or RGBA, other modes RGB.
        photo: the result with all of its values and metadata; `save` writes it.
        mask: PIL L of the photograph's size: 255 where pixels were edited, 0 elsewhere.
        blend_mask: PIL L of that size: the opacity of the edit at each pixel, 0 outside `mask`.
            Without compositing it is 255 everywhere.
        heatmap: float32 [h, w] in [0, 1] on the latent grid: how much the two texts differ.
        latent_mask: bool [h, w]: the latent pixels that were edited.
        latents: float32 [C, h, w]: y_0, the edited latents.
        stats: cost of the edit.
        seed: seed of the request.
        parameters: every option that was used, with the defaults filled in; see
            `diffedit.request.parameters`.
        warnings: sentences for the user, such as that a prompt was truncated. Each is a str with
            an attribute `code`, one of `diffedit.notices.CODES`.
        provenance: the model, what is fused into it, the backend, its precision and CPU kernels.
        soft_map: what `DiffEditPipeline.refine` makes other masks from; None if the mask was given
            or the method has none.
        edits: the mask of each of several edits, in their order; where masks overlap, the earlier
            edit applies. `heatmap` is then the maximum of theirs, and `soft_map` is None.
        mask_read_as: which pixels of the request's mask are edited: "alpha" (transparent ones),
            "white" or "black"; None if the mask was computed.
        window: (left, top, right, bottom) in pixels: the part of the photograph that was edited,
            with `focus`; None if the networks saw the whole photograph.
    """

    image: Image
    photo: Photograph = field(repr=False)
    mask: Image
    blend_mask: Image
    heatmap: NDArray[np.float32]
    latent_mask: NDArray[np.bool_]
    latents: NDArray[np.float32]
    stats: Stats
    seed: int
    warnings: tuple[Notice, ...] = ()
    provenance: Provenance | None = None
    mask_read_as: MaskConvention | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict, repr=False)
    soft_map: SoftMap | None = field(default=None, repr=False)
    edits: tuple[FoundMask, ...] = field(default=(), repr=False)
    window: tuple[int, int, int, int] | None = None

    def save(self, path: str | Path) -> list[Notice]:
        """Write the image as PNG, JPEG, WebP or TIFF, by the extension.

        The color profile, EXIF and resolution are kept, and in PNG also 16 bits and transparency.
        `image.save` of PIL does less.

        Returns: a sentence for each property that the format cannot store.

        Raises:
            InvalidRequest: another extension.
            OSError: the file cannot be written.
        """
        from diffedit.imaging import encode

        file_format = encode.format_of(Path(path))
        Path(path).write_bytes(encode.encode(self.photo, file_format))
        return encode.losses(self.photo, file_format)


class FoundMask(NamedTuple):
    """A mask without an edit. `DiffEditPipeline.refine` makes other masks from it.

    Attributes:
        heatmap: float32 [h, w] in [0, 1], on the latent grid.
        latent_mask: bool [h, w].
        mask: PIL L, the photograph's size, 0 or 255.
        warnings: sentences for the user, as in `EditResult`.
        soft_map: as in `EditResult`.
    """

    heatmap: NDArray[np.float32]
    latent_mask: NDArray[np.bool_]
    mask: Image
    warnings: tuple[Notice, ...] = ()
    soft_map: SoftMap | None = None

    @property
    def blend_mask(self) -> Image:
        """The opacity of the edit at each pixel: L of the photograph's size, 0 outside `mask`.

        Computed at each access; with "edges" this takes longer than computing the mask.
        """
        from diffedit.imaging import borders
        from diffedit.soft_map import blend_mask

        return blend_mask(self.mask, [self.soft_map]) if self.soft_map else borders.faded(self.mask)
