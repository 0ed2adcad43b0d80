"""One edit at a time (MLPerf calls it SingleStream; these figures are unofficial).

    python -m benchmarks latency [--model FOLDER] [--backend torch] [--dtype bf16] [--repeats 5]

Cold is from nothing to the first picture, in this process; warm is an edit of an image not seen
before; next is another edit of the same image, whose encoding is kept. The latents are compared
with those of the same edit by PyTorch in fp32 (`--no-check` leaves that out).
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.subject import (
    PROMPT,
    Subject,
    add_arguments,
    mask_iou,
    percentiles,
    relative_error,
)
from diffedit import DiffEditPipeline, EditResult


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure cold, warm and next; print a table."""
    args = _parser().parse_args(arguments)
    subject = Subject.of(args)
    options = {"backend": args.backend, "engines": args.engines, "device": args.device}
    began = time.perf_counter()
    pipe = DiffEditPipeline.from_pretrained(
        subject.model, size=subject.size, dtype=args.dtype, compile=args.compile, **options
    )
    with pipe:
        opened = time.perf_counter() - began
        first = pipe.submit(subject.request()).result()
        cold = time.perf_counter() - began
        memory = Memory()
        warm = [edit(pipe, subject, fresh=True) for _ in range(args.repeats)]
        following = [edit(pipe, subject, fresh=False) for _ in range(args.repeats)]
        with counted_syncs() as syncs:
            edit(pipe, subject, fresh=True)
        found = {
            "backend": pipe.describe(),
            "seconds_open": round(opened, 3),
            "seconds_cold": round(cold, 3),
            "warm": stages(warm),
            "next": stages(following),
            "rows": warm[0].stats.rows,
            "calls": warm[0].stats.calls,
            "next_rows": following[0].stats.rows,
            "host_syncs": syncs.get("count"),
            "peak_memory_gib": memory.peak(),
        }
    if not args.no_check:
        found["check"] = check(subject, first)
    show(found)
    return {"settings": subject.settings(), "model": subject.model_facts(), "result": found}


def edit(pipe: DiffEditPipeline, subject: Subject, *, fresh: bool) -> EditResult:
    """The edit, on an image that is new to the pipeline or not."""
    if fresh:
        pipe.cache_clear()
    prompt = PROMPT if fresh else PROMPT.replace("blue", "yellow")
    return pipe.submit(subject.request(prompt=prompt)).result()


def stages(results: list[EditResult]) -> dict[str, dict[str, float]]:
    """p50 and p95 of every stage and in all."""
    return {
        stage: percentiles([r.stats.seconds[stage] for r in results])
        for stage in results[0].stats.seconds
    }


def check(subject: Subject, found: EditResult) -> dict[str, float]:
    """How far the result is from that of PyTorch in fp32."""
    with DiffEditPipeline.from_pretrained(
        subject.model, backend="torch", dtype="fp32", size=subject.size
    ) as pipe:
        true = pipe.submit(subject.request()).result()
    return {
        "mask_iou": round(mask_iou(found.latent_mask, true.latent_mask), 4),
        "latents_relative_error": round(relative_error(found.latents, true.latents), 5),
    }


class Memory:
    """The most memory in use: of the GPU since now, else of the process since its start."""

    def __init__(self) -> None:
        self._cuda = torch.cuda.is_available()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float:
        """GiB."""
        if self._cuda:
            return round(torch.cuda.max_memory_allocated() / 2**30, 2)
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


@contextlib.contextmanager
def counted_syncs() -> Iterator[dict[str, int]]:
    """How often the host waited for the GPU, as PyTorch sees it; nothing on a CPU."""
    found: dict[str, int] = {}
    if not torch.cuda.is_available():
        yield found
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            yield found
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found["count"] = sum("called a synchronizing" in str(w.message) for w in seen)


def show(found: dict[str, Any]) -> None:
    """The table."""
    print(found["backend"])
    print(f"open {found['seconds_open']:.2f} s, cold {found['seconds_cold']:.2f} s")
    for name in ("warm", "next"):
        told = "  ".join(
            f"{s} {t['p50']:.3f} s (p95 {t['p95']:.3f})" for s, t in found[name].items()
        )
        print(f"{name:5} {told}")
    print(f"rows {found['rows']}  calls {found['calls']}  next edit's rows {found['next_rows']}")
    syncs = found["host_syncs"]
    print(f"host syncs {'not counted: no GPU' if syncs is None else syncs}")
    print(f"peak memory {found['peak_memory_gib']} GiB")
    if "check" in found:
        print("against fp32: " + "  ".join(f"{k} {v}" for k, v in found["check"].items()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    add_backend(parser)
    parser.add_argument("--repeats", type=int, default=5, help="edits of each sort (5)")
    parser.add_argument("--no-check", action="store_true", help="no comparison with fp32")
    return parser


def add_backend(parser: argparse.ArgumentParser) -> None:
    """The options that say what edits."""
    add = parser.add_argument
    add("--backend", default="torch", help="auto, torch, onnxruntime or tensorrt (torch)")
    add("--engines", type=Path, help="an engine folder, for the last two")
    add("--device", help="cpu, cuda, cuda:N (a GPU where there is one)")
    add("--dtype", help="of the torch backend: fp32, bf16 or fp16 (the safe best)")
    add("--compile", action="store_true", help="torch backend: torch.compile")
