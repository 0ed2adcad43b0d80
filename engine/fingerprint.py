"""A digest of samples of a checkpoint's weights, to distinguish models in the record of a result.

It reads a few megabytes, while a digest of all weights reads gigabytes. Training, merging or fusing
a LoRA changes every number of a tensor, so the fingerprint detects them. It does not prove that a
file is undamaged; `Checkpoint.digest` does. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

from engine.checkpoint import Checkpoint, read_header
from engine.errors import CheckpointError

PIECE = 4096
"""Bytes read at the start and at the end of every tensor."""


def fingerprint(checkpoint: Checkpoint, without: Collection[str] = ()) -> str:
    """sha256 of the configs, the tokenizer's files, and of both ends of every weight tensor.

    Parts in `without` are left out. Empty if there are no weights to read, as for a fake model.
    """
    digest = hashlib.sha256(json.dumps(dict(checkpoint.family.configs), sort_keys=True).encode())
    try:
        for path in sorted((checkpoint.folder / "tokenizer").glob("*")):
            digest.update(path.name.encode() + path.read_bytes() if path.is_file() else b"")
        for part in (part for part in checkpoint.family.parts if part.name not in without):
            for file in checkpoint.weights(part.name):
                _add(digest, file)
    except (CheckpointError, OSError):
        return ""
    return digest.hexdigest()


def model_name(folder: Path) -> str:
    """A readable name without local paths: a hub id, "demo/model", or the name of a single file.

    The parent's name is left out if it is a home folder.
    """
    folder = folder.resolve()
    if folder.is_file():
        return folder.name
    for parent in folder.parents:
        if parent.name.startswith("models--") and folder.parent.name == "snapshots":
            return parent.name.removeprefix("models--").replace("--", "/")
    homes = (Path("/"), Path("/home"), Path("/Users"))
    private = folder.parent in homes or folder.parent.parent in homes
    return folder.name if private else f"{folder.parent.name}/{folder.name}"


def _add(digest: hashlib._Hash, file: Path) -> None:
    header = read_header(file)
    with file.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        for name, tensor in sorted(header.items()):
            begin, end = (start + offset for offset in tensor["data_offsets"])
            digest.update(f"{name} {tensor['dtype']} {tensor['shape']} ".encode())
            for position in (begin, max(begin, end - PIECE)):
                stream.seek(position)
                digest.update(stream.read(min(PIECE, end - begin)))
