"""Parse a multipart form into an `EditForm`: known fields only, each at most once.

`form_fields` parses the fields, `diffedit.request` checks ranges, and `image_codec` the images.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile

from diffedit.imaging.mask_reader import MaskFormat
from diffedit.imaging.photograph import Photograph
from diffedit.notices import Notice
from diffedit.request import PARAMETERS, EditRequest
from diffedit.server.errors import ApiError
from diffedit.server.form_body import MULTIPART, URLENCODED, receive_form
from diffedit.server.form_fields import (
    IGNORED_FIELDS,
    MASK_TEXT_FIELDS,
    PROMPTS,
    TEXT_FIELDS,
    Parser,
    finite_number,
    ignored_note,
    unsupported_field,
)
from diffedit.server.refinement import StoredMap
from diffedit.server.settings import Settings
from diffedit.server.uploads import Uploads

FILE_FIELDS = ("image", "image[]", "mask")
NO_MASK_NOTE = Notice(
    "field_ignored",
    "mask_format was ignored: the form has no mask, so the mask was found from the texts.",
)
MAX_TIMEOUT_SECONDS = 1e6


@dataclass(frozen=True)
class EditForm:
    """The fields of one request.

    Attributes:
        image, mask: file contents; or the picture of an earlier edit.
        image_field: the name of the image's field in the form: "image" or "image[]".
        image_size: (width, height) by the image's header, or None before it was read.
        mask_id, previous_edit_id: earlier results that replace the files, see `earlier_results`.
        root: digest of the uploaded image, or of the one that a chain of edits began with.
        soft_map: what the mask of `mask_id` was made from, or None.
        parameters: arguments of `EditRequest`, not validated yet.
        mask_format: how to read the mask.
        n: number of edits, with consecutive seeds.
        size: "auto", or WIDTHxHEIGHT; the result has the image's size anyway.
        output_format: "png", "jpeg" or "webp".
        output_compression: quality of JPEG and WebP, 0 to 100.
        background: "opaque" makes transparent parts of the image white, "auto" keeps them.
        partial_images: number of previews, 0 to 3.
        stream: respond with server-sent events.
        model: the requested model name, or None.
        notes: warnings about fields that were ignored.
        preview_side: limit of the longer side of the masks in the response, or None.
    """

    image: bytes | Photograph
    mask: bytes | None
    parameters: Mapping[str, Any]
    mask_format: MaskFormat = "auto"
    n: int = 1
    size: str = "auto"
    output_format: str = "png"
    output_compression: int = 95
    background: str = "auto"
    partial_images: int = 0
    stream: bool = False
    model: str | None = None
    notes: tuple[Notice, ...] = ()
    image_field: str = "image"
    image_size: tuple[int, int] | None = None
    mask_id: str | None = None
    previous_edit_id: str | None = None
    root: str = ""
    preview_side: int | None = None
    soft_map: StoredMap | None = None

    @property
    def has_mask(self) -> bool:
        """Whether it has a mask, as a file or by id."""
        return self.mask is not None or self.mask_id is not None

    def request(self, image: Any, mask: Any, number: int = 0) -> EditRequest:
        """Return one of the n validated edits of a decoded image. Raises InvalidRequest."""
        parameters = self.parameters
        if number:
            seed = parameters.get("seed", EditRequest.seed) + number
            parameters = {**parameters, "seed": seed}
        return EditRequest.from_parameters(image, parameters, mask_image=mask)

    def checked_request(self) -> EditRequest:
        """The first of the edits, without pictures. Raises InvalidRequest if one is not valid."""
        mask = b"" if self.mask is not None else None
        first = self.request(b"", mask)
        if self.n > 1:
            self.request(b"", mask, self.n - 1)  # has the largest seed
        return first

    def requests(self, image: Any, mask: Any) -> list[EditRequest]:
        """Return all of them."""
        return [self.request(image, mask, number) for number in range(self.n)]


# -- reading the request ---------------------------------------------------------------------------


async def read_form(
    request: Request, settings: Settings, uploads: Uploads, *, mask_only: bool = False
) -> EditForm:
    """Read and parse the request body. Raises ApiError.

    `uploads` limits the memory of all bodies.
    """
    form = await receive_form(request, settings, uploads)
    try:
        return await _parse_form(form.multi_items(), settings, mask_only)
    finally:
        await form.close()


async def read_texts(request: Request, settings: Settings, uploads: Uploads) -> dict[str, str]:
    """Read a form that has text fields only, in either encoding. Raises ApiError."""
    form = await receive_form(request, settings, uploads, (MULTIPART, URLENCODED))
    try:
        texts: dict[str, str] = {}
        for name, value in form.multi_items():
            if not isinstance(value, str):
                message = f"{name[:60]} is a file, but must be text; send it as a plain field."
                raise ApiError(400, "not_text", message, name[:60])
            if name in texts:
                raise _duplicate_field(name)
            texts[name] = value
        return texts
    finally:
        await form.close()


def requested_timeout(request: Request) -> float | None:
    """Return the X-Request-Timeout header in seconds, or None. Raises ApiError."""
    text = request.headers.get("x-request-timeout")
    if text is None:
        return None
    seconds = finite_number(text)
    if seconds is None or not 0 < seconds < MAX_TIMEOUT_SECONDS:
        raise ApiError(
            400,
            "invalid_value",
            f"X-Request-Timeout is {text[:40]!r}, but must be a positive number of seconds.",
            "X-Request-Timeout",
        )
    return seconds


# -- fields ----------------------------------------------------------------------------------------


async def _parse_form(
    items: list[tuple[str, UploadFile | str]], settings: Settings, mask_only: bool
) -> EditForm:
    parsers = MASK_TEXT_FIELDS if mask_only else TEXT_FIELDS
    texts, files, image_field = await _split_items(items, parsers)
    _check_sources(files, texts, image_field)
    if mask_only and "mask" in files:
        message = "This endpoint finds the mask and does not accept one; leave the field out."
        raise ApiError(400, "unknown_field", message, "mask")
    values = {name: parsers[name](name, text) for name, text in texts.items()}
    _check_prompt_sizes(values, settings)
    parameters = {name: values.pop(name) for name in PARAMETERS if name in values}
    ignored = {name: values.pop(name) for name in IGNORED_FIELDS if name in values}
    notes = tuple(note for item in ignored.items() if (note := ignored_note(*item)))
    if "mask_format" in values and not {"mask", "mask_id"} & {*files, *values}:
        notes += (NO_MASK_NOTE,)
    for name in ("user", "safety_identifier", "response_format"):
        values.pop(name, None)
    if not {"prompt", "edits"} & {*parameters}:
        message = "The field prompt is missing; describe what the edited image should show."
        raise ApiError(400, "missing_field", message, "prompt")
    values |= {"notes": notes, "image_field": image_field}
    return EditForm(files.get("image", b""), files.get("mask"), parameters, **values)


def _check_sources(files: Mapping[str, bytes], texts: Mapping[str, str], image_field: str) -> None:
    """Check that the image and the mask have one source each. Raises ApiError."""
    if "image" not in files and "previous_edit_id" not in texts:
        message = "The field image is missing; send the image as a file, or a previous_edit_id."
        raise ApiError(400, "missing_field", message, "image")
    for file, field, shown in (
        ("image", "previous_edit_id", image_field),
        ("mask", "mask_id", "mask"),
    ):
        if file in files and field in texts:
            message = f"Both {shown} and {field} are given, but only one {file} is used; "
            raise ApiError(400, "conflicting_fields", message + "leave out one.", field)
    if "edits" in texts and (given := {"mask", "mask_id"} & {*files, *texts}):
        message = f"edits and {min(given)} are given, but each of the edits finds its own mask; "
        raise ApiError(400, "conflicting_fields", message + "leave out one of them.", "edits")
    if "mask_id" in texts and "mask_format" in texts:
        message = "mask_format applies to a mask file, but mask_id is given; leave out mask_format."
        raise ApiError(400, "conflicting_fields", message, "mask_format")


async def _split_items(
    items: list[tuple[str, UploadFile | str]], parsers: Mapping[str, Parser]
) -> tuple[dict[str, str], dict[str, bytes], str]:
    """Return the text fields, the files, and the name of the image's field.

    Raises ApiError for unknown or repeated fields.
    """
    texts: dict[str, str] = {}
    files: dict[str, bytes] = {}
    image_field = "image"
    for name, value in items:
        if name in FILE_FIELDS:
            field = "mask" if name == "mask" else "image"
            if field in files:
                raise _duplicate_field(name) if field == "mask" else _several_images(image_field)
            if not isinstance(value, UploadFile):
                message = f"{name} is text, but must be a file; send it as one."
                raise ApiError(400, "not_a_file", message, name)
            files[field] = await value.read()
            image_field = name if field == "image" else image_field
        elif name not in parsers:
            raise unsupported_field(name) or _unknown_field(name, parsers)
        elif not isinstance(value, str):
            message = f"{name} is a file, but must be text; send it as a plain field."
            raise ApiError(400, "not_text", message, name)
        elif name in texts:
            raise _duplicate_field(name)
        else:
            texts[name] = value
    return texts, files, image_field


def _check_prompt_sizes(values: Mapping[str, Any], settings: Settings) -> None:
    """Check the bytes of every text of a parsed form. Raises ApiError."""
    texts = [(name, name, values.get(name)) for name in PROMPTS]
    for number, edit in enumerate(values.get("edits", ()), 1):
        texts += [("edits", f"{name[:60]} of edit {number}", edit[name]) for name in edit]
    for field, name, text in texts:
        if not isinstance(text, str):
            continue
        if len(text.encode("utf-8", "surrogatepass")) > settings.max_prompt_bytes:
            raise ApiError(
                400,
                "too_long",
                f"{name} has more than {settings.max_prompt_bytes} bytes, but the model reads only "
                "about 75 words; shorten it.",
                field,
            )


def _several_images(name: str) -> ApiError:
    message = f"{name} is a second image, but an edit takes one; send one request for each image."
    return ApiError(400, "duplicate_field", message, name)


def _duplicate_field(name: str) -> ApiError:
    message = f"{name} is present more than once; send it once."
    return ApiError(400, "duplicate_field", message, name)


def _unknown_field(name: str, parsers: Mapping[str, Parser]) -> ApiError:
    shown = name[:60].encode("ascii", "backslashreplace").decode()
    close = difflib.get_close_matches(name[:60], [*parsers, *FILE_FIELDS], n=1)
    hint = f"did you mean {close[0]}?" if close else f"the fields are {', '.join(parsers)}."
    return ApiError(400, "unknown_field", f"There is no field {shown!r}; {hint}", shown)
