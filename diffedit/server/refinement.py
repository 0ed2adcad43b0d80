"""POST /v1/masks/{id}: another mask from the heatmap of an earlier one, without a network call."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffedit.algorithm import mask as masks
from diffedit.algorithm import mask_cleaning
from diffedit.imaging import geometry, png
from diffedit.imaging.geometry import Placement
from diffedit.request import RANGES
from diffedit.server.errors import ApiError
from diffedit.server.form_fields import finite_number, invalid, parse_bool

MAX_BLUR = 16.0
"""Cells."""
MAX_THRESHOLD = 0.99
HIGHEST = {"threshold": MAX_THRESHOLD, "grow": RANGES["mask_dilation"].high, "blur": MAX_BLUR}
"""The number fields, which begin at 0."""
REFINED_CLEANINGS = ("none", "clean")
FIELDS = (*HIGHEST, "cleaning", "invert")


@dataclass(frozen=True)
class ShapeOptions:
    """How a heatmap becomes a mask. The defaults are the paper's.

    Attributes:
        threshold: cells with a higher value are edited.
        grow: cells by which the mask is enlarged.
        cleaning: "none", or "clean": blurred, without holes and specks.
        blur: standard deviation of the blur in cells; with "clean".
        invert: edit the rest of the image.
    """

    threshold: float = masks.THRESHOLD
    grow: int = 0
    blur: float = mask_cleaning.BLUR
    cleaning: str = "none"
    invert: bool = False


@dataclass(frozen=True, eq=False)
class SoftMap:
    """What a mask was made from.

    Attributes:
        heatmap: float32 [h, w] in [0, 1], on the latent grid.
        placement: of the image on the canvas.
        factor: pixels per latent cell.
        options: how the first mask was made from it.
    """

    heatmap: NDArray[np.float32]
    placement: Placement
    factor: int
    options: ShapeOptions


@dataclass(frozen=True)
class RefinedMask:
    """A mask made from the heatmap of another one.

    Attributes:
        mask: PNG, 255 = edited.
        mask_share: fraction of the image inside the mask.
        options: how it was made.
    """

    mask: bytes
    mask_share: float
    options: ShapeOptions

    @property
    def key(self) -> str:
        """A short digest of the options: the same options give the same id."""
        return hashlib.sha256(repr(self.options).encode()).hexdigest()[:12]


def refine(soft: SoftMap, fields: Mapping[str, str]) -> RefinedMask:
    """Make another mask. Fields that are left out are as for the first mask.

    Raises ApiError for an unknown or invalid field. Takes milliseconds; run it in the image pool.
    """
    options = ShapeOptions(**{**asdict(soft.options), **parse_options(fields)})
    region = torch.from_numpy(geometry.region(soft.placement, soft.factor))
    cells = shape(torch.from_numpy(soft.heatmap), region, options).numpy()
    picture = geometry.mask_to_photo(cells, soft.placement, soft.factor)
    share = picture.histogram()[255] / (picture.width * picture.height)
    return RefinedMask(png.encode(picture), round(share, 6), options)


def shape(heat: Tensor, region: Tensor, options: ShapeOptions) -> Tensor:
    """The mask of a heatmap, float32 [h, w], within `region`, bool [h, w]: bool [h, w]."""
    if options.cleaning == "clean":
        mask = mask_cleaning.blurred(heat, region, options.blur) > options.threshold
        mask = mask_cleaning.without_holes(mask & region, region)
        mask = mask_cleaning.without_specks(mask)
    else:
        mask = (heat > options.threshold) & region
    if options.invert:
        mask = region & ~mask
    return masks.binarise(mask.float(), region, options.grow)


def parse_options(fields: Mapping[str, str]) -> dict[str, Any]:
    """Parse the fields to fields of `ShapeOptions`. Raises ApiError."""
    options: dict[str, Any] = {}
    for name, text in fields.items():
        if name in HIGHEST:
            options[name] = _number(name, text)
        elif name == "invert":
            options[name] = parse_bool(name, text)
        elif name == "cleaning":
            if text not in REFINED_CLEANINGS:
                raise invalid(name, text, " or ".join(REFINED_CLEANINGS))
            options[name] = text
        else:
            message = f"There is no field {name[:60]!r}; the fields are {', '.join(FIELDS)}."
            raise ApiError(400, "unknown_field", message, name[:60])
    return options


def _number(name: str, text: str) -> float:
    whole = name == "grow"
    high = {"threshold": MAX_THRESHOLD, "blur": MAX_BLUR, "grow": RANGES["mask_dilation"].high}[
        name
    ]
    number = finite_number(text)
    if number is None or not 0 <= number <= high or (whole and number != int(number)):
        raise invalid(name, text, f"a {'whole ' if whole else ''}number from 0 to {high:g}")
    return int(number) if whole else number
