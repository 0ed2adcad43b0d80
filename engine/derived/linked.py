"""A checkpoint folder in the cache that replaces parts of another one and links to the rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.checkpoint import Checkpoint
from engine.derived.cached_folder import cached_folder, require_unchanged
from engine.origin import Origin, SourceFile

INDEX = "model_index.json"


def linked_folder(
    checkpoint: Checkpoint,
    replaced: Mapping[str, Callable[[Path], None]],
    name: str,
    sources: tuple[SourceFile, ...],
    bytes_needed: int,
    details: Sequence[Any] = (),
) -> Checkpoint:
    """Return the checkpoint with some of its subfolders replaced.

    Args:
        checkpoint: the original, which is not changed.
        replaced: subfolder -> function that writes it, given the new checkpoint folder.
        name: readable prefix of the folder's name.
        sources: the files that the new subfolders are made from.
        bytes_needed: disk space for them.
        details: everything else that the new subfolders depend on: what `replaced` reads from the
            checkpoint, and options.
    """
    source = checkpoint.folder.resolve()
    origin = checkpoint.origin or Origin(str(source), ())
    new = Origin(origin.model, (*origin.files, *sources))
    index = (checkpoint.folder / INDEX).read_text()

    def make(folder: Path) -> None:
        (folder / INDEX).write_text(index)
        link_folders(source, folder, without=replaced)
        for write in replaced.values():
            write(folder)
        for file in sources:
            if Path(file.path).is_file():
                require_unchanged(Path(file.path), file.sha256)
        new.write(folder)

    key = [
        str(source),
        json.loads(index),
        sorted(replaced),
        list(details),
        [(source.role, source.path, source.sha256) for source in new.files],
    ]
    folder = cached_folder(name, key, bytes_needed, make)
    return Checkpoint.open(folder, checkpoint.variant)


def link_folders(source: Path, folder: Path, without: Collection[str]) -> None:
    """Link to the subfolders of `source`, except some. The target of a subfolder that is itself a
    link is not resolved, because it may change later."""
    for entry in source.iterdir():
        if entry.is_dir() and entry.name not in without:
            (folder / entry.name).symlink_to(source / entry.name, target_is_directory=True)
