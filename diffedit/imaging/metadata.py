"""The edit parameters that a PNG keeps, so that an edit can be repeated from its result.

They are stored as JSON in one iTXt chunk. Decoding EXIF and ICC profiles of input pictures is done
by `diffedit.imaging.decode` and `diffedit.imaging.color`.

PIL, hashlib and base64 are imported inside the functions: `diffedit-trt --help` imports this module
and must be fast.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffedit.request import InvalidRequest

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.PngImagePlugin import PngInfo

KEYWORD = "diffedit"
"""Keyword of the iTXt chunk."""


@dataclass(frozen=True)
class EditRecord:
    """How a picture was made. It contains no path of the machine.

    Attributes:
        parameters: `diffedit.request.parameters` of the request.
        input: `pixel_digest` of the photograph.
        mask: the user's mask as `mask_to_text` returns it; None if the mask was computed.
        version: version of diffedit-trt.
        model: hub id, or name of the checkpoint folder.
        size: (height, width) in pixels of the canvas the networks worked on.
        backend: description of the backend.
    """

    parameters: dict[str, Any]
    input: str
    mask: str | None = None
    version: str | None = None
    model: str | None = None
    size: tuple[int, int] | None = None
    backend: str | None = None


def png_info(record: EditRecord) -> PngInfo:
    """Return the `pnginfo` argument of PIL's `Image.save` that stores a record."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(KEYWORD, json.dumps(asdict(record), ensure_ascii=False), zip=True)
    return info


def read_record(path: Path) -> EditRecord:
    """Read the record of a PNG file.

    Raises:
        InvalidRequest: the file is missing, not a PNG, or has no valid record.
    """
    text = _read_chunk(path)
    if text is None:
        raise InvalidRequest(
            f"{path} contains no parameters of diffedit-trt; pass an unmodified PNG that `edit` "
            "wrote."
        )
    try:
        return _parse(json.loads(text))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise InvalidRequest(
            f"The parameters in {path} are damaged; pass an unmodified PNG that `edit` wrote."
        ) from None


def pixel_digest(image: Image) -> str:
    """Return the sha256 of mode, size and pixels: equal for all lossless copies of a picture."""
    import hashlib

    header = f"{image.mode} {image.width}x{image.height} ".encode()
    return hashlib.sha256(header + image.tobytes()).hexdigest()


def mask_to_text(mask: Image) -> str:
    """Encode a black and white mask as a base64 PNG with one bit per pixel."""
    import base64

    buffer = io.BytesIO()
    mask.point([0] * 128 + [255] * 128, mode="1").save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def mask_from_text(text: str) -> bytes:
    """Return the PNG file that `mask_to_text` encoded; raises InvalidRequest if it is damaged."""
    import base64

    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise InvalidRequest(
            "The mask stored in the picture is damaged; pass an unmodified PNG that `edit` wrote."
        ) from None


def _read_chunk(path: Path) -> str | None:
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            text: str | None = image.text.get(KEYWORD)  # type: ignore[attr-defined]  # PNG only
            return text
    except FileNotFoundError:
        raise InvalidRequest(f"The picture {path} does not exist; check the path.") from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = str(error).split(";")[0]
        raise InvalidRequest(
            f"{path} is not a readable PNG ({reason}); only PNG files store parameters."
        ) from None


def _parse(values: dict[str, Any]) -> EditRecord:
    """Build a record from parsed JSON. Raises if required fields are missing or mistyped."""
    parameters, digest, mask = values["parameters"], values["input"], values.get("mask")
    if not (isinstance(parameters, dict) and isinstance(digest, str)):
        raise TypeError("parameters must be an object and input a string")
    if not isinstance(mask, str | None):
        raise TypeError("mask must be a string")
    size = values.get("size")
    return EditRecord(
        parameters,
        digest,
        mask,
        version=values.get("version"),
        model=values.get("model"),
        size=(int(size[0]), int(size[1])) if size is not None else None,
        backend=values.get("backend"),
    )
