"""`build()`: make or complete an engine folder for one checkpoint.

A second run does nothing; a changed input rebuilds everything that depends on it; an interrupted
run continues where it stopped. PyTorch is not imported with this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from engine.checkpoint import Checkpoint
from engine.derived.additions import NOTHING, Additions
from engine.errors import EngineMismatch
from engine.hub import find_checkpoint
from engine.lora.effect import warn_without_effect
from engine.lora.file import Lora
from engine.manifest import Manifest, ModelIdentity
from engine.netspec import DENOISER_BATCH_SIZES, Size
from export import output_folder, targets
from export.build_jobs import BuildJob, build_jobs
from export.builder import Builder
from export.checks import Verify
from export.events import Event
from export.output_folder import StorageError
from export.precisions import USUAL, Precisions

__all__ = ["BuildOptions", "Event", "StorageError", "build", "out_folder"]


@dataclass(frozen=True)
class BuildOptions:
    """What to build.

    Attributes:
        sizes: (height, width) in pixels; by default the model's native size. Sizes of earlier
            builds stay.
        precision: precision of weights and arithmetic: "fp32", "bf16" or "fp16"; for single parts
            as text ("fp16,text_encoder_3=bf16") or a dict. Parts that overflow in fp16 are built in
            bf16. A network that is too imprecise in its precision is built in fp32.
        batches: the denoiser's profiles; the other networks have 1, 2 and 4.
        target: what to build in addition to ONNX; "auto" builds what this machine can.
        loras: (safetensors file, scale), fused before the export.
        compute_capabilities: for "tensorrt-rtx", such as ("8.9",); empty means its portable
            default.
        additions: additions to the model, such as the base of a single file.
        variant, revision, cache_dir, local_files_only: which weights of a hub id.
        verify: compare with PyTorch in fp32: "all" profiles that can run here; "none"; "default" is
            all on a GPU and the smallest on a CPU. True and False are "default" and "none".
        force: build everything again, even if the folder has another model's engines.
        ignore_memory: build even if a step is expected to need more memory than is free.
    """

    sizes: Sequence[Size] = ()
    precision: str | Mapping[str, str] = USUAL
    batches: Sequence[int] = DENOISER_BATCH_SIZES
    target: targets.Wanted = "auto"
    loras: Sequence[tuple[Path, float]] = ()
    compute_capabilities: Sequence[str] = ()
    additions: Additions = NOTHING
    variant: str | None = None
    revision: str | None = None
    cache_dir: Path | None = None
    local_files_only: bool = False
    verify: Verify | bool = "default"
    force: bool = False
    ignore_memory: bool = False

    @property
    def precisions(self) -> Precisions:
        """`precision`, checked. Raises ValueError."""
        return Precisions.of(self.precision)

    @property
    def verification(self) -> Verify:
        """`verify` as a word."""
        if isinstance(self.verify, bool):
            return "default" if self.verify else "none"
        return self.verify

    def __post_init__(self) -> None:
        self.precisions  # noqa: B018 - raises ValueError
        if self.verification not in get_args(Verify):
            raise ValueError(f"verify is {self.verify!r}, but must be default, all or none")
        if any(not math.isfinite(scale) for _, scale in self.loras):
            raise ValueError("the scale of a LoRA must be a finite number; pass for example 0.8")
        if self.compute_capabilities and self.target not in ("auto", "tensorrt-rtx"):
            raise ValueError(
                "compute capabilities are for the target tensorrt-rtx only; leave them out, or use "
                "--target tensorrt-rtx"
            )


def build(
    model: str, out: Path, *, progress: Callable[[Event], None] | None = None, **options: Any
) -> Manifest:
    """Build every ONNX file and engine of `model` that `out` does not have yet.

    Args:
        model: a folder in diffusers' format, a single .safetensors file, or a hub id.
        out: the engine folder; created if its parent exists.
        progress: called with every `Event`.
        options: the fields of `BuildOptions`.

    Returns:
        The manifest as it was saved.

    Raises:
        ValueError: a size, batch, scale or compute capability is out of range, or there is no such
            precision or part.
        CheckpointError: the model or a LoRA is missing, damaged, unsafe or unsupported.
        EngineMismatch: `out` has the engines of another model.
        StorageError: no space, or no permission to write.
        ResourceError: there is not enough memory.
        BuildError: the compiler failed, or the target is not available on this machine.
    """
    wanted, report = BuildOptions(**options), progress or (lambda event: None)
    out = out_folder(out)
    checkpoint = _find_checkpoint(model, wanted, report)
    if not (out / "manifest.json").exists():  # later builds check what they load
        _check_weights(checkpoint)
    loras = [Lora.open(path, scale) for path, scale in wanted.loras]
    warn_without_effect(loras, checkpoint)
    native = checkpoint.family.native_size
    sizes = [*wanted.sizes] or [(native, native)]
    jobs = build_jobs(checkpoint, sizes, wanted.precisions, wanted.batches, loras)
    target = targets.choose(wanted.target, wanted.compute_capabilities)
    report(Event("target", text=target.reason))

    def waiting() -> None:
        report(Event("wait", text=f"Another build is writing to {out}; waiting until it ends."))

    with output_folder.opened(out, waiting) as temporary:
        saved = _read(out, report)
        identity = _identity(checkpoint, model, loras)
        if not wanted.force:
            _require_same_model(out, saved, identity, checkpoint)
        rtx = target.product == "tensorrt-rtx"
        return Builder(
            checkpoint=checkpoint,
            out=out,
            temporary=temporary,
            manifest=_usable(saved, identity, jobs, wanted.force),
            saved=saved,
            target=target,
            loras=loras,
            capabilities=tuple(wanted.compute_capabilities) if rtx else (),
            verify=wanted.verification,
            ignore_memory=wanted.ignore_memory,
            report=report,
        ).run(jobs)


def out_folder(out: str | Path) -> Path:
    """The engine folder as an absolute path.

    Raises ValueError if it is empty, not a path, or in the home folder of an unknown user.
    """
    if not str(out).strip():
        raise ValueError("--out is empty; pass a folder for the engines")
    if "\0" in str(out):
        raise ValueError(f"--out is {str(out)!r}, which is not a path; pass a folder")
    try:
        return Path(out).expanduser().absolute()
    except RuntimeError:
        raise ValueError(
            f"--out is {str(out)!r}, but there is no such home folder; write the whole path"
        ) from None


def _find_checkpoint(
    model: str, wanted: BuildOptions, report: Callable[[Event], None]
) -> Checkpoint:
    return find_checkpoint(
        model,
        additions=wanted.additions,
        report=lambda text, done, total: report(Event("convert", Path(model).name, "start", text)),
        variant=wanted.variant,
        revision=wanted.revision,
        cache_dir=wanted.cache_dir,
        local_files_only=wanted.local_files_only,
    )


def _check_weights(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError for weights that do not fit their configs; imports PyTorch."""
    from engine.weights_check import check_weights

    check_weights(checkpoint)


def _identity(checkpoint: Checkpoint, model: str, loras: Sequence[Lora]) -> ModelIdentity:
    local = Path(model).expanduser()
    return ModelIdentity(
        source=str(local.resolve()) if local.exists() else model,
        family=checkpoint.family.name,
        networks=tuple(network.name for network in checkpoint.family.networks),
        digests=checkpoint.digests(),
        loras=tuple(lora.identity for lora in loras),
        made_from=checkpoint.origin.files if checkpoint.origin else (),
        clip_skip=checkpoint.clip_skip,
    )


def _read(out: Path, report: Callable[[Event], None]) -> Manifest:
    """The manifest in `out`; an empty one if there is none, or it is damaged or too old."""
    if not any(out.glob("manifest.json")):
        return Manifest(model=None)
    try:
        return Manifest.load(out)
    except EngineMismatch as error:
        text = f"{str(error).partition(';')[0]}; everything in the folder is built again."
        report(Event("note", text=text))
        return Manifest(model=None)


def _require_same_model(
    out: Path, saved: Manifest, identity: ModelIdentity, checkpoint: Checkpoint
) -> None:
    """Raise EngineMismatch if `out` has engines of other weights."""
    if saved.model is None or not saved.entries:
        return
    fused, wanted = (
        sorted((file.sha256, file.scale) for file in (*model.loras, *model.embeddings))
        for model in (saved.model, identity)
    )
    if fused and fused != wanted:
        raise EngineMismatch(
            f"{out} has engines with {saved.model.fused}, and this build has "
            f"{identity.fused or 'no LoRA'}; choose another --out, or replace them with "
            "--force."
        )
    if saved.model.added and saved.model.added != identity.added:
        raise EngineMismatch(
            f"{out} has engines{saved.model.additions}, and this build is"
            f"{identity.additions or ' without them'}; choose another --out, or replace them with "
            "--force."
        )
    if saved.model.source == identity.source:
        return
    denoiser = checkpoint.network(checkpoint.names.denoiser).part  # fine-tunes share the rest
    if saved.model.digests.get(denoiser) != identity.digests[denoiser]:
        raise EngineMismatch(
            f"{out} has the engines of {saved.source}, not of {identity.source}; choose another "
            "--out, or replace them with --force."
        )


def _usable(
    saved: Manifest, identity: ModelIdentity, jobs: Sequence[BuildJob], force: bool
) -> Manifest:
    """Return `saved` without the entries of other weights."""
    weights = {job.weights for job in jobs}
    kept = [e for e in saved.entries if e.built_with.weights in weights and not force]
    return replace(saved, model=identity, entries=tuple(kept))
