"""Detect changes of files that are read again while a model is open.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import CheckpointError

State = tuple[int, int, int, int]
"""Size, times of modification and of change, and inode."""


@dataclass(frozen=True)
class OpenedFiles:
    """The state of files at one moment.

    Attributes:
        states: path -> its state.
    """

    states: dict[Path, State]

    @classmethod
    def now(cls, paths: Iterable[Path]) -> OpenedFiles:
        """Record the current state. Raises OSError if a file does not exist."""
        return cls({path: _state(path) for path in paths})

    def check(self) -> None:
        """Raise CheckpointError if a file is gone or was changed."""
        for path, state in self.states.items():
            try:
                same = _state(path) == state
            except OSError:
                same = False
            if not same:
                raise CheckpointError(
                    f"{path} was changed or deleted after the model was opened, and it is read "
                    "again when a text is encoded (offload_text); open the model again."
                )


def _state(path: Path) -> State:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
