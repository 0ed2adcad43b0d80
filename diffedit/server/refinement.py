"""POST /v1/masks/{id}: the fields of a refinement, and the mask it gives (`diffedit.soft_map`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffedit.algorithm.mask import ShapeOptions
from diffedit.imaging import png
from diffedit.request import CLEANINGS
from diffedit.server.errors import ApiError
from diffedit.server.form_fields import finite_number, invalid, parse_bool
from diffedit.soft_map import REFINE_RANGES, SoftMap

NUMBERS = ("threshold", "grow", "blur")
FIELDS = (*NUMBERS, "cleaning", "invert")


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
    other = soft.refined(parse_options(fields))
    picture = other.mask()
    share = picture.histogram()[255] / (picture.width * picture.height)
    return RefinedMask(png.encode(picture), round(share, 6), other.options)


def parse_options(fields: Mapping[str, str]) -> dict[str, Any]:
    """Parse the fields to the options of `SoftMap.refined`. Raises ApiError."""
    options: dict[str, Any] = {}
    for name, text in fields.items():
        if name in NUMBERS:
            options[name] = _number(name, text)
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
    allowed = REFINE_RANGES[name]
    number = finite_number(text)
    whole = number is not None and allowed.whole and number == int(number)
    found = allowed.convert(int(number) if whole and number is not None else number)
    if found is None:
        raise invalid(name, text, str(allowed))
    return found
