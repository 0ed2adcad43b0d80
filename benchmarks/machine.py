"""What a result was measured on: device, driver, clocks as found, versions, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
)


def machine() -> dict[str, Any]:
    """Device, cores, versions and commit, as far as they can be told."""
    cuda = torch.cuda.is_available()
    return {
        "device": device_name(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "gpu_memory_gib": _gib(torch.cuda.get_device_properties(0).total_memory) if cuda else None,
        "nvidia": nvidia() if cuda else None,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "versions": versions(),
        "commit": _commit(),
    }


def device_name() -> str:
    """The GPU's name, else the processor's with its cores and widest instructions."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores of {_cpu()}"


def slug(name: str) -> str:
    """A name as part of a file's: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def versions() -> dict[str, str]:
    """Of every package that matters and is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def nvidia() -> dict[str, str]:
    """Driver, clocks and power as the driver tells them at this moment; empty without its tool."""
    fields = "driver_version clocks.sm clocks.mem clocks.max.sm power.draw power.limit pstate"
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    query = ",".join(fields.split())
    command = [tool, f"--query-gpu={query}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, text=True, capture_output=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(fields.split(), done.stdout.strip().split(", "), strict=False))


def _gib(size: int) -> float:
    return round(size / 2**30, 1)


def _memory_gib() -> float | None:
    try:
        return _gib(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return None


def _cpu() -> str:
    """The processor's name and its matrix instructions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    wide = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in flags]
    return f"{name or platform.processor() or platform.machine()} ({', '.join(wide) or 'no SIMD'})"


def _commit() -> str | None:
    root = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=root, text=True, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
