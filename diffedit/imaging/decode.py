"""Decode any picture a user passes, upright and in its own mode, or raise `InvalidRequest`.

This module handles files, formats and orientation. `diffedit.imaging.photograph` and
`diffedit.imaging.mask_reader` interpret the pixels.
"""

from __future__ import annotations

import io
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from diffedit.imaging import deep, png
from diffedit.imaging.exif import Metadata, is_turned, metadata_of, stored_exif
from diffedit.imaging.stored_form import form_warnings
from diffedit.notices import Notice
from diffedit.request import InvalidRequest

if TYPE_CHECKING:
    from diffedit.request import ImageSource

MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000")
"""Supported input formats. PIL supports more, but some (EPS) run external programs."""

ADDRESS = re.compile(r"\bhttps?:/|\bdata:image")

Reopen = Callable[[], Image.Image]
"""Opens the same file once more, with only its header read."""

_header_lock = threading.Lock()  # warning filters are global: one thread at a time changes them


def size_of(data: bytes, formats: Sequence[str] = FORMATS) -> tuple[int, int]:
    """Return (width, height) from the header alone. PIL's own exceptions pass through."""
    with _header_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=list(formats)) as image:
            return image.size


@dataclass(frozen=True, eq=False)
class Decoded:
    """A decoded picture, upright and in its own mode.

    Attributes:
        image: a copy, never the caller's own object.
        stored_size: (width, height) before the EXIF orientation was applied.
        deep: the values as uint16 [H, W, C] where the file has 16 bits for each channel of a color.
        warnings: sentences about data in the file that PIL does not read.
        frames: number of frames or pages of the file.
        metadata: EXIF and resolution.
        bits: bits per value of a grey picture of whole numbers; see `deep.stated_bits`.
    """

    image: Image.Image
    stored_size: tuple[int, int]
    deep: deep.Deep | None
    warnings: tuple[Notice, ...]
    frames: int
    metadata: Metadata
    bits: int | None = None


def decoded(source: ImageSource, noun: str, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decode a picture and apply its EXIF orientation.

    Args:
        source: PIL image (not modified), path, file contents, or uint8 [H, W] or [H, W, 3].
        noun: "picture" or "mask", names the source in error messages.
        max_pixels: reject larger pictures from their header, before decoding.

    Raises:
        InvalidRequest: the source is missing, damaged, too large or in an unsupported format.
    """
    with _opened(source, noun) as (image, name, reopen):
        width, height = image.size
        if not width * height:
            raise InvalidRequest(
                f"{name} has {width} x {height} pixels, and an empty picture cannot be edited; "
                "use one with pixels."
            )
        if width * height > max_pixels:
            raise InvalidRequest(
                f"{name} has {width} x {height} = {width * height:,} pixels, but the limit is "
                f"{max_pixels:,}; scale it down first."
            )
        try:
            lost = _form_warnings(image, reopen)
            is_twelve, bits = deep.is_twelve_bits(image), deep.stated_bits(image)
            low = deep.low_bytes(image, reopen) if reopen else None
            exif = stored_exif(image) if image.format == "TIFF" else None
            image.load()  # closes a TIFF; only then a PNG has EXIF
            exif = stored_exif(image) if exif is None else exif
        except MemoryError:
            raise
        except Exception as error:  # decoders raise arbitrary exceptions on damaged data
            raise InvalidRequest(
                f"{name} is damaged or truncated ({error}); save or download it again.",
                field="mask_image" if noun == "mask" else "image",
                code="damaged_image",
            ) from None
        frames = _frame_count(reopen() if reopen else image)
        upright = _upright(image)
        return Decoded(
            image=upright,
            stored_size=upright.size[::-1] if is_turned(exif) else upright.size,
            deep=_deep(upright, low, is_twelve=is_twelve),
            warnings=tuple(lost),
            frames=frames,
            metadata=metadata_of(exif, image.info, upright.size),
            bits=bits,
        )


def _form_warnings(image: Image.Image, reopen: Reopen | None) -> list[Notice]:
    """Warn of data in a file that PIL does not read; nothing for a picture in memory."""
    if deep.is_reduced(image):
        sentence = "The picture has 16 bits a channel in a form that is read as 8 bits."
        return [Notice("bits_reduced", sentence)]
    return form_warnings(reopen()) if reopen else []


def _deep(upright: Image.Image, low: deep.LowBytes | None, *, is_twelve: bool) -> deep.Deep | None:
    if is_twelve:
        return deep.from_twelve_bits(upright)
    return None if low is None else deep.join(upright, _upright(low.image), low)


def _frame_count(image: Image.Image) -> int:
    """Return the number of frames or pages; 1 if the file is damaged behind the first."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # decoders raise arbitrary exceptions on damaged data
        return 1


def _upright(image: Image.Image) -> Image.Image:
    """Return a copy with the EXIF orientation applied."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF: the pixels are intact, so keep their orientation
        return image.copy()


@contextmanager
def _opened(source: ImageSource, noun: str) -> Iterator[tuple[Image.Image, str, Reopen | None]]:
    """Yield the picture with only its header read, its name for messages, and how to reopen it."""
    name = f"The {noun}"
    if isinstance(source, Image.Image):
        yield source, name, None
    elif isinstance(source, np.ndarray):
        yield _from_array(source, noun), name, None
    elif isinstance(source, bytes | bytearray | memoryview):
        with io.BytesIO(source) as file:
            yield _open_header(file, name), name, lambda: _open_header(io.BytesIO(source), name)
    elif isinstance(source, str | Path):
        name = f"The {noun} {source}"
        with ExitStack() as stack:

            def reopen() -> Image.Image:
                return _open_header(_open_file(Path(source), name, stack), name)

            yield reopen(), name, reopen
    else:
        raise InvalidRequest(
            f"{name} is of type {type(source).__name__}, but must be a PIL image, a path, the "
            "bytes of a file, or a uint8 array; convert it."
        )


def _open_file(path: Path, name: str, stack: ExitStack) -> IO[bytes]:
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):  # opening a pipe could block forever
            return stack.enter_context(path.open("rb"))
    except FileNotFoundError:
        is_address = ADDRESS.search(name) is not None
        hint = "download it and pass the file" if is_address else "check the path"
        raise InvalidRequest(f"{name} does not exist; {hint}.") from None
    except PermissionError:
        raise InvalidRequest(
            f"{name} cannot be read (permission denied); change its permissions."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequest(f"{name} cannot be opened ({reason}); check the path.") from None
    actual = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
    raise InvalidRequest(f"{name} is {actual}; pass the path of a picture file.")


def _from_array(array: NDArray[Any], noun: str) -> Image.Image:
    if array.dtype != np.uint8:
        raise InvalidRequest(
            f"The {noun} is an array of {array.dtype}, but must be uint8 in 0 to 255; scale and "
            "convert it."
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise InvalidRequest(
            f"The {noun} is an array of shape {array.shape}, but must be [H, W] or [H, W, 3]; "
            "convert it."
        )
    return Image.fromarray(array) if array.size else Image.new("L", (0, 0))


def _open_whatever_its_text(file: IO[bytes]) -> Image.Image:
    """Open a file. PIL refuses a PNG with more than 1 MiB of text, so open it without."""
    try:
        return Image.open(file, formats=FORMATS)
    except ValueError:
        file.seek(0)
        return Image.open(io.BytesIO(png.without_text(file.read())), formats=["PNG"])


def _open_header(file: IO[bytes], name: str) -> Image.Image:
    if not file.seek(0, io.SEEK_END):
        raise InvalidRequest(f"{name} is empty (0 bytes); save or download it again.")
    try:
        with _header_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of large pictures; `max_pixels` is stricter
            return _open_whatever_its_text(file)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise InvalidRequest(
            f"{name} is not in a supported format ({', '.join(FORMATS)}); convert it to PNG or "
            "JPEG."
        ) from None
    except Image.DecompressionBombError:
        raise InvalidRequest(
            f"{name} has more pixels than can be opened safely; scale it down first."
        ) from None
    except Exception as error:  # parsers raise arbitrary exceptions on damaged data
        raise InvalidRequest(f"{name} is damaged ({error}); save or download it again.") from None
