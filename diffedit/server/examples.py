"""`examples/examples.json` of a checkpoint's folder: pictures to try, and what the model knows.

The page shows them to people who open it for the first time. A folder without the file has none.
"""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

FILE = "examples/examples.json"
MAX_BYTES = 64 * 1024
"""Largest picture; all of them are part of the answer of GET /v1/models."""
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}


def read_examples(folder: Path) -> dict[str, Any]:
    """What the file of a checkpoint's folder says.

    Returns: {"about": a sentence about what the model knows, "examples": a list of {"image": data
    in base64, "type", "name", "source_prompt", "prompt"}}; empty if there is no file. A file that
    cannot be used is logged.
    """
    path = folder / FILE
    nothing: dict[str, Any] = {"about": "", "examples": []}
    if not path.is_file():
        return nothing
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            "about": str(content["about"]),
            "examples": [_example(path.parent, example) for example in content["examples"]],
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be used, so the page shows no examples: %r", FILE, error)
        return nothing


def _example(folder: Path, example: dict[str, Any]) -> dict[str, str]:
    name = str(example["image"])
    if Path(name).name != name:
        raise ValueError(f"{name!r} is not the name of a file in {folder.name}")
    data = (folder / name).read_bytes()
    if len(data) > MAX_BYTES:
        raise ValueError(f"{name} has {len(data)} bytes, more than {MAX_BYTES}")
    return {
        "image": base64.b64encode(data).decode(),
        "type": TYPES[Path(name).suffix],
        "name": name,
        "source_prompt": str(example["source_prompt"]),
        "prompt": str(example["prompt"]),
    }
