"""The model that an engine folder was built from: its parts and additions.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.origin import SourceFile


@dataclass(frozen=True)
class FusedFile:
    """A LoRA or a textual inversion that is part of the weights.

    Attributes:
        path: path of the file when the engines were built.
        sha256: of the file.
        scale: the factor of a LoRA's change; 1 for a textual inversion.
    """

    path: str
    sha256: str
    scale: float = 1.0


@dataclass(frozen=True)
class ModelIdentity:
    """The model that an engine folder was built from.

    Attributes:
        source: an absolute folder or single file, or a hub id.
        family: the name of its model family.
        networks: the names of all its networks; a size is complete if it has all of them.
        digests: part -> sha256 of its config and weights.
        loras: the LoRA files that are fused into the weights.
        embeddings: the files of the textual inversions that are added.
        made_from: the single file and others that the model was made from; empty for a folder.
        clip_skip: number of last CLIP layers that its text networks skip.
    """

    source: str
    family: str
    networks: tuple[str, ...]
    digests: Mapping[str, str]
    loras: tuple[FusedFile, ...] = ()
    embeddings: tuple[FusedFile, ...] = ()
    made_from: tuple[SourceFile, ...] = ()
    clip_skip: int = 0

    @property
    def added(self) -> tuple[tuple[str, str], ...]:
        """Another VAE, embeddings and clip_skip, for comparison; empty if there are none."""
        files = [(f.role, f.sha256) for f in self.made_from if f.role in ("vae", "embedding")]
        skip = [("clip_skip", str(self.clip_skip))] if self.clip_skip else []
        return tuple(sorted([*files, *skip]))

    @property
    def additions(self) -> str:
        """Readable: " with the VAE v.safetensors and clip_skip 1", or "" if there are none."""
        files = [f for f in self.made_from if f.role in ("vae", "embedding")]
        titles = {"vae": "VAE", "embedding": "embedding"}
        named = [f"the {titles[f.role]} {f.name}" for f in files]
        named += [f"clip_skip {self.clip_skip}"] if self.clip_skip else []
        return f" with {' and '.join(named)}" if named else ""

    @property
    def fused(self) -> str:
        """Readable: "the LoRA style.safetensors at 0.8", or "" without LoRAs and embeddings."""
        loras = [f"the LoRA {Path(file.path).name} at {file.scale:g}" for file in self.loras]
        return " and ".join(
            [*loras, *(f"the embedding {Path(f.path).name}" for f in self.embeddings)]
        )


def read_identity(data: Mapping[str, Any]) -> ModelIdentity:
    """Read the result of `dataclasses.asdict`. Raises KeyError, TypeError or ValueError."""

    def fused(name: str) -> tuple[FusedFile, ...]:
        return tuple(FusedFile(f["path"], f["sha256"], float(f["scale"])) for f in data[name])

    return ModelIdentity(
        source=str(data["source"]),
        family=str(data["family"]),
        networks=tuple(data["networks"]),
        digests=dict(data["digests"]),
        loras=fused("loras"),
        embeddings=fused("embeddings"),
        made_from=tuple(SourceFile(**file) for file in data.get("made_from", ())),
        clip_skip=int(data.get("clip_skip", 0)),
    )
