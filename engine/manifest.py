"""`manifest.json`: the contents of an engine folder, their origin, checks and digests.

A compiled plan is executable code, so every file is compared with its sha256 before a runtime reads
it. Export writes the manifest; it is the only interface between export and runtime. Standard
library only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from engine.digest import file_digest
from engine.errors import EngineMismatch
from engine.model_identity import FusedFile as FusedFile
from engine.model_identity import ModelIdentity as ModelIdentity
from engine.model_identity import read_identity
from engine.netspec import NetSpec

MANIFEST_NAME = "manifest.json"
SCHEMA = 2

Format = Literal["onnx", "tensorrt", "tensorrt-rtx"]
Status = Literal["passed", "too imprecise", "failed", "not run"]


@dataclass(frozen=True)
class File:
    """One file of an entry.

    Attributes:
        name: a plain name inside the manifest's folder.
        sha256: of its contents, in hexadecimal.
        bytes: its size.
    """

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Toolchain:
    """The tools that built an entry, and its target device.

    Attributes:
        product: "torch.onnx", "tensorrt" or "tensorrt-rtx".
        version: version of the product.
        weights: sha256 of the weights, including everything fused into them.
        opset: ONNX opset of an ONNX file.
        gpu: the GPU for which a `tensorrt` engine was built.
        compute_capabilities: such as ("8.9",); empty means the product's portable default.
        flags: builder flags.
        onnx: sha256 of the ONNX files that an engine was compiled from.
    """

    product: str
    version: str
    weights: str
    opset: int | None = None
    gpu: str | None = None
    compute_capabilities: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    onnx: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """The verification of one profile on one backend.

    Attributes:
        backend: "torch", "onnxruntime", "tensorrt" or "tensorrt-rtx".
        batch: rows in the call.
        status: "passed"; "too imprecise" (or not finite); "failed" (the runtime raised an error);
            "not run".
        max_abs: the largest absolute error.
        relative: ||output - reference|| / ||reference||.
        reason: why it did not pass; empty if it did.
    """

    backend: str
    batch: int
    status: Status
    max_abs: float | None = None
    relative: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Entry:
    """One compiled network in one format.

    Attributes:
        format: "onnx", "tensorrt" or "tensorrt-rtx".
        spec: names, shapes, picture size, profiles, precision.
        key: sha256 of everything that the files were made from; an equal key needs no rebuild.
        files: the main file first (`.onnx` before `.onnx.data`).
        built_with: product, version, and for engines the GPU, compute capabilities and flags.
        seconds: duration of the build.
        peak_bytes: its peak memory.
        checks: the verification, one for each backend and profile.
        notes: sentences for the user, such as a fall-back to fp32.
    """

    format: Format
    spec: NetSpec
    key: str
    files: tuple[File, ...]
    built_with: Toolchain
    seconds: float = 0.0
    peak_bytes: int = 0
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """The size of all its files."""
        return sum(file.bytes for file in self.files)

    @property
    def own_checks(self) -> tuple[Check, ...]:
        """The checks of the compiled file; the others are checks of PyTorch in its precision."""
        return tuple(check for check in self.checks if check.backend != "torch")

    def verified(self, folder: Path) -> Path:
        """Compare the size and sha256 of every file. Returns the path of the main file.

        Raises EngineMismatch if a file is missing, truncated or changed.
        """
        for file in self.files:
            path = folder / file.name
            if Path(file.name).name != file.name or path.is_symlink():
                raise EngineMismatch(
                    f"{file.name!r} in {folder / MANIFEST_NAME} is not a plain file name; delete "
                    "the folder and run the build again."
                )
            try:
                size = path.stat().st_size
            except OSError:
                raise EngineMismatch(
                    f"{path} is missing; run the build again, which builds only missing files."
                ) from None
            if size != file.bytes or file_digest(path, trust_cache=False) != file.sha256:
                what = "is truncated" if size < file.bytes else "was changed"
                raise EngineMismatch(
                    f"{path} {what} since it was built (its sha256 differs); delete it and run the "
                    "build again."
                )
        return folder / self.files[0].name


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`.

    Attributes:
        model: the model; None in a temporary folder that holds single networks.
        entries: every compiled network.
        schema: version of the file format; other versions are refused.
        extra: further information, which no code reads.
    """

    model: ModelIdentity | None
    entries: tuple[Entry, ...] = ()
    schema: int = SCHEMA
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def fused(self) -> str:
        """See `ModelIdentity.fused`."""
        return self.model.fused if self.model else ""

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Read and check `folder/manifest.json`. Raises EngineMismatch."""
        path = Path(folder) / MANIFEST_NAME
        try:
            data = json.loads(path.read_text())
        except FileNotFoundError:
            raise EngineMismatch(
                f"{folder} has no engines ({MANIFEST_NAME} is missing); "
                f"build them with: diffedit-trt build MODEL --out {folder}"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise EngineMismatch(f"{path} cannot be read ({error}); build again.") from None
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise EngineMismatch(_other_schema(path, data))
        try:
            model = None if data["model"] is None else read_identity(data["model"])
            entries = tuple(_entry(e) for e in data["entries"])
            return cls(model, entries, SCHEMA, dict(data.get("extra", {})))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise EngineMismatch(f"{path} is damaged ({error!r}); build again.") from None

    @property
    def source(self) -> str:
        """The model's folder or hub id, for messages."""
        return self.model.source if self.model else "an unknown model"

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
        """Return a copy in which `entry` replaces the one of its network, size and format."""
        kept = [
            e for e in self.entries if (e.format, e.spec.kind) != (entry.format, entry.spec.kind)
        ]
        return replace(self, entries=(*kept, entry))


def _other_schema(path: Path, data: object) -> str:
    """The error message for a manifest of another version, with the command to rebuild it."""
    schema = data.get("schema") if isinstance(data, dict) else None
    model = data.get("model") if isinstance(data, dict) else None
    source = model.get("source", "MODEL") if isinstance(model, dict) else "MODEL"
    older = isinstance(schema, int) and schema < SCHEMA
    age = "an older" if older else "another"
    return (
        f"{path} was written by {age} version of this program (schema {schema!r}, this version "
        f"reads {SCHEMA}); build again with: diffedit-trt build {source} --out {path.parent}"
    )


def _entry(data: Mapping[str, Any]) -> Entry:
    if data["format"] not in get_args(Format):
        raise ValueError(f"unknown format {data['format']!r}")
    return Entry(
        format=data["format"],
        spec=NetSpec.from_json(data["spec"]),
        key=data["key"],
        files=tuple(File(f["name"], f["sha256"], int(f["bytes"])) for f in data["files"]),
        built_with=_toolchain(data["built_with"]),
        seconds=float(data["seconds"]),
        peak_bytes=int(data["peak_bytes"]),
        checks=tuple(_check(c) for c in data["checks"]),
        notes=tuple(data["notes"]),
    )


def _toolchain(data: Mapping[str, Any]) -> Toolchain:
    lists = {name: tuple(data[name]) for name in ("compute_capabilities", "flags", "onnx")}
    return Toolchain(**{**data, **lists})


def _check(data: Mapping[str, Any]) -> Check:
    if data["status"] not in get_args(Status):
        raise ValueError(f"unknown status {data['status']!r}")
    return Check(**data)
