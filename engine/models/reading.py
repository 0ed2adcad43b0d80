"""Read a checkpoint's JSON files. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError


def read_index(folder: Path) -> dict[str, Any]:
    """`model_index.json`. Raises CheckpointError if it is missing or damaged."""
    return _read_json(folder / "model_index.json", "this is not a diffusers checkpoint")


def read_configs(folder: Path, parts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Part name -> config, and the scheduler's. Raises CheckpointError if one is missing."""
    names = dict.fromkeys(parts, "config.json") | {"scheduler": "scheduler_config.json"}
    return {
        part: _read_json(folder / part / name, f"the checkpoint's {part} is missing")
        for part, name in names.items()
    }


def _read_json(path: Path, otherwise: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: {otherwise}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): {otherwise}.") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is not a JSON object: {otherwise}.")
    return data
