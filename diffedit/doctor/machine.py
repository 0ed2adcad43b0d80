"""Checks of the machine: Python, CPU, GPU, CPU kernels, disk space and memory."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from diffedit.doctor.check import Check, try_import

REQUIRED_DISK_BYTES = 8 * 10**9
REQUIRED_MEMORY_BYTES = 6 * 10**9


def check_python() -> list[Check]:
    """Check that this Python is supported."""
    what = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if (3, 11) <= sys.version_info < (3, 14):
        return [Check("python", "ok", what)]
    return [Check("python", "problem", what, "use Python 3.11, 3.12 or 3.13")]


def query_nvidia_driver() -> str:
    """Return name, driver version, compute capability and memory of the first GPU, or ""."""
    query = "--query-gpu=name,driver_version,compute_cap,memory.total"
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().split("\n")[0]


def check_devices(driver_report: str) -> list[Check]:
    """Check the CPU and the GPU.

    Args:
        driver_report: result of `query_nvidia_driver`.
    """
    torch = try_import("torch")
    if isinstance(torch, str):
        fix = "reinstall PyTorch, in the build for this machine"
        return [Check("devices", "problem", f"PyTorch cannot be imported ({torch})", fix)]
    return [_check_cpu(), _check_gpu(driver_report)]


def _check_cpu() -> Check:
    import torch

    from engine.backends.torch.weights import default_precision

    dtype = default_precision(torch.device("cpu"))
    instructions = torch.backends.cpu.get_cpu_capability()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    what = f"{cores} cores, {instructions}{_bf16_instructions()}, default precision {dtype}"
    return Check("cpu", "ok", what)


def _check_gpu(driver_report: str) -> Check:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        fields = driver_report.split(", ")
        driver = f", driver {fields[1]}" if len(fields) > 2 else ""
        what = (
            f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
            f"{properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}{driver}"
        )
        return Check("gpu", "ok", what)
    if driver_report:
        what = f"{driver_report}, but PyTorch {torch.__version__} finds no CUDA device"
        fix = "install PyTorch's CUDA build for this driver (pytorch.org, Get started)"
        return Check("gpu", "problem", what, fix)
    return Check("gpu", "missing", "no NVIDIA GPU; edits run on the CPU")


def _bf16_instructions() -> str:
    """Return the bf16 instruction sets that Linux lists for this CPU."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return ""
    names = [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
    return f" with {' and '.join(names)}" if names else ""


def check_cpu_kernels() -> list[Check]:
    """Check whether this project's CPU kernels can be compiled, if the CPU supports them."""
    torch = try_import("torch")
    if isinstance(torch, str) or not torch.cpu._is_avx512_bf16_supported():
        return []
    from engine.backends.torch.networks import KERNELS

    for name, module in KERNELS.items():
        try:
            module.kernel()
        except RuntimeError as error:
            what = f"{name} uses PyTorch's kernel, which is slower: {error}"
            return [Check("cpu kernels", "missing", what, "install g++")]
    used = [name for name, module in KERNELS.items() if module.usable()]
    what = f"compiled; used for {' and '.join(used)}" if used else "PyTorch's are faster with AMX"
    return [Check("cpu kernels", "ok", what)]


def check_resources() -> list[Check]:
    """Check free disk space in the current folder, and memory where the system reports it."""
    free = shutil.disk_usage(Path.cwd()).free
    disk = _check_amount(
        "disk",
        f"{free / 1e9:.0f} GB free in the current folder",
        free,
        REQUIRED_DISK_BYTES,
        "Stable Diffusion 1.5 and its engines take",
        "free some disk space, or use another folder",
    )
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return [disk]
    what = f"{memory / 2**30:.0f} GiB"
    need = "editing with Stable Diffusion 1.5 takes"
    fix = "use a machine with more memory"
    return [disk, _check_amount("memory", what, memory, REQUIRED_MEMORY_BYTES, need, fix)]


def _check_amount(
    name: str, what: str, available: int, required: int, need: str, fix: str
) -> Check:
    if available >= required:
        return Check(name, "ok", what)
    return Check(name, "problem", f"{what}, but {need} about {required / 1e9:.0f} GB", fix)
