"""An opened engine folder: its entries, whether they fit the model, and what is missing.

The ONNX Runtime and TensorRT backends share it. It reads the manifest and imports no runtime. Every
mismatch raises EngineMismatch with the command to run.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.backends import Details
from engine.errors import EngineMismatch
from engine.manifest import Entry, Format, Manifest
from engine.netspec import NetSpec, Size, TensorSpec, format_size


@dataclass(frozen=True)
class EngineFolder:
    """The entries of one folder that one backend can use.

    Attributes:
        path: the folder.
        manifest: its manifest.
        formats: the formats that the backend runs; `entries` has these only.
        pin: the only profile to run in, or None.
    """

    path: Path
    manifest: Manifest
    formats: tuple[Format, ...]
    pin: int | None = None

    @classmethod
    def open(
        cls,
        path: str | Path,
        formats: Sequence[Format],
        *,
        digests: Mapping[str, str] | None = None,
        pin_batch_size: int | None = None,
    ) -> EngineFolder:
        """Read the manifest and compare it with the checkpoint in use.

        Args:
            path: the folder that `diffedit-trt build --out` wrote.
            formats: the wanted formats, the preferred one first.
            digests: part -> sha256 of the checkpoint in use; None skips the comparison.
            pin_batch_size: the only profile to run in; see `NetSpec.pinned`.

        Raises:
            EngineMismatch: the manifest is missing, the model is another one, or there is no entry
                in these formats or no such profile.
        """
        path = Path(path)
        folder = cls(path, Manifest.load(path), tuple(formats), pin_batch_size)
        check_model(path, folder.manifest, digests or {})
        if not folder.entries:
            present = sorted({entry.format for entry in folder.manifest.entries})
            raise EngineMismatch(
                f"{path} has {' and '.join(present) or 'no'} files, but no "
                f"{' or '.join(formats)} files; build them with: {folder.command()}"
            )
        for entry in folder.entries:
            folder._pinned(entry.spec)
        return folder

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries in the backend's formats."""
        return tuple(e for e in self.manifest.entries if e.format in self.formats)

    @property
    def networks(self) -> tuple[str, ...]:
        """The names of all networks that an edit needs."""
        return self.manifest.model.networks if self.manifest.model else ()

    @property
    def sizes(self) -> tuple[Size, ...]:
        """(height, width) of every picture size that has all networks, ascending."""
        if not self.networks:
            return ()
        built = {(entry.spec.name, entry.spec.size) for entry in self.entries}
        sizes = {size for _, size in built if size is not None}
        return tuple(
            size
            for size in sorted(sizes)
            if all((name, size) in built or (name, None) in built for name in self.networks)
        )

    @property
    def precisions(self) -> str:
        """Readable: "fp16", or "fp16 with vae_decode in fp32"."""
        main = next(
            (e.spec.precision for e in self.entries if e.spec.role == "denoiser"),
            self.entries[0].spec.precision,
        )
        by_name = {entry.spec.name: entry.spec.precision for entry in self.entries}
        others = [f"{name} in {other}" for name, other in by_name.items() if other != main]
        return f"{main} with {', '.join(others)}" if others else str(main)

    @property
    def details(self) -> Details:
        """The details of a backend that runs these entries."""
        model = self.manifest.model
        loras, embeddings = (model.loras, model.embeddings) if model else ((), ())
        return Details(self.precisions, loras=loras, embeddings=embeddings)

    def only(self, wanted: Format) -> EngineFolder:
        """The same folder with the entries of one format."""
        return replace(self, formats=(wanted,))

    def require_complete(self) -> None:
        """Raise EngineMismatch unless at least one size has all networks."""
        if not self.sizes:
            present = ", ".join(sorted({entry.spec.name for entry in self.entries}))
            raise EngineMismatch(
                f"The build in {self.path} is not finished: of {len(self.networks)} networks it "
                f"has only {present} ({' or '.join(self.formats)}); finish it with: "
                f"{self.command()}"
            )

    def entry(self, net: str, shape: tuple[int, ...]) -> Entry:
        """Return the entry of `net` for first inputs of `shape`, with pinned batch sizes if set.

        Raises EngineMismatch with what the folder has and how to build the rest.
        """
        for entry in self.entries:
            if entry.spec.kind == (net, tuple(shape)):
                return replace(entry, spec=self._pinned(entry.spec))
        raise EngineMismatch(self._missing(net, tuple(shape)))

    def command(self, size: Size | None = None) -> str:
        """The command that builds what is missing."""
        parts = ["diffedit-trt build MODEL --out", shlex.quote(str(self.path))]
        if size:
            parts.append(f"--size {format_size(size)}")
        return " ".join([*parts, "--target", self.formats[0]])

    def _pinned(self, spec: NetSpec) -> NetSpec:
        if self.pin is None:
            return spec
        try:
            return spec.pinned(self.pin)
        except ValueError:
            raise EngineMismatch(
                f"The {spec.name} in {self.path} has no profile for batches of {self.pin}, only "
                f"for {', '.join(map(str, spec.batch_sizes))}; pin one of these, or build it with: "
                f"{self.command()} --batches {self.pin}"
            ) from None

    def _missing(self, net: str, shape: tuple[int, ...]) -> str:
        if self.networks and net not in self.networks:
            return f"There is no network named {net!r}; there are {', '.join(self.networks)}."
        specs = [entry.spec for entry in self.entries if entry.spec.name == net]
        shapes = [spec.inputs[0].shape for spec in specs]
        built = [(spec, spec.inputs[0]) for spec in specs]
        if not specs:  # any tensor of that form tells the size
            all_specs = [entry.spec for entry in self.entries]
            built = [(spec, t) for spec in all_specs for t in (spec.inputs[0], *spec.outputs)]
        size = next((s for spec, tensor in built if (s := _size_for(spec, tensor, shape))), None)
        if specs and size is None:
            return (
                f"The {net} in {self.path} takes rows of {' or '.join(map(str, shapes))}, not "
                f"{shape}: they belong to another kind of model; build again from this one."
            )
        for_size = f" for {format_size(size)} pixels" if size else ""
        return (
            f"{self.path} has no {net}{for_size} ({' or '.join(self.formats)}); "
            f"{self._present()}; build it with: {self.command(size)}"
        )

    def _present(self) -> str:
        if self.sizes:
            return f"complete sizes: {', '.join(map(format_size, self.sizes))}"
        names = sorted({entry.spec.name for entry in self.entries})
        return f"the build is not finished, it has only {', '.join(names)}"


def check_model(path: Path, manifest: Manifest, digests: Mapping[str, str]) -> None:
    """Compare the model that the engines were built from with the one in use.

    Args:
        path: the engine folder.
        manifest: its manifest.
        digests: part -> sha256 of the checkpoint in use; empty skips the comparison.

    Raises EngineMismatch if a part differs.
    """
    built = manifest.model.digests if manifest.model else {}
    additions = manifest.model.additions if manifest.model else ""
    for part, digest in digests.items():
        if built.get(part) != digest:
            raise EngineMismatch(
                f"The engines in {path} were built from {manifest.source}{additions}, whose {part} "
                "differs from the model in use; build engines of this model with: diffedit-trt "
                "build MODEL --out NEW_FOLDER"
            )


def _size_for(spec: NetSpec, tensor: TensorSpec, shape: tuple[int, ...]) -> Size | None:
    """The picture size of rows of `shape`, by the scale of a tensor of `spec`; None if they have
    another number of axes or channels."""
    alike = len(shape) == len(tensor.shape) == 3 and shape[0] == tensor.shape[0]
    if spec.size is None or not alike:
        return None
    scale = spec.size[0] // tensor.shape[1]
    return shape[1] * scale, shape[2] * scale


def read_verified(entry: Entry, folder: Path) -> bytes:
    """Read an entry's main file and compare it with the sha256 in the manifest.

    The returned bytes are the ones that were hashed, so a later change of the file has no effect.
    Raises EngineMismatch if a file is missing, truncated or changed.
    """
    main = entry.files[0]
    path = folder / main.name
    plain = Path(main.name).name == main.name and not path.is_symlink()
    if plain and path.is_file() and path.stat().st_size == main.bytes and len(entry.files) == 1:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == main.sha256:
            return data
    data = entry.verified(folder).read_bytes()
    if hashlib.sha256(data).hexdigest() != main.sha256:
        raise EngineMismatch(f"{path} was changed while it was read; run again.")
    return data
