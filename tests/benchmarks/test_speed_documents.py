"""Figures of speed in the documents are those of the published results."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from benchmarks.schema import Measurement
from tests.benchmarks.documents import ROOT, agrees, published, rows

RUNGS = {
    "diffusers' pipeline, its defaults (fp32)": "diffusers, its defaults (fp32)",
    "the same tuned: bf16, channels_last, plain inversion, one encode": (
        "diffusers, tuned: bf16, channels_last, plain inversion, one encode"
    ),
    "tuned and compiled": "diffusers, tuned and compiled",
    "here, preset `paper`, fp32": "ours, fp32",
    "bf16": "+ bf16",
    "channels_last: the default": "+ channels_last",
    "`--compile`": "+ torch.compile",
    "two edits sharing calls, each": "2 edits sharing calls, each",
    "the next edit of the same picture": "the next edit of the same picture",
    "preset `balanced`, not compiled": "preset balanced",
    "preset `balanced`, `--compile`": "preset balanced, compiled",
    "its next edit of the same picture": "preset balanced, the next edit of the same picture",
}
"""Rows of the table in docs/speed.md -> rungs."""
KERNEL_RUNGS = {
    "bf16, channels_last and both kernels: the default": "+ convolution kernel",
    **{
        label: rung
        for label, rung in RUNGS.items()
        if rung
        not in (
            "diffusers, tuned and compiled",
            "+ bf16",
            "+ channels_last",
            "2 edits sharing calls, each",
            "the next edit of the same picture",
        )
    },
}
"""The same on a processor that runs this project's kernels."""


@pytest.mark.parametrize(
    ("heading", "name", "rungs"),
    [
        ("## One edit", "cpu-intel-xeon-2-ladder", RUNGS),
        ("## The same with this", "cpu-amd-epyc-2-ladder-256", KERNEL_RUNGS),
    ],
)
def test_the_ladder_in_the_documents_is_the_published_one(
    heading: str, name: str, rungs: dict[str, str]
) -> None:
    table = rows("docs/speed.md", heading)
    result = published(name)
    assert set(table) == set(rungs)
    assert len(result.measurements) == len(rungs)
    first = result.measurements[0].value or 0.0
    for label, (seconds, faster, cost, iou) in table.items():
        found = result.find("edit", rung=rungs[label])
        assert agrees(seconds, found), label
        assert faster == f"{first / (found.value or 1):.1f} x", label
        assert int(cost) == found.extras["rows"], label
        if iou:
            assert iou == f"{found.extras['quality']['mask_iou']:.3f}", label


@pytest.mark.parametrize(
    ("processor", "name", "default"),
    [
        ("Xeon", "cpu-intel-xeon-2-ladder", "+ channels_last"),
        ("EPYC", "cpu-amd-epyc-2-ladder-256", "+ convolution kernel"),
    ],
)
def test_the_seconds_in_the_readme_are_those_of_the_ladder(
    processor: str, name: str, default: str
) -> None:
    result = published(name)
    cells = rows("README.md", "## Speed and quality")[f"seconds an edit, {processor}"]
    names = (
        "diffusers, its defaults (fp32)",
        "diffusers, tuned: bf16, channels_last, plain inversion, one encode",
        default,
        "+ torch.compile",
        "preset balanced",
    )
    for name, cell in zip(names, cells, strict=True):
        assert agrees(cell, result.find("edit", rung=name)), name


def test_the_older_ladder_in_the_documents_is_the_published_one() -> None:
    table = rows("docs/speed.md", "## The same at 512 px")
    result = published("cpu-amd-epyc-2-ladder")
    seconds = {round(row.value or 0) for row in result.measurements}
    assert {int(cells[0]) for cells in table.values()} <= seconds and len(table) == 12
    assert int(table["diffusers' pipeline, its defaults (fp32)"][0]) == max(seconds)
    assert all(row.repeats == 1 for row in result.measurements)


def test_the_seconds_that_explain_the_speed_are_those_of_the_ladder() -> None:
    ladder = rows("docs/speed.md", "## The same at 512 px").values()
    seconds = {int(cells[0]) for cells in ladder}
    table = rows("docs/why-fast.md", "## Faster rows")
    assert len(table) == 5 and {int(cells[0]) for cells in table.values()} <= seconds
    text = (ROOT / "docs/why-fast.md").read_text()
    compared = re.findall(
        r"at its defaults (\d+), the paper's algorithm in plain loops (\d+)", text
    )
    compared += re.findall(r"(\d+) s for each of two edits, instead of (\d+) s", text)
    assert len(compared) == 2 and {int(one) for pair in compared for one in pair} <= seconds


def test_the_seconds_of_one_edit_are_those_of_latency() -> None:
    result = published("cpu-amd-epyc-2-latency")
    new, again = ({"picture": f"{name} picture"} for name in ("new", "same"))
    found = {
        "open the model, in a new process": result.find("open the model in a new process"),
        "open it and edit the first picture": result.find("first picture in a new process"),
        "edit a new picture": result.find("edit", stage="total", **new),
        "its mask": result.find("edit", stage="mask", **new),
        "its encoding": result.find("edit", stage="encode", **new),
        "its decoding": result.find("edit", stage="decode", **new),
        "edit the same picture again": result.find("edit", stage="total", **again),
    }
    table = rows("docs/speed.md", "## One edit at a time")
    assert set(table) == set(found)
    assert all(agrees(cell, found[label]) for label, (cell,) in table.items())
    memory = result.find("peak memory").value
    assert f"at most {memory} GiB of memory" in (ROOT / "docs/speed.md").read_text()


def scaled(found: Measurement, factor: float) -> Measurement:
    """The measurement in another unit."""
    assert found.value is not None and found.low is not None and found.high is not None
    low, value, high = (factor * one for one in (found.low, found.value, found.high))
    return replace(found, value=value, low=low, high=high)


def test_the_calls_in_the_documents_are_the_published_ones() -> None:
    """Seconds of a call of the UNet by backend, and of its parts; calls of every network."""
    result = published("cpu-amd-epyc-2-row")
    backends = {
        "PyTorch, bf16, own kernels (the default here)": "torch bf16",
        "OpenVINO, bf16": "openvino",
        "ONNX Runtime, the fp32 file": "onnxruntime",
        "PyTorch, fp32": "torch fp32",
    }
    table = rows("docs/speed.md", "## One call")
    assert table.keys() == backends.keys()
    for label, backend in backends.items():
        for count, cell in enumerate(table[label], 1):
            if not cell.startswith("not run"):
                found = result.find("call", backend=backend, network="unet", rows=count)
                assert agrees(cell.replace(" s", ""), scaled(found, 1e-3)), (backend, count)
    table = rows("docs/speed.md", "python -m benchmarks profile --model")
    for column, name in enumerate(("eager", "kernels", "compiled")):
        profile = published(f"cpu-amd-epyc-2-profile-{name}")
        assert agrees(table["all"][column].replace(" s", ""), profile.find("call")), name
        for kind in ("convolutions", "attention", "matrix products"):
            seconds, rate = table[kind][column].split(", ")
            found = profile.find("part", kind=kind)
            assert agrees(seconds, found), (name, kind)
            assert float(rate.split()[0]) == round(found.extras["tflops"], 2), (name, kind)
    limits = published("cpu-amd-epyc-2-roofline")
    calls = {
        "text encoder": ("text", 1),
        "VAE encoder": ("vae_encode", 1),
        "UNet, one row": ("unet", 1),
        "UNet, two rows": ("unet", 2),
        "VAE decoder": ("vae_decode", 1),
    }
    table = rows("docs/speed.md", "python -m benchmarks roofline --model sd15 --size 512")
    assert table.keys() == calls.keys()
    for label, (network, count) in calls.items():
        _, milliseconds, bound, share = table[label]
        found = limits.find("call", network=network, rows=count, backend="torch")
        assert agrees(milliseconds, found), label
        assert abs(float(bound) - found.extras["bound_ms"]) <= 0.5, label
        assert share == f"{100 * found.extras['share_of_limit']:.0f} %", label
