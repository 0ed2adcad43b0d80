"""Read a checkpoint's JSON files, and single values of its configs. Standard library only."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError

REQUIRED = object()
"""Marks a value that a config must have."""


def read_index(folder: Path) -> dict[str, Any]:
    """`model_index.json`. Raises CheckpointError if it is missing or damaged."""
    return read_json(folder / "model_index.json", "this is not a diffusers checkpoint")


def read_configs(folder: Path, parts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Part name -> config, and the scheduler's. Raises CheckpointError if one is missing."""
    names = dict.fromkeys(parts, "config.json") | {"scheduler": "scheduler_config.json"}
    return {
        part: read_json(folder / part / name, f"the checkpoint's {part} is missing")
        for part, name in names.items()
    }


def read_json(path: Path, otherwise: str) -> dict[str, Any]:
    """A JSON object. Infinity is allowed, since schedulers' configs contain it; NaN is not.

    Raises CheckpointError, whose message ends with `otherwise` if there is no such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text, parse_constant=_constant) if text.strip() else None
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: {otherwise}.") from None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}); check its permissions and the disk."
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON ({error}); copy or download it again."
        ) from None
    if not isinstance(data, dict):
        what = "is empty" if data is None else "is not a JSON object"
        raise CheckpointError(f"{path} {what}; copy or download it again.")
    return data


def _constant(name: str) -> float:
    if name == "NaN":
        raise ValueError("it contains NaN")
    return float(name)


def whole(config: Mapping[str, Any], key: str, default: Any = REQUIRED) -> int:
    """A positive whole number of a config. Raises ValueError with the key in its message."""
    value = _value(config, key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} is {value!r}, but must be a whole number above 0")
    return value


def number(config: Mapping[str, Any], key: str, default: Any = REQUIRED) -> float:
    """A finite number of a config. Raises ValueError with the key in its message."""
    value = _value(config, key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key} is {value!r}, but must be a finite number")
    return float(value)


def _value(config: Mapping[str, Any], key: str, default: Any) -> Any:
    value = config.get(key, default)
    if value is REQUIRED:
        raise ValueError(f"{key} is missing")
    return value
