"""Store the parameters of an edit in a PNG, so that the edit can be repeated from its result.

They are stored as JSON in one iTXt chunk. The user's mask may be larger than other programs accept
in text, so it is stored in private chunks.

PIL, hashlib and base64 are imported inside the functions: `diffedit-trt --help` imports this module
and must be fast.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffedit.provenance import Provenance
from diffedit.request import InvalidRequest

if TYPE_CHECKING:
    from PIL.Image import Image

    from diffedit.imaging.mask_reader import EditMask, MaskConvention
    from diffedit.imaging.png import Chunk

KEYWORD = "diffedit"
"""Keyword of the iTXt chunk."""
MASK_CHUNK = b"deMK"
"""Name of the private chunks with the mask, a PNG cut into pieces. Other editors drop them."""
MAX_SIDE = 2**13
"""Largest height and width of a canvas that is read."""
MASK_PIECE = 2**19
"""Bytes per mask chunk, far below the limits of libpng (8 MB) and of other readers."""


@dataclass(frozen=True)
class EditRecord:
    """How a picture was made. It contains no local paths.

    Attributes:
        parameters: `diffedit.request.parameters` of the request.
        input: `pixel_digest` of the photograph.
        mask: the user's mask as `pack_mask` returns it; None if the mask was computed.
        mask_read_as: which pixels of the user's file were edited: "alpha", "white" or "black".
        version: version of diffedit-trt.
        model: hub id, or name of the checkpoint folder.
        size: (height, width) in pixels of the canvas the networks worked on.
        backend: description of the backend.
        provenance: what the picture was made with; None in the files of older versions.
    """

    parameters: dict[str, Any]
    input: str
    mask: bytes | None = field(default=None, repr=False)
    mask_read_as: MaskConvention | None = None
    version: str | None = None
    model: str | None = None
    size: tuple[int, int] | None = None
    backend: str | None = None
    provenance: Provenance | None = None


def record_chunks(record: EditRecord) -> list[Chunk]:
    """Return the PNG chunks that store a record. The text of the first is below 100 kB."""
    from diffedit.imaging.png import text_chunk

    values, mask = asdict(record), record.mask
    del values["mask"]
    if mask is None:
        pieces = []
    else:
        values["mask_sha256"] = _sha256(mask)
        pieces = [mask[i : i + MASK_PIECE] for i in range(0, len(mask), MASK_PIECE)]
    text = json.dumps(values, ensure_ascii=False)
    if any("\ud800" <= c <= "\udfff" for c in text):  # a model folder's name that is not UTF-8
        text = json.dumps(values)
    chunk = text_chunk(KEYWORD, text, compress=True)
    return [chunk, *((MASK_CHUNK, piece) for piece in pieces)]


def read_record(path: Path) -> EditRecord:
    """Read the record of a PNG file.

    Raises:
        InvalidRequest: the file is missing, not a PNG, or has no valid record.
    """
    text, pieces = _read_chunks(path)
    if text is None:
        raise InvalidRequest(
            f"{path} contains no parameters of diffedit-trt; pass an unmodified PNG that `edit` "
            "wrote."
        )
    try:
        values = json.loads(text)
        record = _parse(values)
        digest = values.get("mask_sha256")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise InvalidRequest(
            f"The parameters in {path} are damaged; pass an unmodified PNG that `edit` wrote."
        ) from None
    if digest is None:
        return record
    if _sha256(pieces) != digest:
        raise InvalidRequest(
            f"The mask in {path} is missing or damaged, probably because another program saved the "
            "file again; pass an unmodified PNG that `edit` wrote."
        )
    return replace(record, mask=pieces)


def pixel_digest(image: Image) -> str:
    """Return the sha256 of mode, size and pixels: equal for all lossless copies of a picture."""
    import hashlib

    header = f"{image.mode} {image.width}x{image.height} ".encode()
    return hashlib.sha256(header + image.tobytes()).hexdigest()


def pack_mask(mask: EditMask) -> bytes:
    """Encode a mask as a PNG: black and white with one bit per pixel, soft with eight."""
    buffer = io.BytesIO()
    bits = mask.image.point([0] * 128 + [255] * 128, mode="1")
    (bits if mask.soft is None else mask.soft).save(buffer, format="PNG")
    return buffer.getvalue()


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def _read_chunks(path: Path) -> tuple[str | None, bytes]:
    """Return the text of the record, None if there is none, and the contents of mask chunks."""
    from diffedit.imaging import png

    try:
        chunks = list(png.chunks_of(path.read_bytes()))
        mask = b"".join(data for name, data in chunks if name == MASK_CHUNK)
        return png.text_of(chunks, KEYWORD), mask
    except FileNotFoundError:
        raise InvalidRequest(f"The picture {path} does not exist; check the path.") from None
    except (OSError, ValueError, IndexError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidRequest(
            f"{path} is not a readable PNG ({reason}); only PNG files store parameters."
        ) from None


def _parse(values: dict[str, Any]) -> EditRecord:
    """Build a record from parsed JSON. Raises if required fields are missing or mistyped.

    Versions before 0.1.0's release stored the mask in the text itself. Records without a preset are
    older than presets: what they do not state is as in the paper.
    """
    import base64

    parameters, digest, mask = values["parameters"], values["input"], values.get("mask")
    if not (isinstance(parameters, dict) and isinstance(digest, str)):
        raise TypeError("parameters must be an object and input a string")
    if not isinstance(mask, str | None):
        raise TypeError("mask must be a string")
    packed = None if mask is None else base64.b64decode(mask, validate=True)
    read_as = values.get("mask_read_as")
    if read_as not in (None, "alpha", "white", "black"):
        raise ValueError("the mask is read in an unknown way")
    size, made_with = values.get("size"), values.get("provenance")
    return EditRecord(
        {"preset": "paper", **parameters},
        digest,
        packed,
        mask_read_as=read_as,
        version=values.get("version"),
        model=values.get("model"),
        size=_parse_size(size) if size is not None else None,
        backend=values.get("backend"),
        provenance=Provenance.from_json(made_with) if made_with is not None else None,
    )


def _parse_size(size: Any) -> tuple[int, int]:
    height, width = size
    if not all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in size):
        raise ValueError("the size is not (height, width) in pixels")
    return height, width
