"""Check a single file by its header. Nothing is loaded, converted or written."""

from __future__ import annotations

from pathlib import Path

from diffedit.doctor.check import Check
from engine.derived.single_file import bytes_needed, missing_parts
from engine.errors import CheckpointError
from engine.models.single_files import identify
from engine.other_models import not_a_folder
from engine.safetensors_header import read_header, read_metadata

NAME = "model"


def check_single_file(path: Path) -> Check:
    """Report what kind of model a single file contains."""
    try:
        return Check(NAME, "ok", _described(path))
    except CheckpointError as error:
        return Check(NAME, "problem", str(error), "docs/models.md says which models there are")


def _described(path: Path) -> str:
    if path.suffix.lower() != ".safetensors":
        raise CheckpointError(not_a_folder(path))
    header = read_header(path)
    try:
        single = identify(header, read_metadata(path))
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}.") from None
    parts, missing = ", ".join(sorted(single.parts)), missing_parts(single)
    base = f", without its {' and '.join(missing)}: pass --base with them" if missing else ""
    return (
        f"{path.name} is {single.title} in a single file ({parts}){base}; it is "
        "converted into the cache at its first use, which needs about "
        f"{bytes_needed(header) / 1e9:.1f} GB there"
    )
