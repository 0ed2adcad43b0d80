"""The same edit with one optimisation after another, each on top of the last, in one process.

The first rungs are diffusers' pipeline, the comparison. Every rung of ours is compared with our own
in fp32; diffusers draws other noise, so its mask is compared but need not agree.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch

from benchmarks import options, plots
from benchmarks.accuracy import mask_iou, relative_error
from benchmarks.configuration import Configuration, NetworkCache
from benchmarks.diffusers_baseline import DiffusersBaseline, EditOptions
from benchmarks.machine import machine
from benchmarks.networks import DENOISER
from benchmarks.report import progress, row
from benchmarks.schema import Measurement, NotRun, Result
from benchmarks.timing import synchronize
from benchmarks.workload import PROMPT, SOURCE, Workload
from diffedit import DiffEditPipeline
from engine.backends.torch.networks import KERNELS, TorchNetworks, default_precision
from engine.dtypes import TORCH_DTYPES
from engine.errors import DiffEditError

FP32 = "ours, fp32"

Rungs = Annotated[Any, options.values(options.WORK, "Only these, e.g. 1,2,5.")]
Together = Annotated[int, options.option(options.WORK, "Edits that share calls.", min=1)]


@dataclass(frozen=True, eq=False)
class Edited:
    """One edit: rows of the denoiser, mask bool [h, w], latents [C, h, w] or None."""

    rows: int
    mask: Any
    latents: Any = None


Edit = Callable[[Workload], Edited]


@dataclass(frozen=True)
class Rung:
    """One configuration of the edit.

    Attributes:
        open: opens it, a context with the edit; None where it cannot run here.
        reason: why it cannot.
        edits: how many edits one timing makes; the figure is for one of them.
        warm_up_maps: noises of the edit that warms up; None for the whole edit.
    """

    name: str
    open: Callable[[], AbstractContextManager[Edit]] | None = None
    reason: str = ""
    edits: int = 1
    warm_up_maps: int | None = 1


def ladder(
    model: options.Model = options.DEMO,
    size: options.Size = None,
    steps: options.Steps = 10,
    strength: options.Strength = 0.8,
    guidance: options.Guidance = 7.5,
    maps: options.Maps = 10,
    repeats: options.Repeats = 3,
    rungs: Rungs = (),
    together: Together = 4,
    device: options.Device = None,
    engines: options.Engines = None,
    plot: options.Plot = None,
) -> Result:
    """Time the same edit with one optimisation after another, from diffusers' pipeline up.

    Rungs that cannot run on this machine are listed with the reason. An engine folder adds the
    compiled backends.

    Example: python -m benchmarks ladder --model sd15 --size 512 --engines sd15-engines
    """
    load = Workload.open(model, size, steps=steps, strength=strength, guidance=guidance, maps=maps)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cache = NetworkCache(load.checkpoint)
    every = list(enumerate(all_rungs(load, cache, target, engines, together), 1))
    rows: list[Measurement] = []
    not_run: list[NotRun] = []
    exact: Edited | None = None
    for number, rung in every:
        if rungs and number not in rungs:
            continue
        progress(f"ladder: rung {number} of {len(every)}, {rung.name}")
        try:
            seconds, edited = _time(rung, load, repeats, target)
        except (DiffEditError, RuntimeError, ImportError) as error:
            not_run.append(NotRun(rung.name, str(error).split("\n")[0]))
            continue
        exact = edited if rung.name == FP32 else exact
        extras = {"rung": number, "rows": edited.rows, "quality": _quality(edited, exact)}
        rows.append(Measurement.of("edit", seconds, "s", {"rung": rung.name}, **extras))
        rows[-1].extras["times_as_fast"] = round((rows[0].value or 0) / (rows[-1].value or 1), 2)
        progress(row(rows[-1]))
    cache.clear()
    settings = load.settings()
    result = Result(
        "ladder", machine(), settings, {}, load.facts(), tuple(rows), (), tuple(not_run)
    )
    if plot is not None and rows:
        plots.ladder(result, plot)
    return result


def _time(
    rung: Rung, load: Workload, repeats: int, device: torch.device
) -> tuple[list[float], Edited]:
    """Seconds an edit of each repeat, and the last edit."""
    if rung.open is None:
        raise DiffEditError(rung.reason)
    with rung.open() as edit:
        maps = rung.warm_up_maps
        edit(load if maps is None else replace(load, steps=2, maps=maps))
        taken = []
        for _ in range(repeats):
            began = time.perf_counter()
            edited = edit(load)
            synchronize(device)
            taken.append((time.perf_counter() - began) / rung.edits)
    gc.collect()
    return taken, edited


def _quality(edited: Edited, exact: Edited | None) -> dict[str, float]:
    """Mask and latents against those of fp32, once that rung has run."""
    if exact is None:
        return {}
    quality = {"mask_iou": round(mask_iou(edited.mask, exact.mask), 4)}
    if edited.latents is not None:
        error = relative_error(edited.latents, exact.latents)
        quality["latents_relative_error"] = round(error, 6)
    return quality


def all_rungs(
    load: Workload, cache: NetworkCache, device: torch.device, engines: Any, together: int
) -> Iterator[Rung]:
    """All rungs, slowest first; a rung has the same number on every machine."""
    yield from _baselines(load, device)
    yield Rung("ours, plain loops in fp32", lambda: _reference(load, device))
    yield from _precisions(load, cache, device)
    cuda = device.type == "cuda"
    half = default_precision(device)
    full = Configuration(device=str(device), dtype=half)
    compiled = replace(full, compile=True)
    # Compiling and capturing happen at the first call of each batch size; a CPU has two sizes.
    maps = load.maps if cuda else 1
    graphs = (lambda: _ours(load, cache, full)) if cuda else None
    yield Rung("+ CUDA graphs", graphs, "no NVIDIA GPU is here", warm_up_maps=maps)
    yield Rung("+ torch.compile", lambda: _ours(load, cache, compiled), warm_up_maps=maps)
    yield Rung(
        f"{together} edits sharing calls, each",
        lambda: _ours(load, cache, compiled, edits=together),
        edits=together,
        warm_up_maps=maps,
    )
    yield Rung(
        "the next edit of the same picture",
        lambda: _ours(load, cache, compiled, remember=True),
        warm_up_maps=None,
    )
    for backend in ("onnxruntime", "tensorrt"):
        reason = "" if engines else "no --engines folder was given"
        if backend == "tensorrt" and not cuda:
            reason = "no NVIDIA GPU is here"
        chosen = Configuration(backend, engines)
        run = None if reason else lambda chosen=chosen: _ours(load, cache, chosen)
        yield Rung(f"{backend}, one edit", run, reason, warm_up_maps=maps)


def _baselines(load: Workload, device: torch.device) -> Iterator[Rung]:
    """diffusers' pipeline at its defaults, tuned, and compiled as well."""
    half = default_precision(device)
    usual = "fp16" if device.type == "cuda" else "fp32"
    yield Rung(
        f"diffusers, its defaults ({usual})", lambda: _diffusers(load, device, TORCH_DTYPES[usual])
    )
    yield Rung(
        f"diffusers, tuned: {half}, channels_last, plain inversion, one encode",
        lambda: _diffusers(load, device, TORCH_DTYPES[half], tuned=True),
    )
    yield Rung(
        "diffusers, tuned and compiled",
        lambda: _diffusers(load, device, TORCH_DTYPES[half], tuned=True, compile=True),
        warm_up_maps=load.maps,
    )


def _precisions(load: Workload, cache: NetworkCache, device: torch.device) -> Iterator[Rung]:
    """Our networks uncompiled: fp32, reduced precision, memory layout, kernels."""
    half = default_precision(device)
    eager = Configuration(device=str(device), dtype=half, cuda_graphs=False, kernels=())
    fp32 = replace(eager, dtype="fp32")
    yield Rung(FP32, lambda: _ours(load, cache, fp32))
    reason = "this processor has no instructions for bf16" if half == "fp32" else ""
    plain = replace(eager, channels_last=False)
    yield Rung(f"+ {half}", None if reason else lambda: _ours(load, cache, plain), reason)
    yield Rung("+ channels_last", None if reason else lambda: _ours(load, cache, eager), reason)
    kernels: tuple[str, ...] = ()
    for name, kernel in KERNELS.items():
        kernels += (name,)
        chosen = replace(eager, kernels=kernels)
        reason = "it is not available, or slower than PyTorch's here"
        if device.type == "cuda":
            reason = "it is for CPUs; CUDA has its own"
        elif half == "bf16" and kernel.usable():
            reason = ""
        run = None if reason else lambda chosen=chosen: _ours(load, cache, chosen)
        yield Rung(f"+ {name} kernel", run, reason)


@contextmanager
def _ours(
    load: Workload,
    cache: NetworkCache,
    configuration: Configuration,
    *,
    edits: int = 1,
    remember: bool = False,
) -> Iterator[Edit]:
    """Our pipeline: several edits at once, or the next edit of a picture that it remembers."""
    pipe = DiffEditPipeline(cache.checkpoint, cache.get(configuration), size=load.size)

    def edit(what: Workload) -> Edited:
        if not remember:
            pipe.cache_clear()
        results = list(pipe.edit_many([what.request(seed=seed) for seed in range(edits)]))
        rows = sum(result.stats.rows[DENOISER] for result in results) // edits
        return Edited(rows, results[0].latent_mask, results[0].latents)

    with pipe:
        yield edit


@contextmanager
def _diffusers(
    load: Workload, device: torch.device, dtype: torch.dtype, **options: bool
) -> Iterator[Edit]:
    """diffusers' pipeline."""
    baseline = DiffusersBaseline(load.model, str(device), dtype, **options)

    def edit(what: Workload) -> Edited:
        chosen = EditOptions(what.steps, what.strength, what.guidance, what.maps)
        edited = baseline.edit(load.image, SOURCE, PROMPT, 0, chosen)
        return Edited(edited.rows, edited.mask)

    yield edit


@contextmanager
def _reference(load: Workload, device: torch.device) -> Iterator[Edit]:
    """`diffedit.algorithm.reference`: plain PyTorch loops, one row at a time."""
    from diffedit.algorithm import reference
    from diffedit.algorithm.schedule import Schedule
    from diffedit.preprocessor import Preprocessor

    if device.type != "cpu":
        raise DiffEditError("the plain loops run on the CPU")
    checkpoint = load.checkpoint
    modules = TorchNetworks.open(checkpoint, device="cpu", dtype="fp32", kernels=()).modules
    preprocessor = Preprocessor(checkpoint, (load.size,), device)

    def edit(what: Workload) -> Edited:
        inputs = preprocessor.prepare(what.request()).inputs
        texts = ("source", "target", "negative", "empty")
        done = reference.edit(
            modules[DENOISER],
            modules["vae"],
            modules["text_encoder"],
            Schedule.from_config(checkpoint.scheduler_config, what.steps),
            inputs.request,
            inputs.image[None],
            {name: torch.tensor([getattr(inputs, name)]) for name in texts},
            inputs.region,
        )
        rows = 2 * what.maps + 3 * (len(done.trajectory) - 1)
        return Edited(rows, done.mask.numpy(), done.latents[0].numpy())

    yield edit
