"""Bytes from a stranger become a picture and a mask; results become bytes. Runs in the small pool.

The header alone decides whether a picture is decoded at all. Only PNG, JPEG and WebP are opened, by
content; metadata is dropped.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from diffedit.imaging import decode
from diffedit.request import EditRequest
from diffedit.result import EditResult
from diffedit.server import png
from diffedit.server.errors import ApiError
from diffedit.server.forms import EditForm, MaskFormat
from diffedit.server.settings import Settings

FORMATS = ("PNG", "JPEG", "WEBP")
MADE_BY = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/'
    'compositeWithTrainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta>'
)
"""What an edited picture says of itself, in IPTC's words: partly made by a trained model."""

Reading = Literal["alpha", "white", "black"]


@dataclass(frozen=True)
class DecodedOrder:
    """A picture and mask that may be edited, as requests; how the mask was read."""

    requests: list[EditRequest]
    photo: Image.Image
    mask_read_as: Reading | None


def check_order(order: EditForm, settings: Settings) -> None:
    """Refuse at once what its headers tell; raises ApiError."""
    check_header(order.image, "image", settings)
    if order.mask is not None:
        check_header(order.mask, "mask", settings)


def open_order(order: EditForm, settings: Settings) -> DecodedOrder:
    """Decode everything an order holds; raises ApiError or InvalidRequest."""
    photo = decode.load(order.image, max_pixels=settings.max_pixels)
    if order.size not in ("auto", f"{photo.width}x{photo.height}"):
        raise ApiError(
            400,
            "invalid_value",
            f"size is {order.size[:40]!r}, but an edit keeps the picture's own size, "
            f"{photo.width}x{photo.height}; leave it out.",
            "size",
        )
    mask, read_as = None, None
    if order.mask is not None:
        mask, read_as = read_mask(order.mask, photo, order.mask_format)
    return DecodedOrder(order.requests(photo, mask), photo, read_as)


def check_header(data: bytes, field: str, settings: Settings) -> None:
    """Refuse by its first bytes what must not be decoded."""
    if not data:
        raise ApiError(400, "empty_file", f"{field} is empty; send the file again.", field)
    try:
        width, height = decode.size_of(data, FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        if isinstance(error, Image.DecompressionBombError):
            raise ApiError(413, "too_many_pixels", _too_large(field, settings), field) from None
        raise ApiError(
            415,
            "unsupported_image",
            f"{field} is neither PNG, JPEG nor WebP; convert it to one of them.",
            field,
        ) from None
    except MemoryError:
        raise
    except Exception:  # a parser may raise anything on damaged bytes
        raise ApiError(
            400, "damaged_image", f"{field} is damaged; save it again and send that.", field
        ) from None
    if max(width, height) > settings.max_side or width * height > settings.max_pixels:
        raise ApiError(413, "too_many_pixels", _too_large(field, settings), field)


def _too_large(field: str, settings: Settings) -> str:
    return (
        f"{field} has more than {settings.max_pixels:,} pixels or a side over {settings.max_side}; "
        "scale it down."
    )


def read_mask(data: bytes, photo: Image.Image, how: MaskFormat) -> tuple[Image.Image, Reading]:
    """The mask as L, 255 = edit, of the photograph's size, and how it was read; ApiError, or
    InvalidRequest from `decode.load_mask`.

    "alpha": what is transparent is edited (OpenAI's convention). "white" and "black": what is
    lighter or darker than middle grey. "auto": alpha where the mask has any, else white.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        clear = opened.has_transparency_data
        if opened.size != photo.size and _upright(opened).size != photo.size:
            raise ApiError(
                400,
                "mask_size",
                f"The mask has {opened.width}x{opened.height} pixels, but the picture has "
                f"{photo.width}x{photo.height}; send one of the same size.",
                "mask",
            )
        if how == "alpha" and not clear:
            raise ApiError(
                400,
                "mask_without_alpha",
                "mask_format is alpha, but the mask has no transparency; send white or black.",
                "mask_format",
            )
        read_as: Reading = how if how != "auto" else "alpha" if clear else "white"
        if read_as == "alpha":
            alpha = _upright(opened).convert("RGBA").getchannel("A")
            return alpha.point([255] * 128 + [0] * 128), read_as
    white = decode.load_mask(data, photo.size)
    return (white if read_as == "white" else ImageChops.invert(white)), read_as


def _upright(mask: Image.Image) -> Image.Image:
    """Decoded, and turned as its EXIF says."""
    try:
        mask.load()
        return ImageOps.exif_transpose(mask)
    except MemoryError:
        raise
    except Exception:  # a decoder may raise anything on damaged bytes
        raise ApiError(400, "damaged_image", "mask is damaged; save it again.", "mask") from None


@dataclass(frozen=True)
class EncodedEdit:
    """One finished edit, encoded."""

    image: bytes
    mask: bytes
    heatmap: bytes
    cells: tuple[int, int]
    canvas: tuple[int, int]
    seed: int
    warnings: tuple[str, ...]
    timings: dict[str, float]
    rows: dict[str, int]
    mask_share: float
    max_abs_diff_outside_mask: int

    @property
    def size(self) -> int:
        return len(self.image) + len(self.mask) + len(self.heatmap)


def answer(opened: DecodedOrder, result: EditResult, order: EditForm, factor: int) -> EncodedEdit:
    """Everything of a result that a client may ask for; a latent cell is `factor` pixels wide."""
    apart = ImageChops.difference(opened.photo, result.image)
    outside = apart.histogram(ImageChops.invert(result.mask))  # of the pixels that had to stay
    levels = (np.nan_to_num(result.heatmap).clip(0, 1) * 255).round().astype(np.uint8)
    return EncodedEdit(
        image=encode(result.image, order.output_format, order.output_compression),
        mask=png.encode(result.mask),
        heatmap=png.encode(Image.fromarray(levels)),
        cells=(int(levels.shape[1]), int(levels.shape[0])),
        canvas=(int(levels.shape[1]) * factor, int(levels.shape[0]) * factor),
        seed=result.seed,
        warnings=result.warnings,
        timings={name: round(seconds, 4) for name, seconds in result.stats.seconds.items()},
        rows=result.stats.rows,
        mask_share=round(result.mask.histogram()[255] / (apart.width * apart.height), 6),
        max_abs_diff_outside_mask=max(
            (place % 256 for place, count in enumerate(outside) if count), default=0
        ),
    )


def encode(image: Image.Image, form: str, quality: int) -> bytes:
    """A result in the format asked for, saying how it was made."""
    if form == "png":
        return png.encode(image, MADE_BY)
    buffer = io.BytesIO()
    if form == "jpeg":
        image.save(buffer, "JPEG", quality=max(1, quality), subsampling=0, xmp=MADE_BY.encode())
    else:
        image.save(buffer, "WEBP", quality=quality, method=2, xmp=MADE_BY.encode())
    return buffer.getvalue()


def preview(sketch: Image.Image, order: EditForm) -> bytes:
    """A preview in the result's format, coarsely."""
    return encode(sketch, order.output_format, min(80, order.output_compression))


def b64(data: bytes) -> str:
    """Bytes as json carries them."""
    return base64.b64encode(data).decode()
