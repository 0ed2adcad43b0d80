"""Where the time of one UNet call goes, by kind of operation, and how fast each kind runs.

    python -m benchmarks profile [--model FOLDER] [--rows 2] [--no-kernels] [--compile]

Times are PyTorch's own profiler's (on a GPU the kernels'). Operations are counted on the meta
device, for convolutions by their definition: our kernel for CPUs multiplies less, and may go past
the rate of a matrix product. "everything else" is what works element by element: sums,
activations, copies, concatenations; compiled, it holds the kernels that were fused from them.
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as recorded

from benchmarks.latency import add_backend
from benchmarks.roofline import (
    DTYPES,
    call_seconds,
    matrix_ceiling,
    operations_by_kind,
    random_inputs,
    unet_shape,
)
from benchmarks.subject import Subject, add_arguments
from engine.backends.torch.networks import KERNELS, TorchNetworks
from engine.checkpoint import Checkpoint
from engine.errors import DiffEditError

KINDS = {
    "convolutions": ("conv",),
    "attention": ("scaled_dot_product", "flash", "attention", "fmha"),
    "matrix products": ("mm", "linear", "gemm", "matmul"),
    "normalisation": ("norm",),
}
"""What the names of operations and kernels hold; the first that fits."""
REST = "everything else"


def kind_of(name: str) -> str:
    """The kind of an operation or kernel by its name."""
    low = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(p in low for p in parts)), REST)


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure a call, profile it, print a line for every kind."""
    args = _parser().parse_args(arguments)
    subject, checkpoint = Subject.of(args), Checkpoint.open(args.model)
    if args.backend not in ("auto", "torch"):
        raise DiffEditError("PyTorch's profiler sees into the torch backend alone.")
    networks = TorchNetworks.open(
        checkpoint,
        device=args.device,
        dtype=args.dtype,
        kernels=() if args.no_kernels else tuple(KERNELS),
        compile=args.compile,
    )
    shape = unet_shape(checkpoint, subject.size)
    backend = networks.find("unet", shape)
    precision = backend.spec.precision
    seconds = call_seconds(networks, "unet", shape, args.rows, args.repeats)
    inputs = random_inputs(backend, args.rows)
    cuda = networks.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with torch.inference_mode(), recorded(activities=activities) as profiler:
        backend(inputs)
        if cuda:
            torch.cuda.synchronize()
    spent: Counter[str] = Counter()
    for event in profiler.key_averages():
        spent[kind_of(event.key)] += (
            event.self_device_time_total if cuda else event.self_cpu_time_total
        )
    flops: Counter[str] = Counter()
    for name, count in operations_by_kind(checkpoint, backend.spec).items():
        # On the meta device attention is two batched products; nothing else in a UNet is one.
        kind = "attention" if "bmm" in name else kind_of(name)
        flops[kind] += args.rows * count
    peak = matrix_ceiling(networks.device, DTYPES[precision])
    result = {
        "backend": networks.describe(),
        "compiled": args.compile,
        "rows": args.rows,
        "seconds": round(seconds, 4),
        "matrix_tflops": round(peak / 1e12, 3),
        "kinds": shares(spent, flops, seconds, peak),
    }
    networks.close()
    print(result["backend"])
    print(f"{args.rows} rows {seconds:.3f} s; a matrix product reaches {peak / 1e12:.3f} TFLOP/s")
    for name, line in result["kinds"].items():
        speed = f"{line['tflops']:6.3f} TFLOP/s" if "tflops" in line else ""
        print(f"{name:16} {line['seconds']:7.3f} s  {100 * line['share']:4.0f} %  {speed}")
    return {"settings": subject.settings(), "model": subject.model_facts(), "result": result}


def shares(
    spent: Counter[str], flops: Counter[str], seconds: float, peak: float
) -> dict[str, dict[str, float]]:
    """Every kind's share of a call that takes `seconds` unobserved, longest first."""
    total = sum(spent.values())
    found = {}
    for name, time in spent.most_common():
        share = time / total
        line = {"share": round(share, 4), "seconds": round(share * seconds, 4)}
        if flops[name]:
            speed = flops[name] / (share * seconds)
            line |= {
                "gflop": round(flops[name] / 1e9, 1),
                "tflops": round(speed / 1e12, 3),
                "of_ceiling": round(speed / peak, 3),
            }
        found[name] = line
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    add_backend(parser)
    parser.add_argument(
        "--no-kernels", action="store_true", help="PyTorch's own convolutions and attention"
    )
    parser.add_argument("--rows", type=int, default=2, help="of the call (2)")
    parser.add_argument("--repeats", type=int, default=3, help="calls timed, median (3)")
    return parser
