"""How far each network is from what the device can do at all.

    python -m benchmarks roofline [--model FOLDER] [--backend torch] [--plot OUT.png]

Two ceilings are measured in the same process: a large matrix product in the backend's precision,
and a large copy. A call's bound is the longer of its operations at the first and its weights read
once at the second. Operations are counted by PyTorch on the meta device, so any checkpoint's are
its own. They are those of the definition: our convolution kernel for CPUs needs a 2.25th of its
multiplications, so that a call may take less than its bound.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.latency import add_backend
from benchmarks.subject import Subject, add_arguments, whole_numbers
from diffedit.backend_selection import open_backend
from engine.backends import Backend, Networks
from engine.checkpoint import Checkpoint
from engine.dtypes import TORCH_DTYPES
from engine.netspec import NetSpec, Size

SIDES = {"cpu": (2048, 4096), "cuda": (4096, 8192)}
COPIED = {"cpu": 2**28, "cuda": 2**31}
WIDTH = {"fp32": 4, "fp16": 2, "bf16": 2}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def run(arguments: list[str]) -> dict[str, Any]:
    """Ceilings, then every network at every profile; prints a table, draws where asked."""
    args = _parser().parse_args(arguments)
    subject, checkpoint = Subject.of(args), Checkpoint.open(args.model)
    networks, _ = open_backend(
        checkpoint,
        backend=args.backend,
        engines=args.engines,
        device=args.device,
        dtype=args.dtype,
        compile=args.compile,
    )
    precision = networks.find("unet", unet_shape(checkpoint, subject.size)).spec.precision
    peak = matrix_ceiling(networks.device, DTYPES[precision])
    copied = copy_ceiling(networks.device)
    print(
        f"{networks.describe()}\n{peak / 1e12:.2f} TFLOP/s in {precision}, {copied / 1e9:.1f} GB/s"
    )
    lines = []
    for net in args.nets.split(","):
        spec = checkpoint.spec(net, subject.size, precision=precision)
        flops, weights = operations(checkpoint, spec), weight_count(checkpoint, net)
        for batch in args.batches if net == "unet" else (1,):
            shape = tuple(spec.inputs[0].shape)
            backend = networks.find(net, shape)
            if batch not in backend.spec.batch_sizes:
                continue
            taken = call_seconds(networks, net, shape, batch, args.repeats)
            bytes_read = weights * WIDTH[backend.spec.precision]
            bound = max(batch * flops / peak, bytes_read / copied)
            line = {
                "network": net,
                "rows": batch,
                "gflop": round(batch * flops / 1e9, 1),
                "ms": round(1e3 * taken, 2),
                "bound_ms": round(1e3 * bound, 3),
                "of_ceiling": round(batch * flops / taken / peak, 4),
            }
            lines.append(line)
            print(
                f"{net:10} {batch:3d} rows  {line['gflop']:10.1f} GFLOP  {line['ms']:9.2f} ms  "
                f"bound {line['bound_ms']:8.2f} ms  "
                f"{100 * line['of_ceiling']:5.1f} % of the ceiling"
            )
    name = networks.describe()
    networks.close()
    result = {
        "backend": name,
        "precision": precision,
        "matrix_tflops": round(peak / 1e12, 3),
        "copy_gb_per_second": round(copied / 1e9, 2),
        "calls": lines,
    }
    if args.plot:
        from benchmarks.plots import roofline

        roofline(result, args.plot)
    return {"settings": subject.settings(), "model": subject.model_facts(), "result": result}


def unet_shape(checkpoint: Checkpoint, size: Size) -> tuple[int, ...]:
    """[C, h, w] of a latent at this picture size."""
    cell = checkpoint.family.factor
    return checkpoint.family.channels, size[0] // cell, size[1] // cell


def matrix_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a square matrix product, the best of several sizes and tries."""
    best = 0.0
    for side in SIDES[device.type]:
        a, b = (torch.rand((side, side), device=device).to(dtype) for _ in range(2))
        taken = min(durations(lambda a=a, b=b: a @ b, device, 5))  # type: ignore[misc]
        best = max(best, 2 * side**3 / taken)
    return best


def copy_ceiling(device: torch.device) -> float:
    """Bytes a second that can be read: those of a large copy, read and written."""
    size = COPIED[device.type]
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / min(durations(lambda: target.copy_(source), device, 5))


def call_seconds(
    networks: Networks, net: str, shape: tuple[int, ...], batch: int, repeats: int
) -> float:
    """The median duration of a call of one network with `batch` rows."""
    backend = networks.find(net, shape)
    inputs = random_inputs(backend, batch)
    with torch.inference_mode():
        return statistics.median(durations(lambda: backend(inputs), networks.device, repeats))


def random_inputs(backend: Backend, batch: int) -> dict[str, torch.Tensor]:
    """Numbers from 0 to 10 for every input of a network."""
    return {
        t.name: torch.rand((batch, *t.shape), device=backend.device)
        .mul(10)
        .to(TORCH_DTYPES[t.dtype])
        for t in backend.spec.inputs
    }


def durations(call: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each of several calls, after one that warms up."""
    taken = []
    for _ in range(repeats + 1):
        _wait(device)
        began = time.perf_counter()
        call()
        _wait(device)
        taken.append(time.perf_counter() - began)
    return taken[1:]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def operations(checkpoint: Checkpoint, spec: NetSpec) -> int:
    """Floating point operations of one row, counted without computing any."""
    return sum(operations_by_kind(checkpoint, spec).values())


def operations_by_kind(checkpoint: Checkpoint, spec: NetSpec) -> dict[str, int]:
    """The same, by the name of PyTorch's operation, e.g. "aten.convolution"."""
    module = _on_meta(checkpoint, spec.name)
    inputs = [
        torch.empty((1, *t.shape), dtype=TORCH_DTYPES[t.dtype], device="meta") for t in spec.inputs
    ]
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        checkpoint.network(spec.name).call(module, torch.float32, *inputs)
    return {str(name): int(count) for name, count in counter.get_flop_counts()["Global"].items()}


def weight_count(checkpoint: Checkpoint, net: str) -> int:
    """How many numbers a call of this network reads."""
    module = _on_meta(checkpoint, net)
    halves = {"vae_encode": "encoder", "vae_decode": "decoder"}
    half = getattr(module, halves[net]) if net in halves else module
    return sum(p.numel() for p in half.parameters())


def _on_meta(checkpoint: Checkpoint, net: str) -> Any:
    """The network's module without its weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    part = checkpoint.network(net).part
    config = checkpoint.family.configs[part]
    with torch.device("meta"):
        if part == "text_encoder":
            return CLIPTextModel(CLIPTextConfig.from_dict(config)).eval()
        kind = UNet2DConditionModel if part == "unet" else AutoencoderKL
        return kind.from_config(config).eval()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks roofline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    add_backend(parser)
    parser.add_argument("--nets", default="text,vae_encode,unet,vae_decode")
    parser.add_argument(
        "--batches", type=whole_numbers, default=(1, 2, 4, 8, 16, 20), help="the UNet's"
    )
    parser.add_argument("--repeats", type=int, default=5, help="calls a figure (5)")
    parser.add_argument("--plot", type=Path, help="draw it into this PNG file")
    return parser
