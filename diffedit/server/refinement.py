"""POST /v1/masks/{id}: parse the fields of a refinement and make the mask (`diffedit.soft_map`).

An edit with such a mask is blended like an edit that finds the mask itself (`with_border`).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from PIL import Image

from diffedit.imaging import borders, compare, geometry, png
from diffedit.imaging.borders import Guide
from diffedit.imaging.mask_reader import EditMask
from diffedit.imaging.photograph import Photograph
from diffedit.request import CLEANINGS
from diffedit.server.errors import ApiError
from diffedit.server.form_fields import (
    PREVIEW_SIDE,
    finite_number,
    invalid,
    parse_bool,
    parse_preview_side,
)
from diffedit.soft_map import REFINE_RANGES, SoftMap

NUMBERS = ("threshold", "grow", "blur", "feather")
FIELDS = (*NUMBERS, "cleaning", "invert", PREVIEW_SIDE)
GUIDE_BYTES = 2**25
"""Memory of `GuideCache`, in bytes."""
BORDER_PIXELS = 2**20
"""Pixels of the reduced photograph that the border of a refined mask follows."""


@dataclass(frozen=True)
class MaskFiles:
    """A mask as it is sent to a client.

    Attributes:
        mask: PNG, 255 = edited.
        blend_mask: PNG of the same size, the opacity of the edit at each pixel.
    """

    mask: bytes
    blend_mask: bytes

    @property
    def size(self) -> int:
        """Bytes of both."""
        return len(self.mask) + len(self.blend_mask)


@dataclass(frozen=True, eq=False)
class StoredMap:
    """The heatmap behind a mask, with less memory than a `SoftMap`.

    Attributes:
        soft: heatmap, placement and options; its photograph is reduced to `BORDER_PIXELS`.
    """

    soft: SoftMap

    @classmethod
    def of(cls, soft: SoftMap) -> StoredMap:
        """Store a map without its large photograph."""
        photo = soft.photo
        scale = 1.0 if photo is None else (BORDER_PIXELS / (photo.width * photo.height)) ** 0.5
        if photo is not None and scale < 1:
            size = max(1, int(photo.width * scale)), max(1, int(photo.height * scale))
            photo = photo.resize(size, Image.Resampling.BOX, reducing_gap=3.0)
        return cls(replace(soft, photo=photo))

    @property
    def size(self) -> int:
        """Bytes of memory."""
        photo = self.soft.photo
        return self.soft.heatmap.nbytes + (0 if photo is None else 3 * photo.width * photo.height)

    def blend_mask(self, mask: Image.Image, kept: Callable[[], Guide] | None = None) -> Image.Image:
        """The opacity of the edit at each pixel, L. A border that follows the picture is drawn on
        the reduced photograph; an edit draws it at full size. `kept` returns its guide."""
        soft, photo = self.soft, self.soft.photo
        blend = borders.faded(mask, soft.feather)
        box = blend.getbbox()
        if soft.options.cleaning != "edges" or photo is None or box is None:
            return blend
        guide = kept() if kept else soft.guide(photo)
        if photo.size == mask.size:
            return borders.limited(blend, soft.border(guide, box))
        border = soft.border(guide).resize(mask.size, Image.Resampling.BILINEAR)
        return borders.limited(blend, border)

    def mask(self, preview_side: int | None = None) -> Image.Image:
        """The edit mask: L, 0 or 255; with `preview_side`, its longer side is at most that."""
        soft = self.soft
        height, width = soft.placement.source
        scale = 1.0 if preview_side is None else min(1.0, preview_side / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        placement = replace(soft.placement, source=size)
        return geometry.mask_to_photo(soft.cells(), placement, soft.factor)

    def files(self, preview_side: int | None) -> MaskFiles:
        """The mask as PNG files; see `mask`."""
        mask = self.mask(preview_side)
        return MaskFiles(png.encode(mask), png.encode(self.blend_mask(mask)))

    @property
    def facts(self) -> dict[str, Any]:
        """See `facts_of`."""
        return facts_of(self.soft)


class GuideCache:
    """What borders need of the photographs whose masks were refined last. Any thread.

    A guide is dropped with the mask that it was made for, so no picture outlives its results.

    Args:
        max_bytes: limit of its memory.
    """

    def __init__(self, max_bytes: int = GUIDE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._guides: WeakKeyDictionary[StoredMap, Guide] = WeakKeyDictionary()  # oldest use first
        self._lock = threading.Lock()

    def of(self, first: StoredMap) -> Guide:
        """The guide of the photograph of a mask that is refined. It is made at first use."""
        photo = first.soft.photo
        assert photo is not None
        with self._lock:
            guide = self._guides.pop(first, None)
        if guide is None:
            guide = first.soft.guide(photo).for_many()
        with self._lock:
            self._guides[first] = guide
            while self.nbytes > self._max_bytes:
                del self._guides[next(iter(self._guides))]
        return guide

    @property
    def nbytes(self) -> int:
        """Bytes of memory, with the photographs."""
        return sum(
            guide.nbytes + 3 * guide.photo.width * guide.photo.height
            for guide in [*self._guides.values()]
        )


def facts_of(soft: SoftMap) -> dict[str, Any]:
    """The options of a mask, with their names in responses."""
    options = soft.options
    return {
        "threshold": options.threshold,
        "grow": options.dilation,
        "blur": options.blur,
        "cleaning": options.cleaning,
        "invert": options.invert,
        "feather": soft.feather,
    }


@dataclass(frozen=True, eq=False)
class RefinedMask:
    """A mask made from the heatmap of another one.

    Attributes:
        mask: PNG of the image's size, 255 = edited.
        shown: what the client sees, possibly smaller.
        mask_share: fraction of the image inside the mask.
        stored: the heatmap behind it, with its own options.
        first: the heatmap of the mask that it was refined from.
    """

    mask: bytes
    shown: MaskFiles
    mask_share: float
    stored: StoredMap
    first: StoredMap

    @property
    def size(self) -> int:
        """Bytes of the images."""
        return len(self.mask) + self.shown.size

    @property
    def key(self) -> str:
        """A short digest of the options: the same options give the same id."""
        return hashlib.sha256(repr(self.stored.facts).encode()).hexdigest()[:12]


def refine(
    first: StoredMap, fields: Mapping[str, str], guides: GuideCache | None = None
) -> RefinedMask:
    """Make another mask. Fields that are left out keep the value of the first mask.

    Raises ApiError for an unknown or invalid field. Run it in the image pool.
    """
    options = parse_options(fields)
    preview_side = options.pop(PREVIEW_SIDE, None)
    stored = StoredMap(first.soft.refined(options))
    picture, shown = stored.mask(), stored.mask(preview_side)
    kept = partial(guides.of, first) if guides else None
    mask = png.encode(picture)
    small = mask if shown.size == picture.size else png.encode(shown)
    files = MaskFiles(small, png.encode(stored.blend_mask(shown, kept)))
    return RefinedMask(mask, files, share_of(picture), stored, first)


def share_of(mask: Image.Image) -> float:
    """The fraction of a mask, L, 0 or 255, that is edited."""
    return round(compare.share(mask), 6)


def with_border(mask: EditMask, stored: StoredMap | None, photo: Photograph) -> EditMask:
    """Return the mask of an edit with the border that is drawn from its heatmap."""
    if stored is None or stored.soft.options.cleaning != "edges":
        return mask
    soft = stored.soft
    return replace(mask, border=soft.border(soft.guide(photo.rgb)))


def parse_options(fields: Mapping[str, str]) -> dict[str, Any]:
    """Parse the fields to the options of `SoftMap.refined`, and `PREVIEW_SIDE`. Raises ApiError."""
    options: dict[str, Any] = {}
    for name, text in fields.items():
        if name in NUMBERS:
            options[name] = _number(name, text)
        elif name == "invert":
            options[name] = parse_bool(name, text)
        elif name == PREVIEW_SIDE:
            options[name] = parse_preview_side(name, text)
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
