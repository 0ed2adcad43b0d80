"""How many rows a call may have before a CPU runs out of memory.

ONNX Runtime writes attention's scores out on a CPU, and a process that takes more than there is
gets killed without a word, so its profiles are limited beforehand. It knows shapes, no runtime.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine.netspec import NetSpec

SESSION_SHARE = 3.5
"""What a session on a CPU holds per byte of its file: the UNet of Stable Diffusion 1.5 in fp16, a
file of 1.7 GB, took 5.9 GB (fp32 copies of the weights beside them)."""
SHARE = 0.7
"""The part of the free memory that calls may take."""


def available() -> int:
    """Memory that can still be had on this machine, in bytes; 0 where that is unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    name = "MemAvailable:"
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith(name)), 0)


def working_bytes(spec: NetSpec, batch: int) -> int:
    """Memory of the largest unfused attention layer: four arrays of its scores in fp32.

    Measured: 2.2 GB a row for the U-Net of Stable Diffusion 1.5 at 512 px; this returns 2.1.
    """
    return 4 * 4 * batch * spec.attention_scores


def limited(spec: NetSpec, file_bytes: int) -> NetSpec:
    """`spec` with the profiles that fit into the memory that is free now, beside a session on files
    of `file_bytes` that is yet to be made. The smallest profile always stays."""
    room = available()
    if not room:
        return spec
    limit = SHARE * room - SESSION_SHARE * file_bytes
    fitting = tuple(b for b in spec.batch_sizes if working_bytes(spec, b) <= limit)
    return replace(spec, batch_sizes=fitting or spec.batch_sizes[:1])
