"""Write the output files of a command atomically: all of them when it succeeds, or none.

A file is written under a temporary name in its own folder and renamed at the end.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffedit.cli.errors import OutputError, UsageError
from diffedit.imaging.metadata import EditRecord, record_chunks

if TYPE_CHECKING:
    from PIL.Image import Image

    from diffedit.imaging.photograph import Photograph
    from diffedit.notices import Notice


class OutputFiles:
    """A transaction over the output files of one command: reserve, write, then commit.

    Leaving the context without `commit` removes all temporary files.
    """

    def __init__(self, *, force: bool, prefix: str = "") -> None:
        """`force` allows existing files to be overwritten; temporary names begin with `prefix`."""
        self._force, self._prefix = force, prefix
        self._temporary: dict[Path, Path] = {}

    def __enter__(self) -> OutputFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        for temporary in self._temporary.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def reserve(self, path: Path) -> None:
        """Check that `path` can be written, before its contents are computed.

        Raises:
            UsageError: the file exists, or two options have the same file.
            OutputError: the folder does not exist or is not writable.
        """
        check_target(path)
        target = _target(path)
        if target in self._temporary:
            raise UsageError(f"{path} is the file of two outputs; use a different name for each.")
        if os.path.lexists(target) and not self._force:
            raise UsageError(f"{path} already exists; add --force to overwrite it.")
        if _is_device_or_pipe(target):
            return
        temporary = target.with_name(
            f".{self._prefix}{secrets.token_hex(8)}.tmp"
        )  # names have a limit
        try:
            temporary.open("xb").close()
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written ({error.strerror or error}); use a file in a "
                "writable folder."
            ) from None
        self._temporary[target] = temporary

    def write(self, path: Path, data: bytes) -> None:
        """Write the contents of a reserved file under its temporary name."""
        target = _target(path)
        try:
            with self._temporary.get(target, target).open("wb") as file:
                file.write(data)
                file.flush()
                if not _is_device_or_pipe(target):
                    os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written ({error.strerror or error}), and no file was changed; "
                "free some disk space, or use another folder."
            ) from None

    def commit(self) -> None:
        """Rename every file to its final name."""
        for target, temporary in list(self._temporary.items()):
            if target.exists() and not self._force:
                raise UsageError(
                    f"{target} was created by another program meanwhile; add --force to overwrite "
                    "it."
                )
            os.replace(temporary, target)
            del self._temporary[target]


def remove_temporary(folder: Path, prefix: str) -> None:
    """Remove the files that processes of one run left in a folder when they were killed."""
    for temporary in folder.glob(f".{prefix}*.tmp"):
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_target(path: Path) -> None:
    """Check that a file can be written, as far as possible without writing it.

    Raises:
        UsageError: the name is not valid, or it is a folder.
        OutputError: the folder does not exist or is not writable.
    """
    try:
        target = _target(path)
        if target.is_dir():
            raise UsageError(f"{path} is a folder; pass a file.")
        if _is_device_or_pipe(target):
            return
        if not target.parent.is_dir():
            reason = f"there is no folder {target.parent}"
        elif not os.access(target.parent, os.W_OK | os.X_OK):
            reason = f"the folder {target.parent} is not writable"
        else:
            os.lstat(target)
            return
    except FileNotFoundError:
        return
    except ValueError as error:
        raise UsageError(
            f"{str(path)!r} is not a valid file name ({error}); use another name."
        ) from None
    except OSError as error:
        reason = str(error.strerror or error)
    raise OutputError(f"{path} cannot be written ({reason}); use a file in a writable folder.")


def _target(path: Path) -> Path:
    """Return the file to replace: the target of a symbolic link, not the link."""
    return path.resolve() if path.is_symlink() else path.absolute()


def _is_device_or_pipe(path: Path) -> bool:
    """Whether a file is written directly, because it cannot be replaced by renaming."""
    return path.exists() and not path.is_file()


def write_stdout(data: bytes) -> None:
    """Write the contents of a file to standard output."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def check_extension(path: Path) -> None:
    """Raise UsageError unless pictures can be written in the format of this extension."""
    from diffedit.imaging import encode
    from diffedit.request import InvalidRequest

    try:
        encode.format_of(path)
    except InvalidRequest as error:
        raise UsageError(str(error)) from None


def encode(
    picture: Image | Photograph, path: Path = Path("-.png"), record: EditRecord | None = None
) -> bytes:
    """Encode a picture in the format of a file name; a PNG also stores `record`."""
    from diffedit.imaging import encode, photograph

    if not isinstance(picture, photograph.Photograph):
        picture = photograph.Photograph(picture)
    chunks = record_chunks(record) if record is not None else ()
    try:
        options = encode.EncodeOptions(chunks=chunks)
        return encode.encode(picture, encode.format_of(path), options)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written ({error}); use PNG.") from None


def losses(photo: Photograph, path: Path) -> list[Notice]:
    """Return one sentence for each property of a photograph that this file format loses."""
    from diffedit.imaging import encode

    return encode.losses(photo, encode.format_of(path))


def format_note(path: Path, *, has_record: bool = True) -> str | None:
    """Return a note about the format of a result, or None.

    Args:
        path: the result; for standard output it is PNG.
        has_record: a PNG of it would store the parameters.
    """
    extension = path.suffix.lower()
    notes = []
    if extension in (".jpg", ".jpeg"):
        notes.append("JPEG changes every pixel a little, also outside the mask; PNG keeps them")
    if has_record and extension != ".png":
        notes.append("only PNG stores the parameters that `replay` needs")
    return ", and ".join(notes) + "." if notes else None


def encode_heatmap(overlay: Image, heatmap: Any, path: Path) -> bytes:
    """Encode the heatmap: its values, float32 [h, w], for .npy, otherwise the overlay picture."""
    if path.suffix != ".npy":
        return encode(overlay, path)
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, heatmap)
    return buffer.getvalue()
