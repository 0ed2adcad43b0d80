"""Folders that are written completely or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from demo.training import TrainingError


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `folder` when the block ends without an exception.

    Raises TrainingError if it cannot be written; an existing `folder` is unchanged then.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            yield new
            if folder.exists():
                os.replace(folder, Path(temporary) / "old")
            os.replace(new, folder)
    # On a full disk torch raises RuntimeError and safetensors raises SafetensorError.
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).split("\n")[0]
        raise TrainingError(f"cannot write {folder} (is the disk full?): {reason}") from error
