"""POST /v1/masks/read: read a mask file as an edit would read it, and show how it was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from fastapi import Request
from starlette.datastructures import UploadFile

from diffedit.imaging import png
from diffedit.imaging.mask_reader import MaskFormat, MaskRules, read_mask
from diffedit.notices import warning_facts
from diffedit.server.errors import ApiError
from diffedit.server.form_body import receive_form
from diffedit.server.form_fields import invalid
from diffedit.server.image_codec import check_header
from diffedit.server.json_body import Base64
from diffedit.server.refinement import share_of
from diffedit.server.settings import Settings
from diffedit.server.uploads import Uploads

TEXTS = ("width", "height", "mask_format")
FIELDS = ("mask", *TEXTS)


@dataclass(frozen=True)
class MaskFile:
    """A mask and the size of the image that it belongs to.

    Attributes:
        mask: contents of a PNG, JPEG or WebP file.
        size: (width, height) of the image, upright.
        mask_format: how to read it.
    """

    mask: bytes
    size: tuple[int, int]
    mask_format: MaskFormat = "auto"


async def receive_mask_file(request: Request, settings: Settings, uploads: Uploads) -> MaskFile:
    """Read and parse the request body. Raises ApiError."""
    form = await receive_form(request, settings, uploads)
    try:
        values = dict(form.multi_items())
        for name, value in form.multi_items():
            _check_field(name, value, len(form.getlist(name)))
        missing = [name for name in ("mask", "width", "height") if name not in values]
        if missing:
            message = f"The field {missing[0]} is missing; send the mask as a file, and width and "
            message += "height of the image."
            raise ApiError(400, "missing_field", message, missing[0])
        file = values.pop("mask")
        assert isinstance(file, UploadFile)
        texts = {name: str(value) for name, value in values.items()}
        size = _side("width", texts, settings), _side("height", texts, settings)
        if size[0] * size[1] > settings.max_pixels:
            message = f"width x height is more than {settings.max_pixels:,} pixels; "
            raise ApiError(413, "too_many_pixels", message + "scale the image down.", "width")
        return MaskFile(await file.read(), size, _mask_format(texts.get("mask_format", "auto")))
    finally:
        await form.close()


def read_mask_file(form: MaskFile, settings: Settings) -> dict[str, Any]:
    """Read the mask and return the response. Run it in the image pool.

    Raises ApiError or InvalidRequest for what is no mask of the image.
    """
    check_header(form.mask, "mask", settings)
    rules = MaskRules(form.mask_format, alpha_decides=True, max_pixels=settings.max_pixels)
    mask = read_mask(form.mask, form.size, rules=rules)
    return {
        "mask": Base64(png.encode(mask.soft or mask.image)),
        "mask_share": share_of(mask.area),
        "mask_read_as": mask.read_as,
        **warning_facts(mask.warnings),
    }


def _check_field(name: str, value: UploadFile | str, count: int) -> None:
    """Raise ApiError for an unknown or repeated field, or one of the wrong kind."""
    if name not in FIELDS:
        message = f"There is no field {name[:60]!r}; the fields are {', '.join(FIELDS)}."
        raise ApiError(400, "unknown_field", message, name[:60])
    if count > 1:
        message = f"{name} is present more than once; send it once."
        raise ApiError(400, "duplicate_field", message, name)
    if name in TEXTS and not isinstance(value, str):
        message = f"{name} is a file, but must be text; send it as a plain field."
        raise ApiError(400, "not_text", message, name)
    if name == "mask" and isinstance(value, str):
        message = "mask is text, but must be a file; send it as one."
        raise ApiError(400, "not_a_file", message, name)


def _side(name: str, texts: dict[str, str], settings: Settings) -> int:
    text = texts[name]
    if text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= settings.max_side:
        return int(text[:9])
    raise invalid(name, text, f"a whole number of pixels from 1 to {settings.max_side}")


def _mask_format(text: str) -> MaskFormat:
    for choice in get_args(MaskFormat):
        if text == choice:
            return choice  # type: ignore[no-any-return]
    raise invalid("mask_format", text, " or ".join(get_args(MaskFormat)))
