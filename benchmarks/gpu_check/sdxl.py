"""A model of SDXL's size: edits with two presets, and calls of its U-Net."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.gpu_check.setup import RANDOM_THRESHOLD, Found, Setup
from benchmarks.gpu_check.speed import preset_edit
from benchmarks.networks import DENOISER
from benchmarks.roofline import roofline
from diffedit.presets import PresetName

PRESETS: tuple[PresetName, ...] = ("paper", "balanced")
BATCHES = (1, 2, 8, 20)


def sdxl(setup: Setup) -> Found:
    """Random weights of SDXL's size; edits at its own size, 1024 px."""
    model = setup.random_model("sdxl", "tiny-sdxl")
    setup = replace(setup, model=model, size=None, repeats=3, threshold=RANDOM_THRESHOLD)
    with setup.pipeline() as pipe:
        rows = [preset_edit(pipe, setup, preset, fresh=True) for preset in PRESETS]
    result = roofline(
        setup.model,
        networks=(DENOISER,),
        batches=setup.batches if setup.rehearse else BATCHES,
        repeats=setup.repeats,
        device=setup.device,
    )
    found = Found.of(result)
    return replace(found, measurements=(*rows, *found.measurements))
