"""Files that appear together at the end or not at all, and what a picture says of its making.

A file is written under a temporary name in its own folder and renamed at the very end. It knows
encodings and paths; it knows nothing of models and edits.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffedit.cli.errors import OutputError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK = "diffedit"
"""The keyword of the iTXt chunk that holds a picture's parameters as json."""

FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "lossless": True},
}


class Outputs:
    """The files of one command: reserve each, write each, then commit all.

    Leaving the context without a commit removes everything that was begun.
    """

    def __init__(self, *, force: bool) -> None:
        self._force = force
        self._begun: dict[Path, Path] = {}

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, *exception: object) -> None:
        for temporary in self._begun.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def reserve(self, path: Path) -> None:
        """Make sure that `path` can be written, before any work is done for it.

        Raises UsageError where it exists or was named twice, OutputError where the folder is
        missing or takes no files.
        """
        target = _resolved(path)
        if target in self._begun:
            raise UsageError(f"{path} is named for two outputs; give each a name of its own.")
        if os.path.lexists(target) and not self._force:
            raise UsageError(f"{path} exists already; add --force to overwrite it.")
        if target.is_dir():
            raise UsageError(f"{path} is a folder; name a file.")
        if _special(target):
            return
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            temporary.open("xb").close()
        except OSError as error:
            why = error.strerror or error
            raise OutputError(
                f"{path} cannot be written ({why}); name a folder that exists and takes files."
            ) from None
        self._begun[target] = temporary

    def write(self, path: Path, data: bytes) -> None:
        """Write a reserved file's contents under its temporary name."""
        target = _resolved(path)
        try:
            with self._begun.get(target, target).open("wb") as file:
                file.write(data)
                file.flush()
                if not _special(target):
                    os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written ({error.strerror or error}); nothing was changed: make "
                "room or name another folder."
            ) from None

    def commit(self) -> None:
        """Give every file its name."""
        for target, temporary in list(self._begun.items()):
            if target.exists() and not self._force:
                raise UsageError(f"{target} has appeared meanwhile; add --force to overwrite it.")
            os.replace(temporary, target)
            del self._begun[target]


def _resolved(path: Path) -> Path:
    """A link's goal is replaced, not the link."""
    return path.resolve() if path.is_symlink() else path.absolute()


def _special(path: Path) -> bool:
    """A device or a pipe, which is written to and never replaced."""
    return path.exists() and not path.is_file()


def to_stdout(data: bytes) -> None:
    """Write a file's contents to standard output."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def check_format(path: Path) -> None:
    """UsageError unless pictures can be written under this name."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"{path} has no ending of a picture that can be written here; take one of "
            f"{', '.join(FORMATS)}."
        )


def encode(image: Image, path: Path = Path("-.png"), record: dict[str, Any] | None = None) -> bytes:
    """A picture in the format of its name; `record` is kept inside where that is PNG."""
    options = dict(FORMATS[path.suffix.lower()])
    if record is not None and options["format"] == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt(CHUNK, json.dumps(record, ensure_ascii=False), zip=True)
        options["pnginfo"] = info
    buffer = io.BytesIO()
    try:
        image.save(buffer, **options)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written ({error}); take PNG.") from None
    return buffer.getvalue()


def read_record(path: Path) -> dict[str, Any]:
    """The record that `encode` kept in a PNG file.

    Raises UsageError with one sentence where the file is missing, no PNG or holds no record.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            text = image.text.get(CHUNK)  # type: ignore[attr-defined]  # of PNG files alone
    except FileNotFoundError:
        raise UsageError(f"The picture {path} does not exist; check the path.") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(
            f"{path} is no readable PNG ({str(error).split(';')[0]}); only PNG keeps parameters."
        ) from None
    if text is None:
        raise UsageError(
            f"{path} holds no parameters of diffedit-trt; name a PNG that `edit` wrote, unchanged."
        )
    try:
        record = json.loads(text)
        if not (isinstance(record["parameters"], dict) and isinstance(record["input"], str)):
            raise ValueError("wrong types")
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"The parameters in {path} are damaged; take an unchanged file.") from None
    checked: dict[str, Any] = record
    return checked


def digest(image: Image) -> str:
    """sha256 over a picture's mode, size and pixels: the same after any lossless saving."""
    head = f"{image.mode} {image.width}x{image.height} ".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


def packed(mask: Image) -> str:
    """A black and white picture as text."""
    buffer = io.BytesIO()
    mask.point([0] * 128 + [255] * 128, mode="1").save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def unpacked(text: object) -> bytes:
    """The picture file that `packed` made; UsageError where it is none."""
    try:
        return base64.b64decode(str(text), validate=True)
    except ValueError:
        raise UsageError("The mask kept in the picture is damaged; give --mask.") from None
