"""Types of the build fixtures, and checks of an output folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.manifest import Manifest
from export.build import Event

Run = Callable[..., tuple[Manifest, list[Event]]]
Made = Callable[[list[Event]], list[tuple[str, str]]]
Change = Callable[..., None]
Copy = Callable[[Path], Path]
Only = Callable[..., None]
RTX: dict[str, Any] = {"target": "tensorrt-rtx"}


def stamps(out: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in out.iterdir()}


def intact(manifest: Manifest, out: Path) -> None:
    """Every entry's files are as listed, and nothing else lies there."""
    for entry in manifest.entries:
        entry.verified(out)
    listed = {f.name for e in manifest.entries for f in e.files}
    assert {p.name for p in out.iterdir()} == listed | {"manifest.json", ".lock"}
    assert Manifest.load(out) == manifest
