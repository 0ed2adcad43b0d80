"""The same edit, one optimisation a rung, each on top of the last, all in one process run.

    python -m benchmarks ladder [--model FOLDER] [--steps 10] [--engines FOLDER] [--rungs 1,2,5]
        [--plot LADDER.png]

Rungs that cannot run here are listed with the reason. Every rung of ours is compared with our own
in fp32: the mask's intersection over union and the latents' relative error. diffusers' masks are
compared too; its noise is another, so they need not agree.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import plots
from benchmarks.shelf import Shelf, Way
from benchmarks.subject import Subject, add_arguments, mask_iou, relative_error, whole_numbers
from diffedit import DiffEditPipeline
from engine.backends.torch.networks import KERNELS, TorchNetworks, default_precision
from engine.checkpoint import Checkpoint
from engine.errors import DiffEditError


@dataclass(frozen=True)
class Done:
    """What an edit of a rung gave: UNet rows, mask bool [h, w], latents [C, h, w] or None."""

    rows: int
    mask: Any
    latents: Any = None


@dataclass(frozen=True)
class Rung:
    """One way to make the edit.

    Attributes:
        name: printed.
        open: a context that gives the edit to time; None where it cannot run.
        why_not: the reason.
        edits: how many edits one timing makes; the figure is for one.
    """

    name: str
    open: Callable[[], Any] | None = None
    why_not: str = ""
    edits: int = 1


def run(arguments: list[str]) -> dict[str, Any]:
    """Climb; print a line a rung as it is known."""
    args = _parser().parse_args(arguments)
    subject = Subject.of(args)
    lines: list[dict[str, Any]] = []
    true: Done | None = None
    shelf = Shelf(Checkpoint.open(subject.model))
    for number, rung in enumerate(every(subject, args, shelf), 1):
        if args.rungs and number not in args.rungs:
            continue
        line: dict[str, Any] = {"rung": number, "name": rung.name}
        try:
            line |= climb(rung, args.repeats, true)
        except (DiffEditError, RuntimeError, ImportError) as error:
            line["why_not"] = str(error).split("\n")[0]
        true = line.pop("done", true) if rung.name == FP32 else true
        line.pop("done", None)
        lines.append(line)
        print(told(line, lines), flush=True)
    shelf.clear()
    if args.plot and any("seconds" in line for line in lines):
        plots.ladder(lines, args.plot)
        print(f"\nplot: {args.plot}")
    return {
        "settings": subject.settings(),
        "model": subject.model_facts(),
        "result": {"rungs": lines},
    }


FP32 = "ours, fp32"


def every(subject: Subject, args: argparse.Namespace, shelf: Shelf) -> Iterator[Rung]:
    """All rungs, lowest first."""
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cuda = device.type == "cuda"
    half = default_precision(device)
    kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[half]
    usual = torch.float16 if cuda else torch.float32

    def ours(*, edits: int = 1, remember: bool = False, **made: Any) -> Callable[[], Any]:
        way = Way(device=str(device), **{"dtype": half, **made})
        return lambda: pipeline(subject, shelf, way, edits=edits, remember=remember)

    yield Rung(
        f"diffusers, its defaults ({'fp16' if cuda else 'fp32'})",
        lambda: theirs(subject, device, usual),
    )
    yield Rung(
        f"diffusers, tuned: {half}, channels_last, plain inversion, one encode",
        lambda: theirs(subject, device, kind, tuned=True),
    )
    yield Rung(
        "diffusers, tuned and compiled",
        lambda: theirs(subject, device, kind, tuned=True, compile=True),
    )
    yield Rung("ours, plain loops in fp32", lambda: reference(subject, device))
    eager = {"cuda_graphs": False}
    yield Rung(FP32, ours(dtype="fp32", kernels=(), **eager))
    if half == "fp32":
        yield Rung("+ reduced precision", why_not="this processor has no instructions for bf16")
    else:
        yield Rung(f"+ {half}", ours(channels_last=False, kernels=(), **eager))
        yield Rung("+ channels_last", ours(kernels=(), **eager))
    kernels: tuple[str, ...] = ()
    for name, kernel in KERNELS.items():
        kernels += (name,)
        why = "it cannot be had, or is slower here"
        if cuda:
            why = "it is for CPUs; CUDA has its own"
        elif half == "bf16" and kernel.usable():
            why = ""
        yield Rung(f"+ {name} kernel", None if why else ours(kernels=kernels, **eager), why)
    if cuda:
        yield Rung("+ CUDA graphs", ours())
    else:
        yield Rung("+ CUDA graphs", why_not="no NVIDIA GPU is here")
    yield Rung("+ torch.compile", ours(compile=True))
    many = args.together
    yield Rung(f"{many} edits sharing calls, each", ours(edits=many, compile=True), edits=many)
    yield Rung("the next edit of the same picture", ours(remember=True, compile=True))
    for backend in ("onnxruntime", "tensorrt"):
        why = "" if args.engines else "no --engines folder was given"
        if backend == "tensorrt" and not cuda:
            why = "no NVIDIA GPU is here"
        edit = None if why else ours(dtype=None, backend=backend, engines=args.engines)
        yield Rung(f"{backend}, one edit", edit, why)


def climb(rung: Rung, repeats: int, true: Done | None) -> dict[str, Any]:
    """Seconds an edit, rows, and how right it is."""
    if rung.open is None:
        return {"why_not": rung.why_not}
    with rung.open() as (edit, warm_up):
        warm_up()
        taken = []
        for _ in range(repeats):
            began = time.perf_counter()
            done: Done = edit()
            taken.append((time.perf_counter() - began) / rung.edits)
    gc.collect()
    line: dict[str, Any] = {
        "seconds": round(statistics.median(taken), 4),
        "unet_rows": done.rows,
        "done": done,
    }
    true = done if rung.name == FP32 else true
    if true is not None:
        line["mask_iou"] = round(mask_iou(done.mask, true.mask), 4)
        if done.latents is not None:
            line["latents_relative_error"] = round(relative_error(done.latents, true.latents), 6)
    return line


@contextmanager
def pipeline(
    subject: Subject, shelf: Shelf, way: Way, *, edits: int = 1, remember: bool = False
) -> Iterator[Any]:
    """Our pipeline; `edits` requests with different seeds at once, or the next edit of a picture
    that it remembers."""
    pipe = DiffEditPipeline(shelf.checkpoint, shelf.take(way), size=subject.size)

    def edit(what: Subject = subject) -> Done:
        if not remember:
            pipe.cache_clear()
        results = list(pipe.edit_many([what.request(seed=s) for s in range(edits)]))
        first = results[0]
        rows = sum(r.stats.rows["unet"] for r in results) // edits
        return Done(rows, first.latent_mask, first.latents)

    def warm_up() -> None:
        # Compiling and capturing happen at the first call of each batch size; a CPU has two.
        maps = subject.maps if way.device.startswith("cuda") else 1
        edit(subject if remember else replace(subject, steps=2, maps=maps))

    with pipe:
        yield edit, warm_up


@contextmanager
def theirs(
    subject: Subject,
    device: torch.device,
    dtype: torch.dtype,
    *,
    tuned: bool = False,
    compile: bool = False,
) -> Iterator[Any]:
    """diffusers' pipeline."""
    from benchmarks.baselines import Diffusers

    pipe = Diffusers(subject, device, dtype, tuned=tuned, compile=compile)

    def edit() -> Done:
        made = pipe.edit()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return Done(made.rows, made.mask)

    def warm_up() -> None:
        pipe.subject = replace(subject, steps=2, maps=subject.maps if compile else 1)
        pipe.edit()
        pipe.subject = subject

    yield edit, warm_up


@contextmanager
def reference(subject: Subject, device: torch.device) -> Iterator[Any]:
    """`diffedit.algorithm.reference`: plain PyTorch loops, one row at a time."""
    from diffedit.algorithm import reference as plain
    from diffedit.algorithm.schedule import Schedule
    from diffedit.preprocessor import Preprocessor

    checkpoint = Checkpoint.open(subject.model)
    networks = TorchNetworks.open(checkpoint, device="cpu", dtype="fp32", cuda_graphs=False)
    if device.type != "cpu":
        raise DiffEditError("the reference path runs on the CPU")
    studio = Preprocessor(checkpoint, (subject.size,), device)

    def edit(what: Subject = subject) -> Done:
        ready = studio.prepare(what.request())
        task = ready.inputs
        names = ("source", "target", "negative", "empty")
        found = plain.edit(
            networks.modules["unet"],
            networks.modules["vae"],
            networks.modules["text_encoder"],
            Schedule.from_config(checkpoint.scheduler_config, what.steps),
            task.request,
            task.image[None],
            {name: torch.tensor([getattr(task, name)]) for name in names},
            task.region,
        )
        depth = len(found.trajectory) - 1
        rows = 2 * what.maps + 3 * depth
        return Done(rows, found.mask.numpy(), found.latents[0].numpy())

    yield edit, lambda: edit(replace(subject, steps=2, maps=1))


def told(line: dict[str, Any], lines: Sequence[dict[str, Any]]) -> str:
    """A line of the table, with how many times faster than the first rung that ran."""
    head = f"{line['rung']:2d}  {line['name']:66}"
    if "why_not" in line:
        return f"{head} not run: {line['why_not']}"
    first = next(one["seconds"] for one in lines if "seconds" in one)
    text = f"{head} {line['seconds']:8.2f} s  {first / line['seconds']:6.2f} x"
    text += f"  {line['unet_rows']:4d} rows"
    if "mask_iou" in line:
        text += f"  mask IoU {line['mask_iou']:.3f}"
    if "latents_relative_error" in line:
        text += f"  latents {line['latents_relative_error']:.1e}"
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks ladder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser, steps=10)
    parser.add_argument("--device", help="cpu, cuda, cuda:N (a GPU where there is one)")
    parser.add_argument("--engines", type=Path, help="an engine folder: adds the compiled backends")
    parser.add_argument("--rungs", type=whole_numbers, help="only these, e.g. 1,2,5")
    parser.add_argument("--repeats", type=int, default=1, help="timings a rung, median (1)")
    parser.add_argument("--plot", type=Path, help="draw the rungs into this PNG file")
    parser.add_argument("--together", type=int, default=4, help="edits of the last rung (4)")
    return parser
