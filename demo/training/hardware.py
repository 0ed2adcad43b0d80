"""The device and the precision of a training run."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]

from demo.training import TrainingError


@dataclass(frozen=True)
class Hardware:
    """A device, and whether training uses bf16 autocast on it."""

    device: torch.device
    bf16: bool

    @classmethod
    def select(cls, name: str, *, allow_bf16: bool = True) -> Hardware:
        """Choose from "auto", "cpu" and "cuda"; TrainingError if CUDA is required but missing.

        bf16 is used where the processor computes in it; emulation would be slower than fp32.
        """
        if name == "cuda" and not torch.cuda.is_available():
            raise TrainingError(
                f"PyTorch {torch.__version__} finds no CUDA device; use --device cpu"
            )
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(name)
        return cls(device, allow_bf16 and _computes_in_bf16(device))

    def accelerator(self) -> Accelerator:
        """Return a new Accelerator for one model."""
        precision = "bf16" if self.bf16 else "no"
        return Accelerator(cpu=self.device.type == "cpu", mixed_precision=precision)

    def __str__(self) -> str:
        """Describe the hardware in one line for the model card."""
        rest = f"{'bf16 autocast' if self.bf16 else 'fp32'}, PyTorch {torch.__version__}"
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {rest}"
        threads = torch.get_num_threads()
        return (
            f"{threads} thread{'s' * (threads > 1)} on {os.cpu_count()} cores of {_cpu_name()}, "
            f"{rest}"
        )


def _computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # PyTorch has no public function for this.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in checks)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
