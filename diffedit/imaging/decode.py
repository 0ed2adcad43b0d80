"""Decode any picture a user passes into upright 8-bit sRGB, or raise `InvalidRequest`.

It handles files, formats and orientation; `diffedit.imaging.color` handles color. It does not
resize pictures to the network's canvas (`diffedit.imaging.geometry` does).
"""

from __future__ import annotations

import io
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from diffedit.imaging.color import WHITE, to_rgb
from diffedit.request import InvalidRequest

if TYPE_CHECKING:
    from diffedit.request import ImageSource

MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000")
"""Supported input formats. PIL supports more, but some (EPS) run external programs."""

_header_lock = threading.Lock()  # warning filters are global: one thread at a time changes them


def load(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a picture to upright 8-bit sRGB.

    Apply the EXIF orientation, convert an embedded color profile, blend transparent pixels onto
    white, reduce 16 bits to 8, and take the first frame of an animation.

    Args:
        source: PIL image (not modified), path, file contents, or uint8 [H, W, 3].
        max_pixels: reject larger pictures from their header, before decoding.

    Returns: PIL RGB without metadata, never the caller's own object.

    Raises:
        InvalidRequest: the source is missing, damaged, too large or in an unsupported format.
    """
    if isinstance(source, np.ndarray) and (source.ndim != 3 or source.shape[2] != 3):
        raise InvalidRequest(
            f"The picture is an array of shape {source.shape}, but must be [H, W, 3]; convert it "
            "to three color channels on the last axis."
        )
    return to_rgb(decoded(source, "picture", max_pixels).image, WHITE)


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
    """

    image: Image.Image
    stored_size: tuple[int, int]


def decoded(source: ImageSource, noun: str, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decode a picture and apply its EXIF orientation.

    Args:
        source, max_pixels: as for `load`.
        noun: "picture" or "mask", names the source in error messages.

    Raises:
        InvalidRequest: as `load`.
    """
    with _opened(source, noun) as (image, name):
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
            image.load()
        except MemoryError:
            raise
        except Exception as error:  # decoders raise arbitrary exceptions on damaged data
            raise InvalidRequest(
                f"{name} is damaged or truncated ({error}); save or download it again.",
                field="mask_image" if noun == "mask" else "image",
                code="damaged_image",
            ) from None
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception:  # broken EXIF: the pixels are intact, so keep their orientation
            upright = image.copy()
        return Decoded(upright, (width, height))


@contextmanager
def _opened(source: ImageSource, noun: str) -> Iterator[tuple[Image.Image, str]]:
    """Yield the picture with only its header read, and its name for error messages."""
    name = f"The {noun}"
    if isinstance(source, Image.Image):
        yield source, name
    elif isinstance(source, np.ndarray):
        yield _from_array(source, noun), name
    elif isinstance(source, bytes | bytearray | memoryview):
        with io.BytesIO(source) as file:
            yield _open_header(file, name), name
    elif isinstance(source, str | Path):
        name = f"The {noun} {source}"
        with ExitStack() as stack:
            yield _open_header(_open_file(Path(source), name, stack), name), name
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
        raise InvalidRequest(f"{name} does not exist; check the path.") from None
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


def _open_header(file: IO[bytes], name: str) -> Image.Image:
    if not file.seek(0, io.SEEK_END):
        raise InvalidRequest(f"{name} is empty (0 bytes); save or download it again.")
    try:
        with _header_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of large pictures; `max_pixels` is stricter
            return Image.open(file, formats=FORMATS)
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
