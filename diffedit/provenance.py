"""`Provenance`: the model and the backend that made a result, and how two of them differ.

Standard library only: `diffedit-trt --help` imports this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.backends import Networks
    from engine.checkpoint import Checkpoint
    from engine.manifest import FusedFile
    from engine.origin import SourceFile


@dataclass(frozen=True)
class Fused:
    """A LoRA or an embedding that is part of the weights.

    Attributes:
        name: of its file, without the folder.
        sha256: of the file.
        scale: 1 is what it was trained for.
    """

    name: str
    sha256: str
    scale: float


@dataclass(frozen=True)
class Provenance:
    """The model and the backend that made a result. It contains no local paths.

    Attributes:
        version: of diffedit-trt.
        model: a hub id, the names of the checkpoint's folder and its parent, or the name of a
            single file.
        sha256: of the single file; empty for a folder.
        weights: see `engine.fingerprint`.
        loras: the LoRAs that are fused into the weights.
        embeddings: the textual inversions that are added.
        vaes: another VAE, if one was named.
        clip_skip: CLIP layers that are left out.
        scheduler: that of a distilling LoRA, such as "lcm"; empty for the model's own.
        backend: "torch", "onnxruntime", "tensorrt" or "fake".
        precision: such as "bf16", or "fp16 with vae_decode in fp32".
        kernels: this project's CPU kernels that are in use, such as ("attention",).
        description: one line with versions and the device.
    """

    version: str
    model: str
    weights: str
    backend: str
    precision: str
    description: str
    kernels: tuple[str, ...] = ()
    loras: tuple[Fused, ...] = ()
    embeddings: tuple[Fused, ...] = ()
    sha256: str = ""
    vaes: tuple[Fused, ...] = ()
    clip_skip: int = 0
    scheduler: str = ""

    @classmethod
    def of(cls, checkpoint: Checkpoint, networks: Networks) -> Provenance:
        """Return the provenance of a pipeline's results. Reads a few megabytes of weights."""
        import diffedit
        from engine.fingerprint import fingerprint, model_name

        details, origin = networks.details(), checkpoint.origin
        single_file, vaes, embeddings = (
            origin.of(role) if origin else () for role in ("checkpoint", "vae", "embedding")
        )
        return cls(
            version=diffedit.__version__,
            model=model_name(Path(checkpoint.source)),
            weights=fingerprint(checkpoint),
            backend=networks.name,
            precision=details.precision,
            description=networks.describe(),
            kernels=details.kernels,
            loras=tuple(_fused(file) for file in details.loras),
            embeddings=_sources(embeddings) or tuple(_fused(f) for f in details.embeddings),
            sha256=single_file[0].sha256 if single_file else "",
            vaes=_sources(vaes),
            clip_skip=checkpoint.clip_skip,
            scheduler=checkpoint.scheduler or "",
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Provenance:
        """Build it from JSON written with `dataclasses.asdict`. Raises TypeError or KeyError."""
        # Not in records of older versions.
        later = {"sha256": "", "vaes": (), "clip_skip": 0, "scheduler": ""}
        values = {**later, **values}
        texts = {f.name: values[f.name] for f in fields(cls) if f.type == "str"}
        if not all(isinstance(text, str) for text in (*texts.values(), *values["kernels"])):
            raise TypeError("a field of the provenance is not text")
        return cls(
            **texts,
            kernels=tuple(values["kernels"]),
            loras=tuple(_parsed(file) for file in values["loras"]),
            embeddings=tuple(_parsed(file) for file in values["embeddings"]),
            vaes=tuple(_parsed(file) for file in values["vaes"]),
            clip_skip=int(values["clip_skip"]),
        )

    def differences(self, now: Provenance) -> list[str]:
        """Return one clause for each difference between this and `now`."""
        found = [*self._other_weights(now)]
        for name in ("backend", "precision"):
            before, after = getattr(self, name), getattr(now, name)
            if before != after:
                found.append(f"the {name} is {after}, not {before}")
        if self.kernels != now.kernels:
            found.append(f"the CPU kernels are {_names(now.kernels)}, not {_names(self.kernels)}")
        if self.version != now.version:
            found.append(f"this is diffedit-trt {now.version}, not {self.version}")
        if not found and self.description != now.description:
            found.append(f"this is {now.description}, not {self.description}")
        return found

    def _other_weights(self, now: Provenance) -> Iterator[str]:
        if self.weights != now.weights:
            same = self.model == now.model
            what = f"the weights of {now.model} have changed"
            yield what if same else f"the model is {now.model}, not {self.model}"
        kinds = (
            ("LoRA", self.loras, now.loras),
            ("embedding", self.embeddings, now.embeddings),
            ("VAE", self.vaes, now.vaes),
        )
        for kind, before, after in kinds:
            yield from _other_files(kind, before, after)
        if self.clip_skip != now.clip_skip:
            yield f"clip_skip is {now.clip_skip}, not {self.clip_skip}"
        if self.scheduler != now.scheduler:
            one, other = (name or "the model's own" for name in (now.scheduler, self.scheduler))
            yield f"the scheduler is {one}, not {other}"


def _other_files(kind: str, before: tuple[Fused, ...], after: tuple[Fused, ...]) -> Iterator[str]:
    """Compare fused files by digest and scale; their order and names do not matter."""
    olds, news = ({(file.sha256, file.scale): file for file in files} for files in (before, after))
    for key in (key for key in olds if key not in news):
        other = next((new for new in after if new.sha256 == key[0]), None)
        if other is not None:
            yield f"the {kind} {other.name} is at {other.scale:g}, not {key[1]:g}"
        else:
            yield f"the {kind} {olds[key].name} (at {key[1]:g}) is missing"
    known = {file.sha256 for file in before}
    for key in (key for key in news if key not in olds):
        if key[0] not in known:
            yield f"the {kind} {news[key].name} (at {key[1]:g}) is added"


def _names(kernels: tuple[str, ...]) -> str:
    return f"our own for {' and '.join(kernels)}" if kernels else "PyTorch's"


def _fused(file: FusedFile) -> Fused:
    return Fused(Path(file.path).name, file.sha256, file.scale)


def _sources(files: tuple[SourceFile, ...]) -> tuple[Fused, ...]:
    return tuple(Fused(file.name, file.sha256, 1.0) for file in files)


def _parsed(values: Mapping[str, Any]) -> Fused:
    return Fused(str(values["name"]), str(values["sha256"]), float(values["scale"]))
