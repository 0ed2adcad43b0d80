"""Speed on a GPU: one edit, the ladder, many clients, the roofline, by the other benchmarks."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.gpu_check.setup import Found, Setup
from benchmarks.ladder import ladder
from benchmarks.latency import latency
from benchmarks.networks import DENOISER
from benchmarks.roofline import roofline
from benchmarks.schema import Check, Measurement, Result
from benchmarks.throughput import throughput
from benchmarks.timing import repeat
from benchmarks.workload import PROMPT, SOURCE, whole
from diffedit import DiffEditPipeline, EditRequest, EditResult
from diffedit.presets import PresetName

EAGER = (1, 2, 5, 6, 7, 10, 16)
"""Rungs of the ladder that do not compile: diffusers at its defaults and tuned; ours in fp32, fp16,
channels_last and with CUDA graphs; the default preset."""
COMPILED = (1, 3, 10, 11, 12, 13, 17, 18)
"""diffusers at its defaults and compiled; ours with CUDA graphs, compiled, shared and cached; the
default preset compiled, and cached."""
PRESETS: dict[PresetName, float | None] = {
    "paper": 0.45,
    "balanced": 0.16,
    "draft": None,
    "instant": 0.03,
}
"""The most seconds of an edit, where there is a target."""


def one_edit(setup: Setup) -> Found:
    """`latency`: one edit at a time."""
    result = latency(setup.load, setup.configuration(), setup.repeats, cold_starts=0, check=False)
    taken = result.find("edit", picture="new picture", stage="total").value or 0.0
    return Found.of(result, *setup.target(f"a new picture: {taken:.3f} s (0.45)", taken <= 0.45))


def eager(setup: Setup) -> Found:
    """`ladder` without compiling, with diffusers in fp16 beside it."""
    result = _ladder(setup, EAGER)
    ran = {row.extras["rung"]: row.extras["times_as_fast"] for row in result.measurements}
    times = ran.get(10, 0.0)
    text = f"with CUDA graphs {times:g} times as fast as diffusers at its defaults (4)"
    return Found.of(result, *setup.target(text, times >= 4))


def compiled(setup: Setup) -> Found:
    """The rungs of `ladder` that compile, with diffusers and CUDA graphs beside them."""
    return Found.of(_ladder(setup, COMPILED))


def _ladder(setup: Setup, rungs: tuple[int, ...]) -> Result:
    return ladder(setup.load, rungs=rungs, device=setup.device)


def presets(setup: Setup) -> Found:
    """An edit of a new picture with every preset, and its next edit."""
    rows: list[Measurement] = []
    targets: tuple[Check, ...] = ()
    with setup.pipeline() as pipe:
        for preset, most in PRESETS.items():
            found = preset_edit(pipe, setup, preset, fresh=True)
            rows += [found, preset_edit(pipe, setup, preset, fresh=False)]
            if most is not None:
                taken = found.value or 0.0
                targets += setup.target(f"{preset}: {taken:.3f} s ({most:g})", taken <= most)
        return Found(tuple(rows), targets, configuration=pipe.describe())


def preset_edit(
    pipe: DiffEditPipeline, setup: Setup, preset: PresetName, *, fresh: bool
) -> Measurement:
    """Seconds from the request to the picture, with a preset's own options."""
    load = setup.load
    last: list[EditResult] = []
    request = EditRequest(load.image, PROMPT, SOURCE, preset=preset, mask_threshold=load.threshold)
    if setup.rehearse and preset != "instant":  # which has one step
        request = replace(request, num_inference_steps=load.steps)

    def edit() -> None:
        if fresh:
            pipe.cache_clear()
        last[:] = [whole(pipe.submit(request).result())]

    # The second call with a batch size captures a graph, so one edit may not be enough.
    seconds = repeat(edit, setup.repeats, device=pipe.networks.device, warm_ups=2)
    labels = {"preset": preset, "picture": "new picture" if fresh else "same picture"}
    return Measurement.of("edit", seconds, "s", labels, rows=last[0].stats.rows[DENOISER])


def clients(setup: Setup) -> Found:
    """`throughput` with 1, 2, 4, 8 and 16 clients."""
    edits = 4 if setup.rehearse else 16
    counts = (1, 2) if setup.rehearse else (1, 2, 4, 8, 16)
    result = throughput(setup.load, setup.configuration(), clients=counts, edits=edits)
    gains = {row.labels["clients"]: row.extras["gain"] for row in result.measurements}
    gain = gains.get("8 clients", 0.0)
    return Found.of(result, *setup.target(f"8 clients {gain:g} times one (2 or more)", gain >= 2))


def every_profile(setup: Setup) -> Found:
    """`roofline` of every network; the denoiser at every batch size, in fp16 and bf16."""
    dtypes = (setup.precision,) if setup.rehearse else ("fp16", "bf16")
    result = roofline(
        setup.model, setup.size, batches=setup.batches, repeats=setup.repeats, dtypes=dtypes,
        device=setup.device,
    )  # fmt: skip
    calls = {
        row.labels["rows"]: row
        for row in result.measurements
        if row.name == "call" and row.labels["network"] == DENOISER
        if row.labels["backend"] == "torch fp16"
    }
    targets: tuple[Check, ...] = ()
    if 2 in calls:
        taken = calls[2].value or 0.0
        targets += setup.target(f"a call of two rows: {taken:.2f} ms (5.5)", taken <= 5.5)
    if 16 in calls:
        share = calls[16].extras["share_of_limit"]
        targets += setup.target(f"16 rows: {share:.0%} of the matrix limit (55 %)", share >= 0.55)
    return Found.of(result, *targets)
