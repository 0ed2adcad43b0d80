"""The same edit with one optimisation after another, each on top of the last, in one process.

The first rungs are diffusers' pipeline, the comparison. Every rung of ours is compared with our own
in fp32; diffusers draws other noise, so its mask is compared but need not agree. All of them run
the paper's edit. The last rungs are the edit of the default preset, whose mask is compared, too.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import torch

from benchmarks import accuracy, options, plots
from benchmarks.configuration import Configuration, NetworkCache
from benchmarks.diffusers_baseline import DiffusersBaseline, EditOptions
from benchmarks.machine import machine
from benchmarks.networks import DENOISER
from benchmarks.report import progress, row
from benchmarks.schema import Measurement, NotRun, Result
from benchmarks.timing import repeat
from benchmarks.workload import PROMPT, SOURCE, Workload, whole
from diffedit import DiffEditPipeline
from engine.backends.torch.networks import KERNELS, TorchNetworks
from engine.backends.torch.weights import default_precision
from engine.dtypes import TORCH_DTYPES
from engine.errors import DiffEditError

FP32 = "ours, fp32"
BALANCED = "preset balanced"

Rungs = Annotated[Any, options.values(options.WORK, "Only these, e.g. 1,2,5.")]
Together = Annotated[int, options.option(options.WORK, "Edits that share calls.", min=1)]


@dataclass(frozen=True, eq=False)
class Edited:
    """One edit: rows of the denoiser, mask bool [h, w], latents [C, h, w] or None."""

    rows: int
    mask: Any
    latents: Any = None


Edit = Callable[[Workload], Edited]
Opened = AbstractContextManager[Edit]


@dataclass(frozen=True)
class Rung:
    """One configuration of the edit.

    Attributes:
        open: opens it, a context with the edit.
        reason: why it cannot run here; empty if it can.
        edits: how many edits one timing makes; the figure is for one of them.
        warm_up_maps: noises of the edit that warms up; None for the whole edit.
    """

    name: str
    open: Callable[[], Opened]
    reason: str = ""
    edits: int = 1
    warm_up_maps: int | None = 1


def ladder(
    load: Workload,
    repeats: options.Repeats = 3,
    rungs: Rungs = (),
    together: Together = 4,
    device: options.Device = None,
    engines: options.Engines = None,
    plot: options.Plot = None,
) -> Result:
    """Time the same edit with one optimisation after another, from diffusers' pipeline up.

    Rungs that cannot run on this machine are listed with the reason. An engine folder adds the
    compiled backends. The last rungs are the preset balanced. A model with random weights needs a
    lower --threshold for them. With 50 steps the first one is diffusers' default edit.

    Example: python -m benchmarks ladder --model sd15 --threshold 0.3 --rungs 1,9,11,16,17,18
    """
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
        quality = {}
        if exact is not None:
            quality = accuracy.quality(edited.mask, edited.latents, exact.mask, exact.latents)
        extras = {"rung": number, "rows": edited.rows, "quality": quality}
        found = Measurement.of("edit", seconds, "s", {"rung": rung.name}, **extras)
        rows.append(found)
        found.extras["times_as_fast"] = round((rows[0].value or 0) / (found.value or 1), 2)
        progress(row(found))
    cache.clear()
    result = Result(
        "ladder", machine(), load.settings(), {}, load.facts(), tuple(rows), (), tuple(not_run)
    )
    if plot is not None and rows:
        plots.ladder(result, plot)
    return result


def _time(
    rung: Rung, load: Workload, repeats: int, device: torch.device
) -> tuple[list[float], Edited]:
    """Seconds an edit of each repeat, and the last edit."""
    if rung.reason:
        raise DiffEditError(rung.reason)
    every: list[Edited] = []
    with rung.open() as edit:
        maps = rung.warm_up_maps
        edit(load if maps is None else replace(load, steps=2, maps=maps))
        taken = repeat(lambda: every.append(edit(load)), repeats, device=device, warm_ups=0)
    gc.collect()
    return [seconds / rung.edits for seconds in taken], every[-1]


def all_rungs(
    load: Workload, cache: NetworkCache, device: torch.device, engines: Any, together: int
) -> Iterator[Rung]:
    """All rungs, slowest first; a rung has the same number on every machine."""
    ours = partial(_ours, load, cache)
    yield from _baselines(load, device)
    yield Rung("ours, plain loops in fp32", partial(_reference, load, device))
    yield from _precisions(ours, device)
    cuda = device.type == "cuda"
    full = Configuration(device=str(device), dtype=default_precision(device))
    compiled = replace(full, compile=True)
    # Compiling and capturing happen at the first call of each batch size; a CPU has two sizes.
    maps = load.maps if cuda else 1
    no_gpu = "" if cuda else "no NVIDIA GPU is here"
    yield Rung("+ CUDA graphs", partial(ours, full), no_gpu, warm_up_maps=maps)
    yield Rung("+ torch.compile", partial(ours, compiled), warm_up_maps=maps)
    shared = partial(ours, compiled, edits=together)
    yield Rung(f"{together} edits sharing calls, each", shared, edits=together, warm_up_maps=maps)
    again = partial(ours, compiled, remember=True)
    yield Rung("the next edit of the same picture", again, warm_up_maps=None)
    no_engines = "" if engines else "no --engines folder was given"
    for backend, reason in (("onnxruntime", no_engines), ("tensorrt", no_gpu or no_engines)):
        chosen = Configuration(backend, engines)
        yield Rung(f"{backend}, one edit", partial(ours, chosen), reason, warm_up_maps=maps)
    yield from _default_preset(ours, full, compiled)


def _default_preset(
    ours: Callable[..., Opened], full: Configuration, compiled: Configuration
) -> Iterator[Rung]:
    """The edit that a user gets who chooses nothing, as it is, compiled, and once more."""
    balanced = partial(ours, balanced=True)
    yield Rung(BALANCED, partial(balanced, full), warm_up_maps=None)
    yield Rung(f"{BALANCED}, compiled", partial(balanced, compiled), warm_up_maps=None)
    again = partial(balanced, compiled, remember=True)
    yield Rung(f"{BALANCED}, the next edit of the same picture", again, warm_up_maps=None)


def _baselines(load: Workload, device: torch.device) -> Iterator[Rung]:
    """diffusers' pipeline at its defaults, tuned, and compiled as well."""
    half = default_precision(device)
    usual = "fp16" if device.type == "cuda" else "fp32"
    plain = partial(_diffusers, load, device, TORCH_DTYPES[usual])
    tuned = partial(_diffusers, load, device, TORCH_DTYPES[half], tuned=True)
    yield Rung(f"diffusers, its defaults ({usual})", plain)
    yield Rung(f"diffusers, tuned: {half}, channels_last, plain inversion, one encode", tuned)
    compiled = partial(tuned, compile=True)
    yield Rung("diffusers, tuned and compiled", compiled, warm_up_maps=load.maps)


def _precisions(ours: Callable[..., Opened], device: torch.device) -> Iterator[Rung]:
    """Our networks uncompiled: fp32, reduced precision, memory layout, kernels."""
    half = default_precision(device)
    eager = Configuration(device=str(device), dtype=half, cuda_graphs=False, kernels=())
    yield Rung(FP32, partial(ours, replace(eager, dtype="fp32")))
    reason = "this processor has no instructions for bf16" if half == "fp32" else ""
    yield Rung(f"+ {half}", partial(ours, replace(eager, channels_last=False)), reason)
    yield Rung("+ channels_last", partial(ours, eager), reason)
    kernels: tuple[str, ...] = ()
    for name, kernel in KERNELS.items():
        kernels += (name,)
        reason = "it is not available, or not used on this kind of processor"
        if device.type == "cuda":
            reason = "it is for CPUs; CUDA has its own"
        elif half == "bf16" and kernel.usable():
            reason = ""
        yield Rung(f"+ {name} kernel", partial(ours, replace(eager, kernels=kernels)), reason)


@contextmanager
def _ours(
    load: Workload,
    cache: NetworkCache,
    configuration: Configuration,
    *,
    edits: int = 1,
    remember: bool = False,
    balanced: bool = False,
) -> Iterator[Edit]:
    """Our pipeline: several edits at once, or the next edit of a picture that it remembers; of the
    preset "balanced" instead of the paper."""
    pipe = DiffEditPipeline(cache.checkpoint, cache.get(configuration), size=load.size)

    def edit(what: Workload) -> Edited:
        if not remember:
            pipe.cache_clear()
        request = what.balanced if balanced else what.request
        requests = [request(seed=seed) for seed in range(edits)]
        results = [whole(result) for result in pipe.edit_many(requests)]
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
    from diffedit.algorithm.reference_models import stable_diffusion
    from diffedit.algorithm.schedule import Schedule
    from diffedit.preprocessor import Preprocessor

    if device.type != "cpu":
        raise DiffEditError("The plain loops run on the CPU only; use --device cpu.")
    checkpoint = load.checkpoint
    modules = TorchNetworks.open(checkpoint, device="cpu", dtype="fp32", kernels=()).modules
    preprocessor = Preprocessor(checkpoint, (load.size,), device)

    def edit(what: Workload) -> Edited:
        inputs = preprocessor.prepare(what.request()).inputs
        texts = ("source", "target", "negative", "empty")
        done = reference.edit(
            stable_diffusion(modules),
            Schedule.from_config(checkpoint.scheduler_config, what.steps),
            inputs.request,
            inputs.image[None],
            {n: [torch.tensor([ids]) for ids in getattr(inputs, n)] for n in texts},
            inputs.region,
        )
        rows = 2 * what.maps + 3 * (len(done.trajectory) - 1)
        return Edited(rows, done.mask.numpy(), done.latents[0].numpy())

    yield edit
