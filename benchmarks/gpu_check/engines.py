"""The other backends, if their packages can be imported, and the tests that need a GPU."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import accuracy
from benchmarks.gpu_check.setup import Found, Setup
from benchmarks.roofline import roofline
from benchmarks.schema import Check, Measurement, NotRun
from benchmarks.workload import whole
from diffedit import EditResult
from engine.errors import DiffEditError

BATCHES = (1, 2, 16, 20)
LATENTS = 0.15
"""The largest relative error of an edit's latents: half precision moves the border of a mask."""
MARK = "pytest.mark.gpu"


def compiled_backend(target: str, backend: str, setup: Setup) -> Found:
    """Build engines, time their calls, and compare one edit with PyTorch in fp32."""
    done: list[Measurement] = []
    try:
        if backend == "onnxruntime":
            _need_provider(setup)
        done.append(_build(target, setup))
        return _measured(target, backend, setup, done[0])
    except (DiffEditError, ImportError, OSError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"
        return Found(tuple(done), not_run=(NotRun(target, reason),))


def _need_provider(setup: Setup) -> None:
    """Raise before a build of minutes if ONNX Runtime cannot use the device."""
    from engine.backends.onnxruntime.session import choose_device, import_onnxruntime

    providers = import_onnxruntime().get_available_providers()
    choose_device(setup.device, providers, torch.cuda.is_available())


def _build(target: str, setup: Setup) -> Measurement:
    from export.build import build

    folder, onnx = _folder(target, setup), _folder("onnx", setup)
    if onnx.exists() and not folder.exists():
        shutil.copytree(onnx, folder)  # engines of the same ONNX files
    began = time.perf_counter()
    build(
        str(setup.model),
        folder,
        target=target,
        sizes=(setup.load.size,),
        batches=_batches(setup),
        precision="fp32" if setup.rehearse else "fp16",
    )
    return Measurement("engines built", time.perf_counter() - began, "s", statistic="one build")


def _measured(target: str, backend: str, setup: Setup, built: Measurement) -> Found:
    folder = _folder(target, setup)
    result = roofline(
        setup.model,
        setup.load.size,
        batches=_batches(setup),
        repeats=setup.repeats,
        backends=(backend,),
        engines=folder,
        device=setup.device,
    )
    exact = _edit(setup, dtype="fp32")
    edit = _edit(setup, backend=backend, engines=folder, dtype=None)
    figures = accuracy.quality(edit.latent_mask, edit.latents, exact.latent_mask, exact.latents)
    rows = [Measurement(f"edit, {name}", v, statistic="one edit") for name, v in figures.items()]
    error = figures["latents_relative_error"]
    found = Found.of(result, Check(f"an edit's latents: {error:.2g} ({LATENTS})", error <= LATENTS))
    return replace(found, measurements=(built, *found.measurements, *rows))


def _folder(target: str, setup: Setup) -> Path:
    return setup.out / f"engines-{target}"


def _batches(setup: Setup) -> tuple[int, ...]:
    return (1, 2) if setup.rehearse else BATCHES


def _edit(setup: Setup, **options: object) -> EditResult:
    with setup.pipeline(**options) as pipe:
        return whole(pipe.submit(setup.load.request()).result())


def gpu_tests(setup: Setup) -> Found:
    """The tests marked gpu, where pytest is installed; a rehearsal only collects them.

    Only their files are collected: the others may import packages that are not installed.
    """
    name = "tests marked gpu"
    if importlib.util.find_spec("pytest") is None:
        return Found(not_run=(NotRun(name, "pytest is not installed"),))
    root = Path(__file__).parents[2]
    files = [p for p in sorted((root / "tests").rglob("test_*.py")) if MARK in p.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    command += ["--collect-only"] * setup.rehearse
    done = subprocess.run(
        [*command, *map(str, files)], cwd=root, capture_output=True, text=True, check=False
    )
    last = (done.stdout.strip().splitlines() or [done.stderr.strip()])[-1]
    return Found(checks=(Check(f"{name}: {last}", done.returncode == 0),))


onnxruntime = functools.partial(compiled_backend, "onnx", "onnxruntime")
tensorrt = functools.partial(compiled_backend, "tensorrt", "tensorrt")
tensorrt_rtx = functools.partial(compiled_backend, "tensorrt-rtx", "tensorrt")
