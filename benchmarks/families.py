"""A model of full size with random weights: time and memory of an edit, an export and a build.

Speed and memory do not depend on the values of weights, so no download is needed. `count` loads
nothing: it counts on PyTorch's meta device.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from benchmarks import options
from benchmarks.configuration import Configuration, open_pipeline
from benchmarks.machine import machine
from benchmarks.networks import operations
from benchmarks.report import progress, row
from benchmarks.schema import Measurement, Model, NotRun, Result
from benchmarks.workload import PROMPT, SOURCE, whole
from demo import random_checkpoint
from demo.picture import still_life
from diffedit import EditRequest
from engine.checkpoint import Checkpoint
from engine.errors import DiffEditError
from engine.forecast import call_memory
from engine.loader import empty_module, quiet
from engine.netspec import DENOISER_BATCH_SIZES, Size, format_size
from export.events import Event
from export.resources import ResourceMeter, peak

PARTS = ("count", "edit", "build")
KINDS = tuple(random_checkpoint.KINDS)

Kind = Annotated[str, options.option(options.WORK, f"Which model: {', '.join(KINDS)}.")]
Parts = Annotated[Any, options.choices(options.WORK, "What to measure", PARTS)]
Sides = Annotated[Any, options.values(options.WORK, "Sides of the edited pictures in pixels.")]
BuildSide = Annotated[int, options.option(options.WORK, "Side of the pictures of the build.")]
Target = Annotated[str, options.option(options.WORK, "onnx, tensorrt or tensorrt-rtx.")]
Work = Annotated[Path, options.option(options.OUTPUT, "Folder for the model and its engines.")]
Keep = Annotated[bool, options.option(options.OUTPUT, "Do not delete them afterwards.", "--keep")]


def families(
    kind: Kind = "sdxl",
    parts: Parts = PARTS,
    sides: Sides = (512,),
    build_side: BuildSide = 512,
    steps: options.Steps = 4,
    maps: options.Maps = 10,
    batches: options.Batches = DENOISER_BATCH_SIZES,
    dtype: options.DType = None,
    target: Target = "tensorrt-rtx",
    work: Work = Path("build/families"),
    keep: Keep = False,
) -> Result:
    """Measure seconds and peak memory of an edit and of a build of a model of full size.

    Every figure is one run, because some take many minutes. The model takes up to 10 GB of disk,
    the build twice as much.

    Examples:
    python -m benchmarks families --kind sdxl --sides 512,1024

    python -m benchmarks families --kind flux --parts count
    """
    if kind not in random_checkpoint.KINDS:
        raise DiffEditError(f"There is no kind {kind!r}; use one of {', '.join(KINDS)}.")
    found = _Found()
    folder = work / kind
    with _folders(folder, keep):
        checkpoint = _checkpoint(folder / "model", kind, weights=parts != ("count",))
        if "count" in parts:
            _count(checkpoint, found)
        if "edit" in parts:
            with found.unless("edit"):
                _edits(checkpoint, sides, steps, maps, dtype, found)
        if "build" in parts:
            with found.unless("build"):
                _build(checkpoint, folder / "engines", build_side, batches, target, found)
        size = _denoiser_bytes(checkpoint) if parts != ("count",) else None
    settings = {"sides": list(sides), "build_side": build_side, "steps": steps, "maps": maps}
    return Result(
        "families",
        machine(),
        {**settings, "batches": list(batches)},
        {"target": target, "dtype": dtype or "default"},
        Model(kind, size),
        tuple(found.rows),
        not_run=tuple(found.not_run),
    )


@dataclass
class _Found:
    """The measurements so far."""

    rows: list[Measurement] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str, **labels: Any) -> None:
        one = Measurement(name, float(f"{value:.4g}"), unit, labels, statistic="one run")
        self.rows.append(one)
        progress(row(one))

    @contextmanager
    def unless(self, part: str) -> Iterator[None]:
        """Record a part that cannot run here, with the reason, and continue."""
        try:
            yield
        except (DiffEditError, MemoryError) as error:
            self.not_run.append(NotRun(part, str(error)))
            progress(f"not run: {part}: {error}")


@contextmanager
def _folders(folder: Path, keep: bool) -> Iterator[None]:
    try:
        yield
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _checkpoint(folder: Path, kind: str, *, weights: bool) -> Checkpoint:
    """The random model, made in bf16 unless it is there."""
    if not (folder / "model_index.json").exists():
        progress(f"making {kind}" + ("" if weights else ", configs alone"))
        shutil.rmtree(folder, ignore_errors=True)
        random_checkpoint.make(folder, kind, dtype="bf16", weights=weights)
    return Checkpoint.open(folder)


def _denoiser_bytes(checkpoint: Checkpoint) -> int:
    files = checkpoint.weights(checkpoint.network(checkpoint.names.denoiser).part)
    return sum(path.stat().st_size for path in files)


def _count(checkpoint: Checkpoint, found: _Found) -> None:
    """Parameters, operations and memory of every network at the native size, from configs."""
    size: Size = (checkpoint.family.native_size,) * 2
    for part in checkpoint.family.parts:
        with quiet():
            module = empty_module(checkpoint, part.name)
        numbers = sum(p.numel() for p in module.parameters())
        found.add("parameters", numbers / 1e9, "B", part=part.name)
        found.add("weights in bf16", 2 * numbers / 1e9, "GB", part=part.name)
    for network in checkpoint.family.networks:
        spec = checkpoint.spec(network.name, size, precision="bf16")
        labels = {"network": network.name, "size": format_size(size)}
        found.add("operations a row", operations(checkpoint, spec) / 1e12, "TFLOP", **labels)
        for call in call_memory(checkpoint, [spec, spec], [1, spec.max_batch]):
            found.add("memory of a call", call.working / 1e9, "GB", rows=call.rows, **labels)


def _edits(
    checkpoint: Checkpoint,
    sides: tuple[int, ...],
    steps: int,
    maps: int,
    dtype: str | None,
    found: _Found,
) -> None:
    """Load the model in PyTorch, and edit one picture of each size."""
    with ResourceMeter() as loading:
        pipe = open_pipeline(checkpoint.folder, Configuration(dtype=dtype))
    precision = pipe.networks.details().precision
    found.add("load", loading.seconds, "s", precision=precision)
    found.add("load, peak memory", loading.peak_bytes / 1e9, "GB", precision=precision)
    pipe.close()
    for side in sides:
        size: Size = (side, side)
        with open_pipeline(checkpoint.folder, Configuration(dtype=dtype), size) as pipe:
            request = EditRequest(
                still_life(side, side),
                PROMPT,
                SOURCE,
                preset="paper",
                num_inference_steps=steps,
                num_maps_per_mask=maps,
                mask_thresholding_ratio=1.0,  # random weights differ evenly: keep a mask
            )
            memory = _StagePeaks()
            result = whole(pipe.submit(request, callback=memory).result())
        labels = {"size": format_size(size), "precision": precision}
        for stage, seconds in result.stats.seconds.items():
            found.add("edit", seconds, "s", stage=stage, **labels)
        for stage, size_bytes in memory.finish().items():
            found.add("edit, peak memory", size_bytes / 1e9, "GB", stage=stage, **labels)
        rows = result.stats.rows[result.stats.denoiser]
        found.add("denoiser rows of an edit", rows, "", size=format_size(size))


class _StagePeaks:
    """A progress callback that keeps the process's largest memory in each stage."""

    def __init__(self) -> None:
        self._peaks: dict[str, int] = {}
        self._start()

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._keep(stage)

    def finish(self) -> dict[str, int]:
        """Stage -> bytes; "picture" is what follows the last step."""
        self._keep("picture")
        return self._peaks

    def _keep(self, stage: str) -> None:
        self._peaks[stage] = max(self._peaks.get(stage, 0), peak())
        self._start()

    def _start(self) -> None:
        with ResourceMeter():  # resets the high-water mark
            pass


def _build(
    checkpoint: Checkpoint,
    out: Path,
    side: int,
    batches: tuple[int, ...],
    target: str,
    found: _Found,
) -> None:
    """Build in fp16; every finished step of every network is a row.

    A file that could not be verified is listed as not run, with the reason.
    """
    from export.build import build

    manifest = build(
        str(checkpoint.folder),
        out.absolute(),
        sizes=[(side, side)],
        batches=batches,
        precision="fp16",
        target=target,
        progress=_steps(found),
    )
    for entry in manifest.entries:
        first = entry.own_checks[0]
        if first.status == "not run":
            found.not_run.append(NotRun(f"verify {entry.files[0].name}", first.reason))


def _steps(found: _Found) -> Callable[[Event], None]:
    def note(event: Event) -> None:
        if event.step in ("torch", "export", "verify", "compile") and event.state == "done":
            labels = {"step": event.step, "network": event.label}
            found.add("build", event.seconds, "s", **labels)
            found.add("build, peak memory", event.peak_bytes / 1e9, "GB", **labels)
            if event.size:
                found.add("file", event.size / 1e9, "GB", **labels)
        elif event.text and event.state == "done":
            progress(f"{event.label} {event.text}".strip())

    return note
