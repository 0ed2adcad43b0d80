"""Compute which batch sizes fit into a CPU's memory.

On a CPU, ONNX Runtime stores the attention scores of a whole call, and the system kills a process
that runs out of memory, so large batch sizes are removed beforehand. This module computes from
shapes and does not call ONNX Runtime.
"""

from __future__ import annotations

from dataclasses import replace

from engine.memory import available as available
from engine.netspec import NetSpec

SESSION_SHARE = 3.5
"""Bytes that a session on a CPU keeps per byte of its file. Measured: 5.9 GB for the UNet of Stable
Diffusion 1.5 in fp16, whose file has 1.7 GB (a session adds a copy of the weights in fp32)."""
SHARE = 0.7
"""The share of the free memory that calls may use."""
SCORE_ARRAYS = 4
"""Copies of the attention scores, in fp32, that ONNX Runtime keeps at once."""


def working_bytes(spec: NetSpec, batch: int) -> int:
    """Estimate the memory for the scores of the largest attention layer.

    For a row of Stable Diffusion 1.5's U-Net at 512 px this returns 2.1 GB; 2.2 GB were measured.
    """
    return SCORE_ARRAYS * 4 * batch * spec.attention_scores


def limited(spec: NetSpec, file_bytes: int) -> NetSpec:
    """Return `spec` with the batch sizes that fit into the free memory; the smallest always stays.

    Args:
        spec: the network.
        file_bytes: the size of its files. Their session is not loaded yet, so its memory is
            subtracted.
    """
    free = available()
    if not free:
        return spec
    limit = SHARE * free - SESSION_SHARE * file_bytes
    fitting = tuple(b for b in spec.batch_sizes if working_bytes(spec, b) <= limit)
    return replace(spec, batch_sizes=fitting or spec.batch_sizes[:1])
