"""Paths for libraries that only open UTF-8 names. Standard library only."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def utf8_path(folder: Path) -> Iterator[Path]:
    """Yield a path of `folder` that Rust libraries can open: the folder itself, or a temporary link
    if its name is not UTF-8."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as temporary:
            link = Path(temporary, "model")
            os.symlink(folder.absolute(), link)
            yield link
    else:
        yield folder
