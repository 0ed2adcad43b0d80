"""POST /v1/masks/{id}: another mask from the heatmap of an earlier one, without a network call."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffedit.algorithm.mask import ShapeOptions, shape
from diffedit.imaging import geometry, png
from diffedit.imaging.geometry import Placement
from diffedit.request import CLEANINGS, RANGES
from diffedit.server.errors import ApiError
from diffedit.server.form_fields import finite_number, invalid, parse_bool

MAX_BLUR = 16.0
"""Cells."""
OPTIONS = {"threshold": "threshold", "grow": "dilation", "blur": "blur"}
"""Field -> field of `ShapeOptions`, for numbers."""
FIELDS = (*OPTIONS, "cleaning", "invert")


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
    cells = shape(torch.from_numpy(soft.heatmap), region, options).edit.numpy()
    picture = geometry.mask_to_photo(cells, soft.placement, soft.factor)
    share = picture.histogram()[255] / (picture.width * picture.height)
    return RefinedMask(png.encode(picture), round(share, 6), options)


def parse_options(fields: Mapping[str, str]) -> dict[str, Any]:
    """Parse the fields to fields of `ShapeOptions`. Raises ApiError."""
    options: dict[str, Any] = {}
    for name, text in fields.items():
        if name in OPTIONS:
            options[OPTIONS[name]] = _number(name, text)
        elif name == "invert":
            options[name] = parse_bool(name, text)
        elif name == "cleaning":
            if text not in CLEANINGS:
                raise invalid(name, text, " or ".join(CLEANINGS))
            options[name] = text
        else:
            message = f"There is no field {name[:60]!r}; the fields are {', '.join(FIELDS)}."
            raise ApiError(400, "unknown_field", message, name[:60])
    return options


def _number(name: str, text: str) -> float:
    if name == "blur":
        low, high, expected = 0.0, MAX_BLUR, f"a number of cells from 0 to {MAX_BLUR:g}"
    else:
        allowed = RANGES["mask_threshold" if name == "threshold" else "mask_dilation"]
        low, high, expected = allowed.low, allowed.high, str(allowed)
    number = finite_number(text)
    whole = name == "grow"
    if number is None or not low <= number <= high or (whole and number != int(number)):
        raise invalid(name, text, expected)
    return int(number) if whole else number
