"""Read the pictures of a command from files or standard input, and choose its output's name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffedit.cli.errors import UsageError

if TYPE_CHECKING:
    from diffedit.imaging.mask_reader import EditMask, MaskFormat
    from diffedit.imaging.photograph import Photograph

STDIN = STDOUT = "-"


def read_photo(name: str | Path) -> Photograph:
    """Read the photograph; raises InvalidRequest. Only the str "-" is stdin."""
    from diffedit.imaging import photograph

    return photograph.read(_file_or_stdin(name))


def read_mask(name: str | Path, photo: Photograph, mask_format: MaskFormat = "auto") -> EditMask:
    """Read a mask for the photograph; raises InvalidRequest."""
    from diffedit.imaging import mask_reader

    rules = mask_reader.MaskRules(mask_format)
    source = _file_or_stdin(name)
    return mask_reader.read_mask(source, photo.size, stored_size=photo.stored_size, rules=rules)


def default_output(image: str, label: str) -> str:
    """Return cup.LABEL.png for the input cup.jpg, and standard output for standard input.

    Raises UsageError for the name of a folder.
    """
    if image == STDIN:
        return STDOUT
    path = Path(image)
    if not path.name:
        raise UsageError(f"The picture {image!r} is a folder; pass a file.")
    return str(path.with_name(f"{path.stem}.{label}.png"))


def _file_or_stdin(name: str | Path) -> str | Path | bytes:
    if name != STDIN:
        return name
    if sys.stdin.isatty():
        raise UsageError(
            "Standard input is a terminal, not a picture; pass a file, or send one to standard "
            "input."
        )
    return sys.stdin.buffer.read()
