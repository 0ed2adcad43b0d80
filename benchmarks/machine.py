"""The machine of a measurement: device, driver, versions, commit.

For a tree without git's data, such as a copy on another machine, set the commit in the environment:
`DIFFEDIT_COMMIT=$(git describe --always --dirty)`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

from benchmarks.schema import Machine

PACKAGES = (
    "torch diffusers transformers numpy onnx onnxruntime onnxruntime-gpu tensorrt tensorrt-rtx"
).split()
INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
NVIDIA = "driver_version clocks.sm clocks.mem clocks.max.sm power.draw power.limit pstate".split()

NO_SOURCE = ("benchmarks/results", "docs", "*.md")
"""Files that cannot change a measurement."""


def machine() -> Machine:
    """This machine, as far as it can be described."""
    cuda = torch.cuda.is_available()
    commit, dirty = source()
    return Machine(
        device=device_name(),
        gpu=torch.cuda.get_device_name() if cuda else None,
        gpu_memory_gib=_gib(torch.cuda.get_device_properties(0).total_memory) if cuda else None,
        nvidia=_nvidia() if cuda else None,
        cpu=_cpu(),
        cores=os.cpu_count(),
        memory_gib=_gib(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        versions=_versions(),
        commit=commit,
        dirty=dirty,
    )


@functools.cache
def source() -> tuple[str | None, bool | None]:
    """The commit of this program, and whether its files differ from it; None if unknown.

    Read once, when a benchmark starts. New files count as changes; documents and results do not.
    """
    commit = _output(["git", "rev-parse", "--short=12", "HEAD"])
    if commit:
        ignored = [f":(exclude,top){name}" for name in NO_SOURCE]
        return commit, bool(_output(["git", "status", "--porcelain", "--", ":/", *ignored]))
    given = os.environ.get("DIFFEDIT_COMMIT", "")
    return (given.removesuffix("-dirty"), given.endswith("-dirty")) if given else (None, None)


def device_name() -> str:
    """The GPU's name, or the processor's with its cores and widest instructions."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores of {_cpu()}"


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _nvidia() -> dict[str, str]:
    """Driver, clocks and power at this moment; empty without nvidia-smi."""
    query = f"--query-gpu={','.join(NVIDIA)}"
    out = _output(["nvidia-smi", query, "--format=csv,noheader", "--id=0"])
    return dict(zip(NVIDIA, out.split(", "), strict=False)) if out else {}


def _gib(size: int) -> float:
    return round(size / 2**30, 1)


def _cpu() -> str:
    """The processor's name and its vector and matrix instructions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = facts.get("flags", "").split()
    wide = ", ".join(flag for flag in INSTRUCTIONS if flag in flags)
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({wide or 'no SIMD'})"


def _output(command: list[str]) -> str:
    """What a command prints; empty where it fails."""
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, text=True, capture_output=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
