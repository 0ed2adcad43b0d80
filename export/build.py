"""`build()`: make or complete an engine folder for one checkpoint.

A second run does nothing; a changed input rebuilds what depends on it; an interrupted run continues
where it stopped. Importing this module imports no heavy package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from engine.checkpoint import Checkpoint
from engine.errors import EngineMismatch
from engine.hub import find_checkpoint
from engine.manifest import Manifest, ModelIdentity
from engine.netspec import DENOISER_BATCH_SIZES, Precision, Size
from export import output_folder, targets
from export.build_jobs import BuildJob, build_jobs
from export.builder import Builder
from export.events import Event
from export.lora import Lora
from export.output_folder import StorageError

__all__ = ["Event", "StorageError", "build"]


def build(
    model: str,
    out: Path,
    *,
    sizes: Sequence[Size] = (),
    precision: Precision = "fp16",
    batches: Sequence[int] = DENOISER_BATCH_SIZES,
    target: targets.Wanted = "auto",
    loras: Sequence[tuple[Path, float]] = (),
    compute_capabilities: Sequence[str] = (),
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: Path | None = None,
    local_files_only: bool = False,
    verify: bool = True,
    force: bool = False,
    progress: Callable[[Event], None] | None = None,
) -> Manifest:
    """Make every ONNX file and engine of `model` that `out` does not have yet.

    Args:
        model: a folder in diffusers' format, or a hub id.
        out: the engine folder; created if its parent exists.
        sizes: (height, width) in pixels; by default the model's native size. Sizes of earlier
            builds stay.
        precision: of weights and arithmetic; a network that is too imprecise in it uses fp32.
        batches: the denoiser's profiles; the other networks have 1, 2 and 4.
        target: what to build in addition to ONNX; "auto" builds what this machine can.
        loras: (safetensors file, scale), fused before the export.
        compute_capabilities: for "tensorrt-rtx", such as ("8.9",); empty means its portable
            default.
        variant, revision, cache_dir, local_files_only: which weights of a hub id.
        verify: compare every profile that can run here with PyTorch in fp32.
        force: build everything again, even if `out` has another model's engines.
        progress: called with every `Event`.

    Returns:
        The manifest as it was saved.

    Raises:
        ValueError: a size, batch, scale or compute capability is out of range.
        CheckpointError: the model or a LoRA is missing, damaged, unsafe or unsupported.
        EngineMismatch: `out` has the engines of another model.
        StorageError: no space, or no permission to write.
        BuildError: the compiler failed, or the target is not available on this machine.
    """
    report = progress or (lambda event: None)
    out = Path(out).expanduser().absolute()
    if any(not math.isfinite(scale) for _, scale in loras):
        raise ValueError("the scale of a LoRA must be a finite number")
    if compute_capabilities and target not in ("auto", "tensorrt-rtx"):
        raise ValueError("compute capabilities can be chosen for the target tensorrt-rtx alone")
    checkpoint = find_checkpoint(
        model,
        variant=variant,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    opened_loras = [Lora.open(path, scale) for path, scale in loras]
    native = checkpoint.family.native_size
    jobs = build_jobs(checkpoint, [*sizes] or [(native, native)], precision, batches, opened_loras)
    chosen = targets.choose(target, compute_capabilities)
    report(Event("target", text=chosen.reason))

    def waiting() -> None:
        report(Event("wait", text=f"Another build is writing to {out}; waiting until it ends."))

    source = str(Path(model).expanduser().resolve()) if Path(model).is_dir() else model
    with output_folder.opened(out, waiting) as temporary:
        saved = _read(out, report)
        identity = _identity(checkpoint, source, opened_loras)
        if not force:
            _require_same_model(out, saved, identity, checkpoint)
        return Builder(
            checkpoint=checkpoint,
            out=out,
            temporary=temporary,
            manifest=_usable(saved, identity, jobs, force),
            saved=saved,
            target=chosen,
            loras=opened_loras,
            capabilities=tuple(compute_capabilities) if chosen.product == "tensorrt-rtx" else (),
            verify=verify,
            report=report,
        ).run(jobs)


def _identity(checkpoint: Checkpoint, source: str, loras: Sequence[Lora]) -> ModelIdentity:
    return ModelIdentity(
        source=source,
        family=checkpoint.family.name,
        networks=tuple(network.name for network in checkpoint.family.networks),
        digests=checkpoint.digests(),
        loras=tuple(lora.identity for lora in loras),
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
    if saved.model is None or not saved.entries or saved.model.source == identity.source:
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
    """`saved` for this model: without entries that were made from other weights."""
    weights = {job.weights for job in jobs}
    kept = [e for e in saved.entries if e.built_with.weights in weights and not force]
    return replace(saved, model=identity, entries=tuple(kept))
