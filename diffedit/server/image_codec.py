"""Decode untrusted image bytes and encode results. Runs in the image pool.

Only PNG, JPEG and WebP are opened, by content. The header is checked before anything is decoded.
Results keep the color profile and drop all other metadata.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError

from diffedit.imaging import compare, decode, encode, photograph, png
from diffedit.imaging.mask_reader import MaskConvention, MaskRules, read_mask
from diffedit.imaging.photograph import Photograph
from diffedit.notices import Notice
from diffedit.provenance import Provenance
from diffedit.request import EditRequest
from diffedit.result import EditResult
from diffedit.server.errors import ApiError
from diffedit.server.forms import EditForm
from diffedit.server.refinement import MaskFiles, StoredMap, facts_of, share_of, with_border
from diffedit.server.settings import Settings

OUTPUT_FORMATS: dict[str, encode.FileFormat] = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
INPUT_FORMATS = ("PNG", "JPEG", "WEBP")
PREVIEW_QUALITY = 80
PROVENANCE_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/'
    'compositeWithTrainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta>'
)
"""XMP metadata of every result: IPTC's term for an image partly made by a trained model."""


# -- decoding --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DecodedForm:
    """The decoded image of a form, its n edits, and the convention its mask was read with."""

    requests: list[EditRequest]
    photo: Photograph
    mask_read_as: MaskConvention | None


def check_headers(form: EditForm, settings: Settings) -> EditForm:
    """Check the headers of the uploaded image and mask. Returns the form with the image's size and
    digest.

    Raises ApiError.
    """
    if form.mask is not None:
        check_header(form.mask, "mask", settings)
    if not isinstance(form.image, bytes) or form.previous_edit_id is not None:
        return form
    size = check_header(form.image, form.image_field, settings)
    return replace(form, image_size=size, root=hashlib.sha256(form.image).hexdigest())


def decode_form(form: EditForm, settings: Settings) -> DecodedForm:
    """Decode the image and the mask. Raises ApiError or InvalidRequest."""
    photo = photograph.read(form.image, max_pixels=settings.max_pixels)
    mask = None
    if form.mask is not None:
        rules = MaskRules(
            form.mask_format, alpha_decides=True, same_size=True, max_pixels=settings.max_pixels
        )
        mask = read_mask(form.mask, photo.size, stored_size=photo.stored_size, rules=rules)
        mask = with_border(mask, form.soft_map, photo)
    return DecodedForm(form.requests(photo, mask), photo, mask.read_as if mask else None)


def check_header(data: bytes, field: str, settings: Settings) -> tuple[int, int]:
    """Check format and size by the header, without decoding. Returns (width, height).

    Raises ApiError.
    """
    if not data:
        message = f"{field} is an empty file; send the file again."
        raise ApiError(400, "empty_file", message, field)
    try:
        width, height = decode.size_of(data, INPUT_FORMATS)
    except Image.DecompressionBombError:
        raise _too_many_pixels(field, settings) from None
    except UnidentifiedImageError:
        raise ApiError(
            415,
            "unsupported_image",
            f"{field} is neither PNG, JPEG nor WebP; convert it to one of them.",
            field,
        ) from None
    except MemoryError:
        raise
    except Exception:  # PIL's parsers raise arbitrary exceptions on damaged bytes
        raise _damaged(field) from None
    if max(width, height) > settings.max_side or width * height > settings.max_pixels:
        raise _too_many_pixels(field, settings)
    return width, height


def _too_many_pixels(field: str, settings: Settings) -> ApiError:
    message = (
        f"{field} has more than {settings.max_pixels:,} pixels or a side over {settings.max_side} "
        "pixels; scale it down."
    )
    return ApiError(413, "too_many_pixels", message, field)


def _damaged(field: str) -> ApiError:
    message = f"{field} is damaged and cannot be decoded; save it again and send the new file."
    return ApiError(400, "damaged_image", message, field)


# -- encoding --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedPart:
    """The texts and the mask of one of several edits that were made in one pass.

    Attributes:
        mask: PNG, 255 = edited.
        mask_share: fraction of the image inside the mask.
        soft_map: the heatmap behind the mask.
    """

    prompt: str
    source_prompt: str
    mask: bytes
    mask_share: float
    soft_map: StoredMap


@dataclass(frozen=True)
class EncodedEdit:
    """One finished edit, encoded.

    Attributes:
        image: in the requested format; empty if only a mask was asked for.
        mask: PNG, 255 = edited.
        blend_mask: PNG, the opacity of the edit at each pixel.
        shown: the masks of the response, if they are smaller than the image.
        heatmap: PNG, one grey level per latent cell; empty unless only a mask was asked for.
        cells: (width, height) of the heatmap.
        canvas: (width, height) of the networks' input, in pixels.
        timings: stage -> seconds.
        rows: network -> rows.
        denoiser: the network that runs at every step, a key of `rows`.
        mask_share: fraction of the image inside the mask.
        max_abs_diff_outside_mask: 0 to 255, before encoding, in the image's own values.
        has_alpha: whether the encoded image has an alpha channel.
        provenance: the model and the backend: names and digests, no paths.
        parameters: every option that was used.
        window: the part of the image that was edited, see `EditResult.window`.
        lossless: the result, for edits that continue from it; None if `image` holds all of it.
        soft_map: the heatmap behind the mask, or None for an uploaded mask and for several edits.
        shape: how the mask was made from the heatmap, see `refinement.facts_of`.
        parts: each of several edits in one pass; otherwise empty.
    """

    image: bytes
    mask: bytes
    blend_mask: bytes
    shown: MaskFiles | None
    heatmap: bytes
    cells: tuple[int, int]
    canvas: tuple[int, int]
    seed: int
    warnings: tuple[Notice, ...]
    timings: dict[str, float]
    rows: dict[str, int]
    denoiser: str
    mask_share: float
    max_abs_diff_outside_mask: int
    has_alpha: bool
    provenance: Provenance
    parameters: Mapping[str, Any]
    window: tuple[int, int, int, int] | None
    lossless: Photograph | None
    soft_map: StoredMap | None
    shape: Mapping[str, Any]
    parts: tuple[EncodedPart, ...]

    @property
    def size(self) -> int:
        """Bytes of the images."""
        parts = sum(len(part.mask) + part.soft_map.size for part in self.parts)
        files = (self.image, self.mask, self.blend_mask, self.heatmap)
        lossless = self.lossless.nbytes if self.lossless is not None else 0
        soft_map = self.soft_map.size if self.soft_map is not None else 0
        shown = self.shown.size if self.shown is not None else 0
        return sum(map(len, files)) + lossless + soft_map + shown + parts


def encode_edit(
    photo: Photograph, result: EditResult, form: EditForm, factor: int, *, mask_only: bool
) -> EncodedEdit:
    """Encode a result.

    Args:
        photo: the image of the form.
        result: of the edit.
        form: the output format.
        factor: width of a latent cell in pixels.
        mask_only: the edit has stopped at its mask; there is no image.
    """
    outside = ImageChops.invert(result.mask)
    file_format = OUTPUT_FORMATS[form.output_format]
    assert result.provenance is not None  # a pipeline always states it
    shown = photograph.opaque(result.photo) if form.background == "opaque" else result.photo
    levels = (np.nan_to_num(result.heatmap).clip(0, 1) * 255).round().astype(np.uint8)
    height, width = (int(n) for n in levels.shape)
    soft_map = _stored_map(result, form)
    return EncodedEdit(
        image=b"" if mask_only else _encoded(shown, form),
        mask=png.encode(result.mask),
        blend_mask=png.encode(result.blend_mask),
        shown=soft_map.files(form.preview_side) if soft_map and form.preview_side else None,
        heatmap=png.encode(Image.fromarray(levels)) if mask_only else b"",
        cells=(width, height),
        canvas=(width * factor, height * factor),
        seed=result.seed,
        warnings=(*result.warnings, *encode.losses(shown, file_format)),
        timings={name: round(seconds, 4) for name, seconds in result.stats.seconds.items()},
        rows=result.stats.rows,
        denoiser=result.stats.denoiser,
        mask_share=share_of(result.mask),
        max_abs_diff_outside_mask=compare.largest_difference(photo, result.photo, outside),
        has_alpha=shown.has_alpha and file_format != "JPEG",
        provenance=result.provenance,
        parameters=result.parameters,
        window=result.window,
        lossless=None if mask_only or file_format == "PNG" else replace(shown),  # without caches
        soft_map=soft_map,
        shape=_shape(result),
        parts=_parts(result),
    )


def _parts(result: EditResult) -> tuple[EncodedPart, ...]:
    """The texts and the masks of several edits."""
    found: list[EncodedPart] = []
    for texts, part in zip(result.parameters.get("edits", ()), result.edits, strict=True):
        assert part.soft_map is not None  # several edits are not combined with a mask
        soft = part.soft_map
        if found:  # one reduced photograph for all
            soft = replace(soft, photo=found[0].soft_map.soft.photo)
        soft_map = StoredMap.of(soft)
        mask, share = png.encode(part.mask), share_of(part.mask)
        found.append(EncodedPart(texts["prompt"], texts["source_prompt"], mask, share, soft_map))
    return tuple(found)


def _shape(result: EditResult) -> dict[str, Any]:
    """How the computed masks of a result were made; several edits have the same options."""
    maps = (result.soft_map, *(part.soft_map for part in result.edits))
    return next((facts_of(soft) for soft in maps if soft is not None), {})


def _stored_map(result: EditResult, form: EditForm) -> StoredMap | None:
    """The heatmap behind the mask: the edit's own, or that of the form's `mask_id`."""
    if form.has_mask:
        return form.soft_map
    if result.soft_map is None:
        return None
    return StoredMap.of(result.soft_map)


def _encoded(photo: Photograph, form: EditForm) -> bytes:
    return encode_image(photo, form.output_format, form.output_compression)


def encode_image(photo: Photograph, output_format: str, quality: int) -> bytes:
    """Encode an image as PNG, JPEG or WebP, with `PROVENANCE_XMP`."""
    options = encode.EncodeOptions(max(1, quality), xmp=PROVENANCE_XMP, metadata=False)
    return encode.encode(photo, OUTPUT_FORMATS[output_format], options)


def encode_preview(image: Image.Image, form: EditForm) -> bytes:
    """Encode a preview in the format of the result, at a lower quality."""
    quality = min(PREVIEW_QUALITY, form.output_compression)
    return encode_image(Photograph(image), form.output_format, quality)


def to_base64(data: bytes) -> str:
    """Encode bytes for a JSON string."""
    return base64.b64encode(data).decode()
