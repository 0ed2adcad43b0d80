"""The door of the compiler: `build()` makes or completes an engine folder for one checkpoint.

A second run does nothing; a changed input rebuilds what depends on it; an interrupted run goes on
where it stopped. Importing this module loads no heavy package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.checkpoint import Checkpoint
from engine.errors import EngineMismatch
from engine.manifest import Manifest
from engine.netspec import UNET_BATCH_SIZES, Precision, Size
from export import output_folder, targets
from export.build_jobs import BuildJob, jobs
from export.builder import Builder
from export.events import Event
from export.hub import PARTS, open_checkpoint
from export.lora import Lora
from export.output_folder import StorageError

__all__ = ["Event", "StorageError", "build"]


def build(
    model: str,
    out: Path,
    *,
    sizes: Sequence[Size] = (),
    precision: Precision = "fp16",
    batches: Sequence[int] = UNET_BATCH_SIZES,
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
    """Make every ONNX file and engine of `model` that `out` does not hold yet.

    Args:
        model: a folder in diffusers' format, or a hub id.
        out: the engine folder; made where its parent exists.
        sizes: (height, width) in pixels; none means the model's own size. Sizes built earlier stay.
        precision: of weights and arithmetic; a network that does not hold in it gets fp32.
        batches: the UNet's profiles; the other networks have 1, 2 and 4.
        target: what to build beside ONNX; "auto" takes what this machine can build.
        loras: (safetensors file, scale), fused before the export.
        compute_capabilities: for "tensorrt-rtx", such as ("8.9",); none means its portable default.
        variant, revision, cache_dir, local_files_only: which weights of a hub id.
        verify: run every profile that can run here against torch in fp32.
        force: build everything again, even where `out` holds another model's engines.
        progress: called with every `Event`.

    Returns:
        The manifest as it was saved.

    Raises:
        ValueError: a size, batch, scale or compute capability is out of range.
        CheckpointError: the model or a LoRA is missing, damaged, unsafe or unsupported.
        EngineMismatch: `out` holds the engines of another model.
        StorageError: no room, or no right to write.
        BuildError: the compiler failed, or the target asked for is not on this machine.
    """
    report = progress or (lambda event: None)
    out = Path(out).expanduser().absolute()
    if any(not math.isfinite(scale) for _, scale in loras):
        raise ValueError("the scale of a LoRA must be a finite number")
    if compute_capabilities and target not in ("auto", "tensorrt-rtx"):
        raise ValueError("compute capabilities can be chosen for the target tensorrt-rtx alone")
    checkpoint = open_checkpoint(
        model,
        variant=variant,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    opened_loras = [Lora.open(path, scale) for path, scale in loras]
    wanted = [*sizes] or [(checkpoint.native_size, checkpoint.native_size)]
    work = jobs(checkpoint, wanted, precision, batches, opened_loras)
    chosen = targets.choose(target, compute_capabilities)
    report(Event("target", text=chosen.reason))

    def waiting() -> None:
        report(Event("wait", text=f"Another build is writing to {out}; waiting for it to end."))

    source = str(Path(model).expanduser().resolve()) if Path(model).is_dir() else model
    with output_folder.opened(out, waiting) as temporary:
        saved = _read(out, report)
        model_now = _model(checkpoint, source, opened_loras)
        if not force:
            _require_same_model(out, saved, model_now)
        return Builder(
            checkpoint=checkpoint,
            out=out,
            temporary=temporary,
            manifest=_usable(saved, model_now, work, force),
            saved=saved,
            target=chosen,
            loras=opened_loras,
            capabilities=tuple(compute_capabilities) if chosen.product == "tensorrt-rtx" else (),
            verify=verify,
            report=report,
        ).run(work)


def _model(checkpoint: Checkpoint, source: str, loras: Sequence[Lora]) -> dict[str, Any]:
    digests = {part: checkpoint.digest(part) for part in PARTS}
    return {"source": source, "digests": digests, "lora": [lora.to_json() for lora in loras]}


def _read(out: Path, report: Callable[[Event], None]) -> Manifest:
    """The manifest that lies in `out`; an empty one where there is none or it is damaged."""
    if not any(out.glob("manifest.json")):
        return Manifest(model={})
    try:
        return Manifest.load(out)
    except EngineMismatch as error:
        report(Event("note", text=f"{error} Everything in it is built again."))
        return Manifest(model={})


def _require_same_model(out: Path, saved: Manifest, now: dict[str, Any]) -> None:
    before = saved.model.get("source")
    digests = saved.model.get("digests", {})
    same = digests.get("unet") == now["digests"]["unet"]  # fine-tunes often share the rest
    if saved.entries and before != now["source"] and not same:
        raise EngineMismatch(
            f"{out} holds the engines of {before}, not of {now['source']}; choose another --out, "
            "or replace them with --force."
        )


def _usable(
    saved: Manifest, now: dict[str, Any], work: Sequence[BuildJob], force: bool
) -> Manifest:
    """`saved` as a manifest of the model now: without what was made from other weights."""
    weights = {job.weights for job in work}
    kept = [e for e in saved.entries if e.built_with.get("weights") in weights and not force]
    return replace(saved, model=now, entries=tuple(kept))
