"""Reading pictures: whatever is called a photograph becomes upright 8-bit sRGB, or a sentence.

It handles files, formats, orientation and colour. It does not know the network's canvas (see
`diffedit.imaging.geometry`), prompts, or how masks are used.
"""

from __future__ import annotations

import io
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms, ImageOps, UnidentifiedImageError

from diffedit.request import InvalidRequest

if TYPE_CHECKING:
    from diffedit.request import ImageSource

MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000")
"""What is opened. PIL knows more, some of which (EPS) start other programs."""

WHITE, BLACK = (255, 255, 255), (0, 0, 0)

_header_lock = threading.Lock()  # filters of warnings are global: one thread changes them at a time


def load(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Any picture as upright 8-bit sRGB.

    The EXIF orientation is applied, an embedded colour profile converted, what is transparent lies
    on white, 16 bits become 8, and of an animation the first frame is taken.

    Args:
        source: PIL image (left unchanged), path, file contents, or uint8 [H, W, 3].
        max_pixels: larger pictures are refused by their header, before anything is decoded.

    Returns: PIL RGB without metadata, never the caller's own object.

    Raises InvalidRequest with one sentence where there is no such picture.
    """
    if isinstance(source, np.ndarray) and (source.ndim != 3 or source.shape[2] != 3):
        raise InvalidRequest(
            f"The picture is an array of shape {source.shape}, but must be [H, W, 3]; convert it "
            "to three colour channels, the last axis."
        )
    return _flat(_decoded(source, "picture", max_pixels), WHITE)


def load_mask(
    source: ImageSource, size: tuple[int, int], *, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """A mask for a photograph: white edits, black and transparent keep.

    Args:
        source: as for `load`; arrays may also be bool or uint8 [H, W].
        size: (width, height) of the photograph, as PIL's `.size`.

    Returns: PIL L, 0 or 255, stretched to `size`.

    Raises InvalidRequest as `load`, and where the aspect is not the photograph's within a pixel or
    a hundredth.
    """
    if isinstance(source, np.ndarray) and source.dtype == np.bool_:
        source = source.astype(np.uint8) * 255
    mask = _flat(_decoded(source, "mask", max_pixels), BLACK, managed=False).convert("L")
    (width, height), (mask_width, mask_height) = size, mask.size
    wanted = mask_width * height / width, mask_height * width / height
    if all(
        abs(there - exact) > max(1, 0.01 * exact)
        for there, exact in zip((mask_height, mask_width), wanted, strict=True)
    ):
        raise InvalidRequest(
            f"The mask has {mask_width} x {mask_height} pixels, another aspect than the picture's "
            f"{width} x {height}; crop or pad it to the same aspect."
        )
    if mask.size != tuple(size):
        mask = mask.resize(size, Image.Resampling.BILINEAR)
    return mask.point([0] * 128 + [255] * 128)


def _decoded(source: ImageSource, noun: str, max_pixels: int) -> Image.Image:
    """A fully read, upright copy in whatever mode it has."""
    with _opened(source, noun) as (image, name):
        width, height = image.size
        if not width * height:
            raise InvalidRequest(f"{name} has {width} x {height} pixels; take one that has some.")
        if width * height > max_pixels:
            raise InvalidRequest(
                f"{name} has {width} x {height} = {width * height:,} pixels, but at most "
                f"{max_pixels:,} are taken; scale it down first."
            )
        try:
            image.load()
        except MemoryError:
            raise
        except Exception as error:  # a decoder may raise anything on damaged bytes
            raise InvalidRequest(
                f"{name} is damaged or cut short ({error}); save or download it again."
            ) from None
        try:
            return ImageOps.exif_transpose(image)
        except Exception:  # broken EXIF: the pixels are good, and taken as they lie
            return image.copy()


def size_of(data: bytes, formats: Sequence[str] = FORMATS) -> tuple[int, int]:
    """(width, height) by the header alone; raises whatever PIL's parsers do."""
    with _header_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=list(formats)) as image:
            return image.size


@contextmanager
def _opened(source: ImageSource, noun: str) -> Iterator[tuple[Image.Image, str]]:
    """The picture with only its header read, and what to call it in a message."""
    name = f"The {noun}"
    if isinstance(source, Image.Image):
        yield source, name
    elif isinstance(source, np.ndarray):
        yield _from_array(source, noun), name
    elif isinstance(source, bytes | bytearray | memoryview):
        with io.BytesIO(source) as file:
            yield _header(file, name), name
    elif isinstance(source, str | Path):
        name = f"The {noun} {source}"
        with ExitStack() as stack:
            handle = _file(Path(source), name, stack)
            yield _header(handle, name), name
    else:
        raise InvalidRequest(
            f"{name} is of type {type(source).__name__}, but must be a PIL image, a path, the "
            "bytes of a file, or a uint8 array; convert it."
        )


def _file(path: Path, name: str, stack: ExitStack) -> IO[bytes]:
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):  # opening a pipe could wait for ever
            return stack.enter_context(path.open("rb"))
    except FileNotFoundError:
        raise InvalidRequest(f"{name} does not exist; check the path.") from None
    except PermissionError:
        raise InvalidRequest(f"{name} may not be read; give yourself access to it.") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InvalidRequest(f"{name} cannot be opened ({why}); check the path.") from None
    what = "a folder" if stat.S_ISDIR(mode) else "no plain file"
    raise InvalidRequest(f"{name} is {what}; name a picture file.")


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


def _header(file: IO[bytes], name: str) -> Image.Image:
    if not file.seek(0, io.SEEK_END):
        raise InvalidRequest(f"{name} is empty (0 bytes); save or download it again.")
    try:
        with _header_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's on size: ours is an error, and stricter
            return Image.open(file, formats=FORMATS)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise InvalidRequest(
            f"{name} is in no format that is read here ({', '.join(FORMATS)}); convert it to PNG "
            "or JPEG."
        ) from None
    except Image.DecompressionBombError:
        raise InvalidRequest(
            f"{name} has more pixels than can be opened safely; scale it down first."
        ) from None
    except Exception as error:  # a parser may raise anything on damaged bytes
        raise InvalidRequest(f"{name} is damaged ({error}); save or download it again.") from None


def _flat(image: Image.Image, ground: tuple[int, int, int], managed: bool = True) -> Image.Image:
    """8-bit RGB on an opaque ground, in sRGB unless not `managed`, without metadata."""
    if image.mode == "F":
        raise InvalidRequest(
            "The picture has floating-point pixels, of which nobody knows the white; convert it to "
            "8 or 16 bits."
        )
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    alpha = None
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode == "La" else image.mode).convert("RGBA")
        alpha = image.getchannel("A")
    color = _to_srgb(image) if managed else image.convert("RGB")
    if alpha is not None:
        flat = Image.new("RGB", image.size, ground)
        flat.paste(color, mask=alpha)
        color = flat
    color.info = {}
    return color


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey (modes I;16 and I) as L; what exceeds 16 bits is read as 31."""
    values = np.asarray(image).astype(np.int64).clip(0)
    top = 65535 if values.max() <= 65535 else 2**31 - 1
    grey = Image.fromarray(((values * 255 + top // 2) // top).astype(np.uint8))
    grey.info = {k: v for k, v in image.info.items() if k in ("icc_profile", "gamma", "srgb")}
    return grey


def _to_srgb(image: Image.Image) -> Image.Image:
    """RGB, through the embedded profile or PNG's gamma where that makes a difference."""
    if icc := image.info.get("icc_profile"):
        try:
            return _managed(image, icc)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError):
            pass  # a broken or foreign profile, or a PIL without it: the numbers as they are
    try:
        plain = image.convert("RGB")
    except ValueError:
        raise InvalidRequest(
            f"The picture has {image.mode} colours, which cannot be converted; save it as RGB."
        ) from None
    exponent = 1 / (2.2 * (image.info.get("gamma") or 1 / 2.2))
    if "srgb" not in image.info and abs(exponent - 1) > 0.05:
        plain = plain.point([round(255 * (v / 255) ** exponent) for v in range(256)] * 3)
    return plain


def _managed(image: Image.Image, icc: bytes) -> Image.Image:
    """RGB through a colour profile; raises as ImageCms does where it does not fit."""
    if image.mode in ("1", "P", "PA", "RGBA", "RGBX"):
        image = image.convert("RGB")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    srgb = ImageCms.createProfile("sRGB")
    convert = ImageCms.buildTransform(profile, srgb, image.mode, "RGB")
    if image.mode == "RGB":
        colors = np.mgrid[:9, :9, :9].reshape(3, -1).T.astype(np.uint8) * 31
        probe = Image.fromarray(colors.reshape(27, 27, 3))
        if np.asarray(ImageChops.difference(probe, _applied(convert, probe))).max() <= 2:
            return image  # sRGB but for rounding: the numbers stay as they are in the file
    return _applied(convert, image)


def _applied(convert: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    done = ImageCms.applyTransform(image, convert)
    assert done is not None  # only in-place calls give None
    return done
