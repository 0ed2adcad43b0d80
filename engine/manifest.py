"""`manifest.json`: what lies in an engine folder, where it came from, and its digests.

A compiled plan is executable code, so nothing is handed to a runtime before its bytes were
compared with the sha256 that stands here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from engine.errors import EngineMismatch
from engine.netspec import NetSpec

MANIFEST_NAME = "manifest.json"
SCHEMA = 1

Format = Literal["onnx", "tensorrt", "tensorrt-rtx"]


@dataclass(frozen=True)
class File:
    """One file of an entry: a plain name inside the manifest's folder."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Entry:
    """One compiled network in one format.

    Attributes:
        format: "onnx", "tensorrt" or "tensorrt-rtx".
        spec: names, shapes, profiles, precision.
        key: sha256 over everything that went in; the same key means nothing to rebuild.
        files: the main file first (`.onnx` before `.onnx.data`).
        built_with: product, version, and for engines the GPU, compute capability and flags.
        seconds, peak_bytes: what the build took.
        checks: rows of `verify`: backend, batch, max_abs, relative, ok.
        notes: sentences a user should see, such as a fall-back to fp32.
    """

    format: Format
    spec: NetSpec
    key: str
    files: tuple[File, ...]
    built_with: dict[str, Any]
    seconds: float = 0.0
    peak_bytes: int = 0
    checks: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    def verified(self, folder: Path) -> Path:
        """The path of the main file, after every file's size and sha256 were checked."""
        for file in self.files:
            path = folder / file.name
            if Path(file.name).name != file.name or path.is_symlink():
                raise EngineMismatch(f"{file.name!r} in {folder / MANIFEST_NAME} is no plain name.")
            try:
                size = path.stat().st_size
            except OSError:
                raise EngineMismatch(
                    f"{path} is missing; run the build again, it makes only what is not there."
                ) from None
            if size != file.bytes or file_digest(path, trust_cache=False) != file.sha256:
                what = "is truncated" if size < file.bytes else "was changed"
                raise EngineMismatch(
                    f"{path} {what} since it was built (sha256 differs); delete it and run the "
                    "build again."
                )
        return folder / self.files[0].name


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`.

    Attributes:
        model: "source" (absolute folder or hub id), "digests" (part -> sha256), "lora" (list).
        entries: every compiled network.
    """

    model: dict[str, Any]
    entries: tuple[Entry, ...] = ()
    schema: int = SCHEMA
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Read and check `folder/manifest.json`; raises EngineMismatch with one sentence."""
        path = Path(folder) / MANIFEST_NAME
        try:
            data = json.loads(path.read_text())
        except FileNotFoundError:
            raise EngineMismatch(
                f"{folder} holds no engines ({MANIFEST_NAME} is missing); "
                f"build them with: diffedit-trt build MODEL --out {folder}"
            ) from None
        except (OSError, ValueError) as error:
            raise EngineMismatch(f"{path} cannot be read ({error}); build again.") from None
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise EngineMismatch(
                f"{path} has another format than this version's (schema {SCHEMA}); build again."
            )
        try:
            entries = tuple(_entry(e) for e in data["entries"])
            return cls(dict(data["model"]), entries, SCHEMA, dict(data.get("extra", {})))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineMismatch(f"{path} is damaged ({error!r}); build again.") from None

    def save(self, folder: str | Path) -> None:
        """Write atomically: a reader sees the old file or the new one."""
        path = Path(folder) / MANIFEST_NAME
        temporary = path.with_name(f".{MANIFEST_NAME}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def with_entry(self, entry: Entry) -> Manifest:
        """A copy in which `entry` stands, in place of one of its network, size and format."""
        kept = [
            e for e in self.entries if (e.format, e.spec.kind) != (entry.format, entry.spec.kind)
        ]
        return replace(self, entries=(*kept, entry))


def _entry(data: Mapping[str, Any]) -> Entry:
    return Entry(
        format=data["format"],
        spec=NetSpec.from_json(data["spec"]),
        key=data["key"],
        files=tuple(File(f["name"], f["sha256"], int(f["bytes"])) for f in data["files"]),
        built_with=dict(data["built_with"]),
        seconds=float(data["seconds"]),
        peak_bytes=int(data["peak_bytes"]),
        checks=tuple(data["checks"]),
        notes=tuple(data["notes"]),
    )


_digests: dict[tuple[str, int, int], str] = {}


def file_digest(path: Path, *, trust_cache: bool = True) -> str:
    """sha256 of a file. Within one process a checkpoint's file is read once while its size and
    modification time stay the same; compiled files are always read (`trust_cache=False`)."""
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if not (trust_cache and key in _digests):
        with path.open("rb") as file:
            _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[key]
