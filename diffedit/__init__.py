"""DiffEdit image editing: find the region that a prompt changes, and repaint only that region.

    from diffedit import DiffEditPipeline
    pipe = DiffEditPipeline.from_pretrained("path/or/hub-id")
    result = pipe("table.jpg", "a green cup", source_prompt="a red cup")
    result.image.save("edited.png")

Importing this package is fast: PyTorch is imported on first use of `DiffEditPipeline`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from diffedit.own_packages import claim, warn_of_shadow

claim("engine")
warn_of_shadow("export")

from diffedit.request import EditRequest, InvalidRequest
from diffedit.result import EditResult, Stats
from diffedit.several_edits import Edit
from engine.errors import (
    BuildError,
    Cancelled,
    CheckpointError,
    DiffEditError,
    EngineMismatch,
    EngineUnavailable,
    NonFiniteError,
    ResourceError,
)

if TYPE_CHECKING:
    from diffedit.imaging.restore import RestoredImage, restore
    from diffedit.pipeline import DiffEditPipeline

__version__ = "0.2.0"

__all__ = [
    "BuildError",
    "Cancelled",
    "CheckpointError",
    "DiffEditError",
    "DiffEditPipeline",
    "Edit",
    "EditRequest",
    "EditResult",
    "EngineMismatch",
    "EngineUnavailable",
    "InvalidRequest",
    "NonFiniteError",
    "ResourceError",
    "RestoredImage",
    "Stats",
    "restore",
]
_LAZY = {
    "DiffEditPipeline": "diffedit.pipeline",
    "RestoredImage": "diffedit.imaging.restore",
    "restore": "diffedit.imaging.restore",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'diffedit' has no attribute {name!r}")
