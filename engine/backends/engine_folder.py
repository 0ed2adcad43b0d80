"""An engine folder, opened to run: what lies in it, whether it belongs to the model, and where not.

The onnxruntime and the tensorrt backend share it. It knows the manifest, its entries and sizes; it
imports no runtime and reads no network, and it turns everything that does not fit into one
EngineMismatch sentence which names the command that helps.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoint import NETWORKS
from engine.errors import EngineMismatch
from engine.manifest import Entry, Format, Manifest
from engine.netspec import NetSpec, Size, TensorSpec

DTYPES = {"fp32": torch.float32, "int64": torch.int64}
"""The torch type of every type that a network's border can have."""


@dataclass(frozen=True)
class TensorInfo:
    """One input or output as a compiled file states it.

    Attributes:
        name: as in the file.
        dtype: "fp32" or "int64", or the file's own word for anything else.
        shape: without the batch axis; None where the file leaves a side open.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class EngineFolder:
    """The entries of one folder that one backend can use.

    Attributes:
        path: the folder.
        manifest: its manifest, of the model in use.
        formats: what the backend runs; `entries` are of these.
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
        """Read the manifest and check it against the checkpoint in use.

        Args:
            path: the folder that `diffedit-trt build --out` wrote.
            formats: the formats wanted, the preferred one first.
            digests: part -> sha256 of the checkpoint in use; None trusts the folder.
            pin_batch_size: run in this profile alone: see `NetSpec.pinned`.

        Raises:
            EngineMismatch: no manifest, another model, nothing in these formats, no such profile.
        """
        path = Path(path)
        folder = cls(path, Manifest.load(path), tuple(formats), pin_batch_size)
        folder._check_model(digests or {})
        if not folder.entries:
            there = sorted({entry.format for entry in folder.manifest.entries})
            raise EngineMismatch(
                f"{path} holds {' and '.join(there) or 'nothing yet'}, but no "
                f"{' or '.join(formats)} files; build them with: {folder.command()}"
            )
        for entry in folder.entries:
            folder._pinned(entry.spec)
        return folder

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(e for e in self.manifest.entries if e.format in self.formats)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """(height, width) of every picture size that all four networks are there for, ascending."""
        kinds = {entry.spec.kind for entry in self.entries}
        found = []
        for spec in (e.spec for e in self.entries if e.spec.name == "vae_encode"):
            latent = spec.output.shape
            if {("unet", latent), ("vae_decode", latent)} <= kinds:
                found.append((spec.inputs[0].shape[1], spec.inputs[0].shape[2]))
        return tuple(sorted(set(found))) if any(net == "text" for net, _ in kinds) else ()

    @property
    def precisions(self) -> str:
        """For people: "fp16", or "fp16 with a vae_decode in fp32"."""
        by_net = {entry.spec.name: entry.spec.precision for entry in self.entries}
        main = by_net.get("unet", self.entries[0].spec.precision)
        others = [f"{net} in {precision}" for net, precision in by_net.items() if precision != main]
        return f"{main} with {', '.join(others)}" if others else str(main)

    def only(self, wanted: Format) -> EngineFolder:
        """The same folder, seen by a backend of one format."""
        return replace(self, formats=(wanted,))

    def require_complete(self) -> None:
        """Raises EngineMismatch unless at least one size has all four networks."""
        if not self.sizes:
            there = ", ".join(sorted({entry.spec.name for entry in self.entries}))
            raise EngineMismatch(
                f"The build in {self.path} is not finished: of four networks there is only "
                f"{there} ({' or '.join(self.formats)}); finish it with: {self.command()}"
            )

    def entry(self, net: str, shape: tuple[int, ...]) -> Entry:
        """The entry for rows of `net` whose first input has `shape`, its spec pinned if asked.

        Raises EngineMismatch, saying what is there and which command builds what is not.
        """
        for entry in self.entries:
            if entry.spec.kind == (net, tuple(shape)):
                return replace(entry, spec=self._pinned(entry.spec))
        raise EngineMismatch(self._absent(net, tuple(shape)))

    def command(self, size: Size | None = None) -> str:
        """The command that builds what is missing here."""
        parts = ["diffedit-trt build MODEL --out", shlex.quote(str(self.path))]
        if size:
            parts.append(f"--size {size[0]}x{size[1]}")
        return " ".join([*parts, "--target", self.formats[0]])

    def size_of(self, net: str, shape: tuple[int, ...]) -> Size | None:
        """The picture size that rows of `net` with this `shape` belong to; None for text."""
        if len(shape) != 3:
            return None
        height, width = shape[1:]
        if net == "vae_encode":
            return height, width
        factor = self._factor()
        return (height * factor, width * factor) if factor else None

    def _factor(self) -> int | None:
        """Pixels per latent cell, from any VAE that is there."""
        for spec in (entry.spec for entry in self.manifest.entries):
            if spec.name in ("vae_encode", "vae_decode"):
                sides = spec.inputs[0].shape[1], spec.output.shape[1]
                return max(sides) // min(sides)
        return None

    def _check_model(self, digests: Mapping[str, str]) -> None:
        built = self.manifest.model.get("digests", {})
        for part, digest in digests.items():
            if built.get(part) != digest:
                source = self.manifest.model.get("source", "another model")
                raise EngineMismatch(
                    f"The engines in {self.path} were built from {source}, whose {part} differs "
                    f"from the model in use; build engines of this model with: "
                    f"diffedit-trt build MODEL --out NEW_FOLDER"
                )

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

    def _absent(self, net: str, shape: tuple[int, ...]) -> str:
        if net not in NETWORKS:
            return f"There is no network named {net!r}; there are {', '.join(NETWORKS)}."
        there = [entry.spec.inputs[0].shape for entry in self.entries if entry.spec.name == net]
        size = self.size_of(net, shape)
        alike = not there or any(len(s) == len(shape) and s[0] == shape[0] for s in there)
        if there and (size is None or not alike):
            return (
                f"The {net} in {self.path} takes rows of {' or '.join(map(str, there))}, not "
                f"{shape}: they belong to another kind of model; build again from this one."
            )
        asked = f" for {size[0]}x{size[1]} pixels" if size else ""
        return (
            f"{self.path} has no {net}{asked} ({' or '.join(self.formats)}); "
            f"{self._what_is_there()}; build it with: {self.command(size)}"
        )

    def _what_is_there(self) -> str:
        if self.sizes:
            return f"complete there is {', '.join(f'{h}x{w}' for h, w in self.sizes)}"
        names = sorted({entry.spec.name for entry in self.entries})
        return f"the build is not finished, there is only {', '.join(names)}"


def read_verified(entry: Entry, folder: Path) -> bytes:
    """The bytes of an entry's main file, compared with the sha256 in the manifest.

    What is returned is what was hashed: nobody can change the file in between.
    Raises EngineMismatch where a file is missing, truncated or changed.
    """
    main = entry.files[0]
    path = folder / main.name
    plain = Path(main.name).name == main.name and not path.is_symlink()
    if plain and path.is_file() and path.stat().st_size == main.bytes and len(entry.files) == 1:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == main.sha256:
            return data
    data = entry.verified(folder).read_bytes()  # finds the sentence for what is wrong
    if hashlib.sha256(data).hexdigest() != main.sha256:
        raise EngineMismatch(f"{path} was changed while it was read; run again.")
    return data


def check_border(
    spec: NetSpec, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], file: Path
) -> None:
    """Compare what a compiled file takes and gives with the manifest, by name, not by order.

    Raises EngineMismatch naming the first tensor that differs.
    """
    for kind, wanted, found in (
        ("input", spec.inputs, inputs),
        ("output", (spec.output,), outputs),
    ):
        by_name = {tensor.name: tensor for tensor in found}
        for tensor in wanted:
            there = by_name.pop(tensor.name, None)
            if there is None or not _same(tensor, there):
                what = f"{there.dtype} {there.shape}" if there else "missing"
                raise EngineMismatch(
                    f"The {kind} {tensor.name!r} of {file} is {what}, not {tensor.dtype} "
                    f"{tensor.shape} as its manifest says; delete the file and build again."
                )
        if by_name:
            raise EngineMismatch(
                f"{file} has an {kind} {min(by_name)!r} that its manifest does not know; delete "
                "the file and build again."
            )


def _same(wanted: TensorSpec, found: TensorInfo) -> bool:
    if found.dtype != wanted.dtype or len(found.shape) != len(wanted.shape):
        return False
    return all(f in (None, w) for w, f in zip(wanted.shape, found.shape, strict=True))


def numbered(place: torch.device) -> torch.device:
    """A CUDA device with its number, as tensors name it: torch's current one for plain "cuda"."""
    return torch.device("cuda", torch.cuda.current_device()) if str(place) == "cuda" else place


def check_batch(spec: NetSpec, inputs: Sequence[Tensor], device: torch.device) -> int:
    """The batch size of `inputs`, after everything that a bare address does not say was checked.

    A runtime that is handed addresses reads what lies there, so this is no assertion.
    Raises ValueError for another count, type, shape, device, profile or memory layout.
    """
    size = inputs[0].shape[0] if inputs and inputs[0].dim() else 0
    if size not in spec.batch_sizes or len(inputs) != len(spec.inputs):
        raise ValueError(f"{spec.name} runs batches of {spec.batch_sizes}, not {size}")
    for tensor, wanted in zip(inputs, spec.inputs, strict=True):
        is_as_wanted = (
            tuple(tensor.shape) == (size, *wanted.shape)
            and tensor.dtype == DTYPES[wanted.dtype]
            and tensor.device == device
            and tensor.is_contiguous()
        )
        if not is_as_wanted:
            raise ValueError(
                f"{spec.name}.{wanted.name} must be a contiguous {wanted.dtype} tensor of "
                f"{(size, *wanted.shape)} on {device}, not {tensor.dtype} {tuple(tensor.shape)} "
                f"with strides {tensor.stride()} on {tensor.device}"
            )
    return size
