"""What is here, what is missing and how to get it: the facts behind `diffedit-trt doctor`.

Every package is asked in a guarded way by its name, so that a broken one becomes a line of the
report and not a stack trace. It renders nothing (the command line does) and changes nothing.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from engine.products import PRODUCTS, Product, format_compute_capability

State = Literal["ok", "missing", "problem"]

TESTED = {
    "torch": "2.13.0",
    "diffusers": "0.42.1",
    "transformers": "5.23.0",
    "safetensors": "0.8.0",
    "huggingface_hub": "2.4.0",
    "onnx": "1.23.2",
    "onnxscript": "0.7.2",
    "onnxruntime": "1.32.0",
    "peft": "0.21.2",
    "polygraphy": "0.53.6",
    "tensorrt_rtx": "1.7.1.116",
}
"""Versions the tests ran with, as in constraints.txt."""

CORE = ("torch", "diffusers", "transformers", "safetensors", "huggingface_hub")
INSTALL = "pip install -e '.[{}]' -c constraints.txt"
WANTED_DISK = 8 * 10**9
WANTED_MEMORY = 6 * 10**9


@dataclass(frozen=True)
class Check:
    """One line of the report; `dataclasses.asdict` of it is JSON.

    Attributes:
        name: what was looked at.
        state: "ok"; "missing", where an optional thing is not here; "problem", where something
            is wrong.
        what: what was found, in words.
        fix: how to get or mend it; empty where nothing is to be done.
    """

    name: str
    state: State
    what: str
    fix: str = ""


def report(engines: Path | None = None) -> list[Check]:
    """Look at everything once; takes the time PyTorch needs to be imported.

    Args:
        engines: a folder of compiled networks to take into account for `backend auto`.
    """
    gpu = gpu_line()
    looks: list[Callable[[], list[Check]]] = [
        _python,
        *(functools.partial(_core, name) for name in CORE),
        lambda: _devices(gpu),
        _kernels,
        _exporters,
        lambda: _onnxruntime(gpu),
        lambda: _tensorrt(gpu),
        _tensorrt_rtx,
        _room,
        lambda: _backend(engines),
    ]
    return [check for look in looks for check in look()]


def gpu_line() -> str:
    """What the NVIDIA driver says of the first GPU (name, driver, capability, memory), or ""."""
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


def version(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _import(name: str) -> ModuleType | str:
    """The module, or why it cannot be imported. A foreign package may raise anything."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


def _said(distribution: str, found: str) -> str:
    """The version, and the tested one where it is another (local build tags do not count)."""
    tested = TESTED.get(distribution)
    same = tested is None or found.split("+")[0] == tested
    return found if same else f"{found} (tested with {tested})"


def _python() -> list[Check]:
    what = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if (3, 11) <= sys.version_info < (3, 14):
        return [Check("python", "ok", what)]
    return [Check("python", "problem", what, "use Python 3.11, 3.12 or 3.13")]


def _core(name: str) -> list[Check]:
    found = version(name)
    if found is None:
        return [Check(name, "problem", "not installed", INSTALL.format("onnx,rtx"))]
    return [Check(name, "ok", _said(name, found))]


def _devices(gpu: str) -> list[Check]:
    torch = _import("torch")
    if isinstance(torch, str):
        fix = "install PyTorch again, in the build for this machine"
        return [Check("devices", "problem", f"PyTorch cannot be imported ({torch})", fix)]
    from engine.backends.torch.networks import default_precision

    dtype = default_precision(torch.device("cpu"))
    instructions = torch.backends.cpu.get_cpu_capability()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    checks = [Check("cpu", "ok", f"{cores} cores, {instructions}{_matrix_units()}, runs {dtype}")]
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        capability = format_compute_capability((properties.major, properties.minor))
        driver = f", driver {gpu.split(', ')[1]}" if gpu.count(", ") >= 2 else ""
        what = (
            f"{properties.name}, compute capability {capability}, "
            f"{properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}{driver}"
        )
        return [*checks, Check("gpu", "ok", what)]
    if gpu:
        what = f"{gpu}, but PyTorch {torch.__version__} sees no CUDA device"
        fix = "install PyTorch's CUDA build for this driver (pytorch.org, Get started)"
        return [*checks, Check("gpu", "problem", what, fix)]
    what = "no NVIDIA GPU is here; edits run on the CPU"
    return [*checks, Check("gpu", "missing", what)]


def _matrix_units() -> str:
    """The CPU's bf16 instructions, as Linux lists them."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return ""
    found = [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
    return f" with {' and '.join(found)}" if found else ""


def _kernels() -> list[Check]:
    """Whether our kernels for CPUs can be had, where the processor has their instructions."""
    torch = _import("torch")
    if isinstance(torch, str) or not torch.cpu._is_avx512_bf16_supported():
        return []
    from engine.backends.torch.networks import KERNELS

    for name, module in KERNELS.items():
        try:
            module.kernel()
        except RuntimeError as error:
            what = f"{name} stays PyTorch's, which is slower: {error}"
            return [Check("cpu kernels", "missing", what, "install g++")]
    used = [name for name, module in KERNELS.items() if module.usable()]
    what = f"uses its own for {' and '.join(used)}" if used else "PyTorch's are faster here"
    return [Check("cpu kernels", "ok", what)]


def _exporters() -> list[Check]:
    uses = {"onnx": "build", "onnxscript": "build", "peft": "build --lora"}
    checks = []
    for name, use in uses.items():
        found = version(name)
        if found is not None:
            checks.append(Check(name, "ok", _said(name, found)))
        else:
            what = f"not installed; `{use}` needs it"
            checks.append(Check(name, "missing", what, INSTALL.format("onnx")))
    return checks


def _onnxruntime(gpu: str) -> list[Check]:
    builds = {n: v for n in ("onnxruntime", "onnxruntime-gpu") if (v := version(n))}
    if len(builds) == 2:
        what = "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files"
        fix = "pip uninstall onnxruntime onnxruntime-gpu, then install one of them"
        return [Check("onnxruntime", "problem", what, fix)]
    if not builds:
        what = "not installed; --backend onnxruntime needs it"
        fix = INSTALL.format("gpu" if gpu else "onnx")
        return [Check("onnxruntime", "missing", what, fix)]
    ((name, found),) = builds.items()
    module = _import("onnxruntime")
    if isinstance(module, str):
        fix = f"pip install --force-reinstall {name}"
        return [Check(name, "problem", f"{found}, but cannot be imported ({module})", fix)]
    providers = [p.removesuffix("ExecutionProvider") for p in module.get_available_providers()]
    what = f"{_said('onnxruntime', found)} with {', '.join(providers)}"
    if gpu and "CUDA" not in providers:
        fix = f"pip uninstall {name}, then {INSTALL.format('gpu')}"
        return [Check(name, "missing", f"{what}: it will not use the GPU", fix)]
    return [Check(name, "ok", what)]


def _tensorrt(gpu: str) -> list[Check]:
    found = version("tensorrt")
    if found is None:
        what = "not installed; it runs on NVIDIA GPUs only"
        if gpu:
            what = "not installed; --backend tensorrt on this GPU needs it"
        fix = f"on the machine with the GPU: {INSTALL.format('gpu')}"
        return [Check("tensorrt", "missing", what, "" if not gpu else fix)]
    shell = "the package is a shell that fetches the real one"
    return [_builder(PRODUCTS["tensorrt"], found, shell)]


def _tensorrt_rtx() -> list[Check]:
    checks = []
    found = version("tensorrt_rtx")
    if found is None:
        what = "not installed; `build --target tensorrt-rtx` needs it"
        checks.append(Check("tensorrt-rtx", "missing", what, INSTALL.format("rtx")))
    else:
        checks.append(_builder(PRODUCTS["tensorrt-rtx"], found, "its libraries are not here"))
    poly = version("polygraphy")
    if poly is None:
        what = "not installed; engines are built through it"
        return [*checks, Check("polygraphy", "missing", what, INSTALL.format("rtx"))]
    return [*checks, Check("polygraphy", "ok", _said("polygraphy", poly))]


def _builder(product: Product, found: str, shell: str) -> Check:
    """Whether one of the two TensorRTs is more than a name, and new enough."""
    shown = product.format
    fix = f"pip install --force-reinstall {shown} (see NVIDIA's installation guide for its index)"
    module = _import(product.module)
    if isinstance(module, str):
        return Check(shown, "problem", f"{found}, but cannot be imported ({module})", fix)
    if not hasattr(module, "Builder"):
        return Check(shown, "problem", f"{found}, but has no builder: {shell}", fix)
    numbers = tuple(int(n) if n.isdigit() else 0 for n in found.split(".")[:2])
    if numbers < product.oldest:
        wanted = product.oldest_version
        what = f"{found} is older than {wanted}, the oldest that is supported"
        return Check(shown, "problem", what, f"pip install '{shown}>={wanted}'")
    return Check(shown, "ok", f"{_said(product.module, found)}, builds engines")


def _room() -> list[Check]:
    free = shutil.disk_usage(Path.cwd()).free
    what = f"{free / 1e9:.0f} GB free here"
    disk = Check("disk", "ok", what)
    if free < WANTED_DISK:
        need = (
            f"a model of Stable Diffusion 1.5's size and its engines take {WANTED_DISK / 1e9:.0f}"
        )
        disk = Check("disk", "problem", f"{what}, but {need}", "free some space, or work elsewhere")
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return [disk]
    what = f"{total / 2**30:.0f} GiB"
    if total >= WANTED_MEMORY:
        return [disk, Check("memory", "ok", what)]
    need = f"editing with Stable Diffusion 1.5 takes about {WANTED_MEMORY / 1e9:.0f} GB"
    return [disk, Check("memory", "problem", f"{what}, but {need}", "use a larger machine")]


def _backend(engines: Path | None) -> list[Check]:
    if isinstance(_import("torch"), str):
        return []
    from diffedit.backend_selection import fastest
    from engine.errors import DiffEditError

    try:
        name, why = fastest(engines, None)
    except DiffEditError as error:
        return [Check("backend auto", "problem", str(error))]
    return [Check("backend auto", "ok", f"takes {name}: {why}")]
