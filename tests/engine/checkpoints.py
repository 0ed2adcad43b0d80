"""Changes to a copy of a checkpoint, for tests of what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

Change = Callable[[Path], object]
Weights = dict[str, Tensor]


def config(part: str, **values: Any) -> Change:
    """Set values of a part's config; "index" and "scheduler" name those files."""
    names = {"index": "model_index.json", "scheduler": "scheduler/scheduler_config.json"}

    def change(folder: Path) -> None:
        path = folder / names.get(part, f"{part}/config.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def without(part: str, key: str) -> Change:
    """Remove a value of a part's config."""

    def change(folder: Path) -> None:
        path = folder / part / "config.json"
        data = json.loads(path.read_text())
        del data[key]
        path.write_text(json.dumps(data))

    return change


def weight_file(folder: Path, part: str) -> Path:
    """The only weight file of a part."""
    (file,) = (folder / part).glob("*.safetensors")
    return file


def weights(part: str, edit: Callable[[Weights], Weights]) -> Change:
    """Rewrite a part's weight file."""

    def change(folder: Path) -> None:
        file = weight_file(folder, part)
        save_file(edit(load_file(file)), file, metadata={"format": "pt"})

    return change


def data(path: str, content: bytes | str) -> Change:
    """Overwrite a file."""
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / path).write_bytes(raw)


def both(*changes: Change) -> Change:
    """Several changes, one after the other."""
    return lambda folder: [change(folder) for change in changes]
