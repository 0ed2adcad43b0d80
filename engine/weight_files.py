"""Find the safetensors files of a part's weights: one file or shards, of one variant.

The names are those of diffusers and transformers. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import CheckpointError
from engine.models import Part
from engine.models.reading import read_json
from engine.safetensors_header import Header, read_header

BASES = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""Library -> prefix of the names of its weight files."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class WeightFiles:
    """The files of one part.

    Attributes:
        variant: the variant of these files; None if the part does not have the requested one.
        files: the files in the order of their names.
        index: the index of the shards; None for a single file.
    """

    variant: str | None
    files: tuple[Path, ...]
    index: Path | None = None

    @classmethod
    def find(cls, folder: Path, part: Part, variant: str | None) -> WeightFiles | None:
        """The files of exactly this variant in a part's folder, or None.

        If a folder has both, diffusers prefers shards and transformers the single file.

        Raises CheckpointError if an index is damaged or a shard is missing.
        """
        base, dot = BASES[part.package], f".{variant}" if variant else ""
        single = folder / f"{base}{dot}.safetensors"
        index = folder / f"{base}.safetensors.index{dot}.json"
        if index.is_file() and (part.package == "diffusers" or not single.is_file()):
            return cls(variant, _shards(folder, index), index)
        for path in (index, single):
            if path.is_symlink() and not path.exists():
                raise CheckpointError(f"{path} is a broken link; download the checkpoint again.")
        return cls(variant, (single,)) if single.is_file() else None

    def headers(self) -> Header:
        """The merged headers of all files.

        Raises CheckpointError if a file is damaged, or the index does not fit the shards.
        """
        merged: Header = {}
        for file in self.files:
            header = read_header(file)
            if twice := sorted(merged.keys() & header.keys()):
                raise CheckpointError(
                    f"{file} has {twice[0]}, which another shard has too; copy or download "
                    "the shards again."
                )
            merged |= header
        if self.index is not None:
            listed = read_json(self.index, "the index is missing")["weight_map"]
            if other := sorted(listed.keys() ^ merged.keys()):
                raise CheckpointError(
                    f"{self.index} does not fit its shards: {other[0]} is in only one of them; "
                    "copy or download the index and the shards again."
                )
        return merged


def _shards(folder: Path, index: Path) -> tuple[Path, ...]:
    listed = read_json(index, "the index is missing").get("weight_map")
    names = set(listed.values()) if isinstance(listed, dict) else set()
    if not names or not all(isinstance(n, str) for n in names):
        raise CheckpointError(f"{index} lists no shards; copy or download it again.")
    for name in sorted(names):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} lists {name!r}, which is not the name of a safetensors file in its own "
                "folder; no other file is read."
            )
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder / name} is missing, but {index.name} lists it; copy or download it."
            )
    return tuple(folder / name for name in sorted(names))


def variants(part: Part, names: Iterable[str]) -> tuple[str | None, ...]:
    """The variants among the names of the files of a part; None is the plain one."""
    base = BASES[part.package]
    index = f"{base}.safetensors.index"
    found: set[str | None] = set()
    for name in names:
        if name.startswith(index) and name.endswith(".json"):
            found.add(name.removeprefix(index).removesuffix(".json").strip(".") or None)
        elif name.startswith(f"{base}.") and name.endswith(".safetensors") and "-of-" not in name:
            found.add(name.removeprefix(base).removesuffix(".safetensors").strip(".") or None)
    return tuple(sorted(found, key=str))


def missing_weights(
    folder: Path | str, part: Part, variant: str | None, names: Iterable[str]
) -> CheckpointError:
    """The error for a part without weights of the variant and without plain ones.

    Args:
        folder: the part's folder, for the message.
        names: the names of the files that are there.
    """
    names = sorted(names)
    others = [v for v in variants(part, names) if v not in (None, variant)]
    if others:
        asked = f"no {variant} weights and no plain ones" if variant else "no plain weights"
        named = " and ".join(str(name) for name in others)
        return CheckpointError(
            f"{folder} has {asked}, but the variant {named}; pass --variant {others[0]} "
            f"(variant={others[0]!r} in Python)."
        )
    if any(name.endswith(PICKLES) for name in names):
        return CheckpointError(
            f"{folder} has only pickle weights (.bin), which can run code when loaded; convert "
            "them to safetensors first."
        )
    there = ", ".join(name for name in names if name.endswith(".safetensors"))
    hint = f" (it has {there[:200]})" if there else ""
    asked = f"{BASES[part.package]}.{variant + '.' if variant else ''}safetensors"
    return CheckpointError(f"{folder} has no {asked}{hint}; copy or download the weights again.")


def patterns(part: Part, variant: str | None) -> list[str]:
    """The patterns of a part's weight files in a repository."""
    base = f"{part.name}/{BASES[part.package]}"
    if variant is None:
        return [f"{base}.safetensors", f"{base}-*-of-*.safetensors"]
    return [
        f"{base}.{variant}.safetensors",
        f"{base}.{variant}-*-of-*.safetensors",
        f"{base}-*-of-*.{variant}.safetensors",
    ]
