"""What a training runs on: the device, whether it computes in bf16, its name for the model card."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from demo.train_loop import TrainingError


def choose_device(name: str) -> torch.device:
    """TrainingError if CUDA is asked for and missing."""
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError(f"PyTorch {torch.__version__} sees no CUDA device; use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed with, not imitated: then autocast pays (a third of a step here)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in checks)


def hardware(device: torch.device, half: bool) -> str:
    """One line for the model card."""
    kind = "bf16 autocast" if half else "fp32"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {kind}, PyTorch {torch.__version__}"
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    threads = torch.get_num_threads()
    used = f"{threads} thread{'s' * (threads > 1)} on {os.cpu_count()} cores of {name}"
    return f"{used}, {kind}, PyTorch {torch.__version__}"
