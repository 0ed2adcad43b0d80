"""A checkpoint folder in the cache that replaces parts of another one and links to the rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from engine.checkpoint import Checkpoint
from engine.derived.cached_folder import cached_folder
from engine.origin import Origin, SourceFile

INDEX = "model_index.json"


def linked_folder(
    checkpoint: Checkpoint,
    replaced: Mapping[str, Callable[[Path], None]],
    name: str,
    sources: tuple[SourceFile, ...],
    bytes_needed: int,
    details: Sequence[str] = (),
) -> Checkpoint:
    """The checkpoint with some of its subfolders replaced.

    Args:
        checkpoint: stays as it is.
        replaced: subfolder -> writes it, given the new checkpoint folder.
        name: for people.
        sources: what the new subfolders are made from.
        bytes_needed: disk space for them.
        details: what else the new subfolders depend on.
    """
    origin = checkpoint.origin or Origin(str(checkpoint.folder.resolve()), ())
    new = Origin(origin.model, (*origin.files, *sources))
    index = (checkpoint.folder / INDEX).read_text()

    def make(folder: Path) -> None:
        (folder / INDEX).write_text(index)
        for entry in checkpoint.folder.iterdir():
            if entry.is_dir() and entry.name not in replaced:
                (folder / entry.name).symlink_to(entry.resolve(), target_is_directory=True)
        for write in replaced.values():
            write(folder)
        new.write(folder)

    key = [
        str(checkpoint.folder.resolve()),
        json.loads(index),
        sorted(replaced),
        list(details),
        [(source.role, source.path, source.sha256) for source in new.files],
    ]
    folder = cached_folder(name, key, bytes_needed, make)
    return Checkpoint.open(folder, checkpoint.variant)
