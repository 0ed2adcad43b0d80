"""`SoftMap`: the heatmap behind a computed mask; it makes other masks with other options.

No network runs: a heatmap on the latent grid becomes a mask of the photograph's size in
milliseconds. The rule itself is `diffedit.algorithm.mask.shape`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffedit import checks
from diffedit.algorithm import mask as masks
from diffedit.algorithm.mask import Shape, ShapeOptions
from diffedit.checks import Range
from diffedit.imaging import borders, geometry
from diffedit.imaging.borders import Guide
from diffedit.imaging.geometry import Placement
from diffedit.imaging.window import Box
from diffedit.request import CLEANINGS, RANGES, EditRequest, InvalidRequest
from diffedit.result import EditResult, FoundMask

if TYPE_CHECKING:
    from PIL.Image import Image

REFINE_RANGES: dict[str, Range] = {
    "threshold": RANGES["mask_threshold"],
    "grow": RANGES["mask_dilation"],
    "blur": Range(0, 16),
    "feather": RANGES["mask_feather"],
}
"""Range of every number that refining takes."""
FIELDS = {"grow": "dilation"}
"""Options of refining -> fields of `ShapeOptions` with another name."""


@dataclass(frozen=True, eq=False)
class SoftMap:
    """A heatmap, its position on the photograph, and the options that turn it into a mask.

    Attributes:
        heatmap: float32 [h, w] in [0, 1] on the latent grid; read-only.
        placement: of the photograph on the networks' canvas.
        factor: pixels of the canvas per latent cell.
        options: threshold, growing, cleaning, blur and inversion of the mask.
        feather: width of the blend mask's fade; see `EditRequest.mask_feather`.
        photo: RGB, for the border that "edges" draws; without it the border is that of the cells.
    """

    heatmap: NDArray[np.float32]
    placement: Placement
    factor: int
    options: ShapeOptions
    feather: float = EditRequest.mask_feather
    photo: Image | None = field(default=None, repr=False)

    @cached_property
    def shape(self) -> Shape:
        """The masks on the latent grid."""
        region = torch.from_numpy(geometry.region(self.placement, self.factor))
        return masks.shape(torch.tensor(self.heatmap), region, self.options)

    def cells(self) -> NDArray[np.bool_]:
        """The latent cells that are edited, bool [h, w]."""
        return self.shape.edit.numpy()

    def mask(self) -> Image:
        """The edit mask: L, 0 or 255, of the photograph's size."""
        return geometry.mask_to_photo(self.cells(), self.placement, self.factor)

    def guide(self, photo: Image) -> Guide:
        """What borders that follow this photograph need of it; the masks may differ."""
        return Guide.of(photo, self.placement, self.factor)

    def border(self, guide: Guide, box: Box | None = None) -> Image:
        """The border that follows the picture: L, of the photograph's size, 0 outside of `box`."""
        soft, cells = self.shape.soft.numpy(), self.shape.found.numpy()
        placement = replace(self.placement, source=guide.photo.size[::-1])
        return borders.picture_border(guide, soft, cells, placement, self.factor, box)

    def refined(self, options: Mapping[str, Any]) -> SoftMap:
        """Return the same heatmap with other options; missing ones keep their value.

        Args:
            options: checked; see `refine_options`.
        """
        changed = {FIELDS.get(name, name): value for name, value in options.items()}
        feather = changed.pop("feather", self.feather)
        return replace(self, options=replace(self.options, **changed), feather=feather)


def blend_mask(mask: Image, maps: Sequence[SoftMap]) -> Image:
    """The opacity of the edit at each pixel: L, 0 outside the edit mask.

    Args:
        mask: L, 0 or 255: the edit mask of all maps.
        maps: one for each edit, with the same feather and cleaning.
    """
    blend = borders.faded(mask, maps[0].feather)
    photo, box = maps[0].photo, blend.getbbox()
    if maps[0].options.cleaning != "edges" or photo is None or box is None:
        return blend
    guide = maps[0].guide(photo)
    return borders.inside(blend, (soft.border(guide, box) for soft in maps))


def refine_options(options: Mapping[str, object]) -> dict[str, Any]:
    """Check the options of refining; those that are None are left out.

    Raises InvalidRequest for a value of the wrong type or out of range.
    """
    found: dict[str, Any] = {}
    for name, value in options.items():
        if value is None:
            continue
        if name in REFINE_RANGES:
            found[name] = checks.number(name, value, REFINE_RANGES[name], "that of the mask")
        elif name == "invert":
            found[name] = checks.flag(name, value, False)
        else:
            found[name] = checks.choice(name, value, CLEANINGS)
    return found


def refine(found: object, options: Mapping[str, Any]) -> FoundMask:
    """Another mask from the heatmap of `found`, an EditResult or FoundMask, with checked options.

    Raises InvalidRequest if it has no heatmap.
    """
    if not isinstance(found, EditResult | FoundMask):
        raise InvalidRequest(
            f"found is {checks.short_repr(found)}, but only the result of an edit, of "
            "generate_mask or of refine has a heatmap; pass one of them."
        )
    if isinstance(found, EditResult) and found.edits:
        raise InvalidRequest(
            f"This is the result of several edits, and each of them has its own heatmap; pass one "
            f"of result.edits, from 0 to {len(found.edits) - 1}."
        )
    if found.soft_map is None:
        raise InvalidRequest(
            "This mask was not computed from the texts, so there is no heatmap to refine; call "
            "generate_mask without mask_image, with a method that has a mask."
        )
    soft = found.soft_map.refined(options)
    cells = soft.cells()
    return FoundMask(soft.heatmap.copy(), cells.copy(), soft.mask(), found.warnings, soft)
