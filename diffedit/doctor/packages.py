"""Checks of the installed packages: PyTorch and diffusers, ONNX, ONNX Runtime and TensorRT."""

from __future__ import annotations

from diffedit.doctor.check import (
    INSTALL,
    Check,
    installed_version,
    try_import,
    with_tested_version,
)
from engine.products import PRODUCTS, Product

CORE_PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "huggingface_hub")

TENSORRT_INSTALL = "pip install --force-reinstall {} (see NVIDIA's installation guide)"


def check_core() -> list[Check]:
    """Check the packages that every edit needs."""
    return [_check_required(name) for name in CORE_PACKAGES]


def _check_required(name: str) -> Check:
    version = installed_version(name)
    if version is None:
        return Check(name, "problem", "not installed", INSTALL.format("onnx,rtx"))
    return Check(name, "ok", with_tested_version(name, version))


def check_export() -> list[Check]:
    """Check the packages that `build` needs."""
    return [
        _check_optional("onnx", "`build` needs it", "onnx"),
        _check_optional("onnxscript", "`build` needs it", "onnx"),
    ]


def _check_optional(name: str, use: str, extra: str) -> Check:
    version = installed_version(name)
    if version is None:
        return Check(name, "missing", f"not installed; {use}", INSTALL.format(extra))
    return Check(name, "ok", with_tested_version(name, version))


def check_onnxruntime(has_gpu: bool) -> list[Check]:
    """Check that one of the two ONNX Runtime packages is installed, and can use the GPU."""
    candidates = ("onnxruntime", "onnxruntime-gpu")
    versions = {name: version for name in candidates if (version := installed_version(name))}
    if len(versions) == 2:
        what = "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files"
        fix = "pip uninstall onnxruntime onnxruntime-gpu, then install one of them"
        return [Check("onnxruntime", "problem", what, fix)]
    if not versions:
        what = "not installed; --backend onnxruntime needs it"
        fix = INSTALL.format("gpu" if has_gpu else "onnx")
        return [Check("onnxruntime", "missing", what, fix)]
    ((name, version),) = versions.items()
    module = try_import("onnxruntime")
    if isinstance(module, str):
        fix = f"pip install --force-reinstall {name}"
        return [Check(name, "problem", f"{version}, but it cannot be imported ({module})", fix)]
    providers = [p.removesuffix("ExecutionProvider") for p in module.get_available_providers()]
    what = f"{with_tested_version('onnxruntime', version)} with {', '.join(providers)}"
    if has_gpu and "CUDA" not in providers:
        fix = f"pip uninstall {name}, then {INSTALL.format('gpu')}"
        return [Check(name, "missing", f"{what}; it does not use the GPU", fix)]
    return [Check(name, "ok", what)]


def check_tensorrt(has_gpu: bool) -> list[Check]:
    """Check TensorRT, which is worth installing only on a machine with an NVIDIA GPU."""
    version = installed_version("tensorrt")
    if version is not None:
        return [_check_builder(PRODUCTS["tensorrt"], version)]
    if has_gpu:
        what = "not installed; --backend tensorrt needs it"
        return [Check("tensorrt", "missing", what, INSTALL.format("gpu"))]
    return [Check("tensorrt", "missing", "not installed; it needs an NVIDIA GPU")]


def check_tensorrt_rtx() -> list[Check]:
    """Check TensorRT-RTX, and Polygraphy, which builds the engines of both products."""
    version = installed_version("tensorrt_rtx")
    if version is None:
        what = "not installed; `build --target tensorrt-rtx` needs it"
        rtx = Check("tensorrt-rtx", "missing", what, INSTALL.format("rtx"))
    else:
        rtx = _check_builder(PRODUCTS["tensorrt-rtx"], version)
    return [rtx, _check_optional("polygraphy", "`build` needs it for engines", "rtx")]


def _check_builder(product: Product, version: str) -> Check:
    """Check that a TensorRT package has its libraries, and is recent enough.

    Both products publish packages without libraries, which import but cannot build.
    """
    name = product.format
    fix = TENSORRT_INSTALL.format(name)
    module = try_import(product.module)
    if isinstance(module, str):
        return Check(name, "problem", f"{version}, but it cannot be imported ({module})", fix)
    if not hasattr(module, "Builder"):
        what = f"{version}, but it has no builder: its libraries are not installed"
        return Check(name, "problem", what, fix)
    numbers = tuple(int(n) if n.isdigit() else 0 for n in version.split(".")[:2])
    if numbers < product.oldest:
        minimum = product.oldest_version
        what = f"{version} is older than {minimum}, the oldest supported version"
        return Check(name, "problem", what, f"pip install '{name}>={minimum}'")
    return Check(name, "ok", f"{with_tested_version(product.module, version)}, builds engines")
