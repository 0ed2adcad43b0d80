"""The sources of a checkpoint folder in the cache: single files, another VAE, embeddings.

They are stored in the folder's `diffedit_origin.json`. Standard library only.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from engine.errors import CheckpointError

ORIGIN_NAME = "diffedit_origin.json"
Role = Literal["checkpoint", "base", "vae", "embedding"]


@dataclass(frozen=True)
class SourceFile:
    """One file or folder that a checkpoint was made from.

    Attributes:
        role: "checkpoint" (the single file), "base" (has what that file lacks), "vae" or
            "embedding".
        path: path of the file or folder at that time.
        sha256: digest of the file; for a folder, see `engine.fingerprint`.
    """

    role: Role
    path: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return Path(self.path).name


@dataclass(frozen=True)
class Origin:
    """The sources of a checkpoint folder in the cache.

    Attributes:
        model: the model as the user specified it: a path, or a hub id.
        files: every file that was read, in order of use.
    """

    model: str
    files: tuple[SourceFile, ...]

    @classmethod
    def read(cls, folder: Path) -> Origin | None:
        """Read the origin of a folder; None if it has none. Raises CheckpointError."""
        path = folder / ORIGIN_NAME
        try:
            data = json.loads(path.read_text())
            files = tuple(SourceFile(**file) for file in data["files"])
            return cls(str(data["model"]), files)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{path} is damaged ({type(error).__name__}); delete the folder {folder}, which "
                "will be made again."
            ) from None

    def write(self, folder: Path) -> None:
        """Write `diffedit_origin.json`."""
        (folder / ORIGIN_NAME).write_text(json.dumps(asdict(self), indent=1) + "\n")

    def of(self, role: Role) -> tuple[SourceFile, ...]:
        """The files of one role."""
        return tuple(file for file in self.files if file.role == role)
