"""The checks of `diffedit-trt doctor`: what is installed, what is missing, and how to fix it.

The checks change nothing and print nothing. A package that cannot be imported becomes a line of the
report instead of a stack trace.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffedit.doctor.check import TESTED_VERSIONS, Check, try_import
from diffedit.doctor.machine import (
    check_cpu_kernels,
    check_devices,
    check_python,
    check_resources,
    query_nvidia_driver,
)
from diffedit.doctor.packages import (
    CORE_PACKAGES,
    check_core,
    check_export,
    check_onnxruntime,
    check_tensorrt,
    check_tensorrt_rtx,
)

if TYPE_CHECKING:
    from engine.model_options import ModelSource

__all__ = ["CORE_PACKAGES", "TESTED_VERSIONS", "Check", "report"]


def report(
    engines: Path | None = None, model: str | None = None, source: ModelSource | None = None
) -> list[Check]:
    """Run every check. Takes as long as importing PyTorch.

    Args:
        engines: folder of compiled networks that `--backend auto` would use.
        model: a folder, single file or hub id, to report its memory use.
        source: its additions, such as LoRAs, and which of its files to use.
    """
    driver_report = query_nvidia_driver()
    has_gpu = bool(driver_report)
    return [
        *check_python(),
        *check_core(),
        *check_devices(driver_report),
        *check_cpu_kernels(),
        *check_export(),
        *check_onnxruntime(has_gpu),
        *check_tensorrt(has_gpu),
        *check_tensorrt_rtx(),
        *check_resources(),
        *_check_auto_backend(engines),
        *_check_verification(engines),
        *_check_model(model, source),
    ]


def _check_model(model: str | None, source: ModelSource | None) -> list[Check]:
    """Report what a model needs."""
    if model is None or isinstance(try_import("torch"), str):
        return []
    from diffedit.doctor.model import check_model

    return check_model(model, source)


def _check_auto_backend(engines: Path | None) -> list[Check]:
    """Report which backend `--backend auto` would use."""
    if isinstance(try_import("torch"), str):
        return []
    from diffedit.auto_backend import plan_auto
    from engine.errors import DiffEditError

    if engines is None:
        return [Check("backend auto", "ok", "uses torch: no engines folder was given")]
    try:
        plan = plan_auto(engines, None, None)
    except DiffEditError as error:
        fix = "pass a folder that `build` wrote"
        return [Check("backend auto", "problem", str(error), fix)]
    if not plan.tries:
        return [Check("backend auto", "problem", plan.refusal, "build the folder again")]
    name, why = plan.tries[0]
    return [Check("backend auto", "ok", f"uses {name}: {why}")]


def _check_verification(engines: Path | None) -> list[Check]:
    """Report how many profiles of the compiled networks were compared with PyTorch."""
    from engine.errors import EngineMismatch
    from engine.manifest import Manifest

    try:
        entries = Manifest.load(engines).entries if engines else ()
    except EngineMismatch:  # reported with the backend
        return []
    checks = [check for entry in entries for check in entry.own_checks]
    if not checks:
        return []
    passed = sum(check.status == "passed" for check in checks)
    what = f"{passed} of {len(checks)} profiles are verified"
    wrong = [check for check in checks if check.status in ("failed", "too imprecise")]
    if wrong:
        first = f"{wrong[0].backend}, batch {wrong[0].batch}: {wrong[0].reason}"
        fix = f"diffedit-trt engines list {engines} shows which; build them again"
        return [Check("verification", "problem", f"{what}; {first}", fix)]
    reasons = sorted({check.reason for check in checks if check.status == "not run"})
    why = f"; the others not, because {'; '.join(reasons)}" if reasons else ""
    return [Check("verification", "ok", what + why)]
