"""Predict how much memory a build needs, and refuse a build that cannot fit, before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.build_forecast import forecast_build, require_fit
from engine.memory import amount, available
from export.build_jobs import BuildJob
from export.checks import obstacle, runs_on_gpu
from export.events import Event

if TYPE_CHECKING:
    from export.builder import Builder


def check_memory(build: Builder, jobs: Sequence[BuildJob]) -> None:
    """Report the memory of every job that is not current.

    Raises ResourceError if a step needs more than is free, unless the build ignores memory.
    """
    verifies = build.verify != "none" and not obstacle("onnx") and not runs_on_gpu("onnx")
    compiles = build.target.product is not None
    specs = [job.spec for job in jobs]
    found = forecast_build(build.checkpoint, specs, verifies=verifies, compiles=compiles)
    for one in found:
        build.report(Event("forecast", one.label, text=str(one)))
    free = available()
    has = f"; {amount(free)} are free" if free else ""
    peak = max(one.peak for one in found)
    build.report(Event("forecast", text=f"Memory: at most about {amount(peak)} at once{has}."))
    if not build.ignore_memory:
        require_fit(found)
