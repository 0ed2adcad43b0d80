"""The quality of masks and edits: on scenes with ground truth, or on an edit set of your own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import torch

from benchmarks import options
from benchmarks.configuration import Configuration
from benchmarks.networks import DENOISER
from benchmarks.options import option
from benchmarks.quality.edit_set import SetRun
from benchmarks.quality.scenes_run import PARTS, SceneRun
from benchmarks.quality.settings import DEMO, PAPER, Fixed
from benchmarks.schema import Result
from engine.checkpoint import Checkpoint

SMALL = 200_000_000
"""Bytes of the denoiser's weights up to which one process a core is faster than one process."""

SCENES, SET = "On the demo's scenes", "On an edit set of your own"


def _fixed(text: str, name: str) -> Any:
    """An option of `Fixed`, with its two defaults in the help."""
    demo, paper = (f"{getattr(fixed, name):g}" for fixed in (DEMO, PAPER))
    known = demo if demo == paper else f"{demo} on the scenes, {paper} with --edits"
    return option(options.WORK, f"{text} [default: {known}]", show_default=False)


Steps = Annotated[int | None, _fixed("N, the steps of the schedule.", "steps")]
Guidance = Annotated[float | None, _fixed("Guidance scale.", "guidance")]
Ratio = Annotated[float | None, _fixed("Clip ratio of the mask.", "ratio")]
Noise = Annotated[float | None, _fixed("Noise that masks are found at.", "noise")]
Strength = Annotated[
    float | None, option(SCENES, f"Encoding ratio. [default: {DEMO.strength}]", show_default=False)
]
Out = Annotated[Path, option(options.OUTPUT, "Folder for tables, plots, sheets and parts.")]
Resume = Annotated[
    bool, option(options.OUTPUT, "Keep the finished parts of an interrupted run.", "--resume")
]
Parts = Annotated[Any, options.choices(SCENES, "Parts to run", PARTS)]
Count = Annotated[int, option(SCENES, "Number of edits.")]
Sample = Annotated[
    int, option(SCENES, "Edits of curves, sweeps and diffusers' pipeline, at most --count.", min=2)
]
CurveSteps = Annotated[int, option(SCENES, "N of curves and sweeps.", min=1)]
Show = Annotated[Any, options.values(SCENES, "Seeds of edits to draw into shown.png.")]
Workers = Annotated[
    int | None, option(SCENES, "Processes. [default: one a core for small networks on a CPU]")
]
Edits = Annotated[
    Path | None, option(SET, "A file of `diffedit-trt batch`; mask_image is the true mask.")
]
Strengths = Annotated[Any, options.values(SET, "One table row each.", float)]
Method = Annotated[str, option(SET, "diffedit, encode-decode, masked-sdedit or sdedit.")]
Source = Annotated[bool, option(SET, "Use the source texts.", "--source/--no-source")]
Save = Annotated[Path | None, option(SET, "Folder for the edited pictures.")]
Clip = Annotated[str | None, option(SET, "CLIP score with this model: a folder or hub id.")]
Lpips = Annotated[str | None, option(SET, "LPIPS with this network: alex, vgg or squeeze.")]


def quality(
    model: options.Model = options.DEMO,
    steps: Steps = None,
    guidance: Guidance = None,
    ratio: Ratio = None,
    noise: Noise = None,
    backend: options.Backend = "torch",
    engines: options.Engines = None,
    device: options.Device = None,
    dtype: options.DType = None,
    out: Out = Path("build/quality"),
    resume: Resume = False,
    parts: Parts = ("table", "curves"),
    count: Count = 200,
    sample: Sample = 40,
    curve_steps: CurveSteps = 20,
    strength: Strength = None,
    show: Show = (),
    workers: Workers = None,
    edits: Edits = None,
    strengths: Strengths = (0.5, 0.6, 0.7, 0.8, 0.9),
    method: Method = "diffedit",
    source: Source = True,
    save: Save = None,
    clip: Clip = None,
    lpips: Lpips = None,
) -> Result:
    """Measure masks and edits against the ground truth of the demo's scenes, or an edit set.

    On the scenes, our pipeline, its ablations and diffusers' pipeline are compared; means have 95 %
    bootstrap intervals. The part `sweeps` runs on other scenes, for choosing settings.
    The scenes run at the setting chosen for the demo's model, an edit set at the paper's.

    Examples:
    python -m benchmarks quality --parts table --count 40

    python -m benchmarks quality --edits edits.jsonl --model CHECKPOINT --strengths 0.5,0.7,0.9
    """
    chosen = Configuration(backend, engines, device, dtype)
    given = {"steps": steps, "guidance": guidance, "ratio": ratio, "noise": noise}
    fixed = Fixed.chosen(DEMO if edits is None else PAPER, strength=strength, **given)
    if edits is not None:
        return SetRun(
            model, chosen, edits, fixed, strengths, method, source, save, clip, lpips
        ).run()
    if workers is None:
        workers = workers_for(Checkpoint.open(model), device)
    return SceneRun(
        model,
        chosen,
        parts,
        count,
        min(sample, count),
        curve_steps,
        fixed,
        show,
        workers,
        out,
        resume,
    ).run()


def workers_for(checkpoint: Checkpoint, device: str | None) -> int:
    """The number of processes: one on a GPU or with large networks, otherwise one a core."""
    gpu = torch.cuda.is_available() and (device or "cuda").startswith("cuda")
    large = sum(path.stat().st_size for path in checkpoint.weights(DENOISER)) > SMALL
    return 1 if gpu or large else os.cpu_count() or 1
