"""The speed benchmarks run on a tiny model; assertions are about counts and shares, not time."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    kernels,
    ladder,
    latency,
    networks,
    profile,
    roofline,
    serving,
    serving_cost,
    serving_keys,
    throughput,
    timing,
)
from benchmarks.configuration import Configuration, NetworkCache
from benchmarks.networks import DENOISER
from benchmarks.openvino import OpenVinoNetworks
from benchmarks.report import table
from benchmarks.schema import Measurement, Result
from benchmarks.workload import Workload
from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint
from engine.errors import DiffEditError

FP32 = Configuration(dtype="fp32")


def short(model: Path, **more: Any) -> Workload:
    return Workload(model, steps=4, maps=4, **more)


def every_timing_is_repeated(result: Result) -> bool:
    """Three repeats or more with a spread, or a single value that says so."""
    return all(
        row.repeats >= 3 and row.low is not None and row.high is not None
        for row in result.measurements
        if row.unit in ("s", "ms", "us", "edits/s", "TFLOP/s")
    )


def test_fewer_than_three_repeats_are_refused() -> None:
    with pytest.raises(AssertionError, match="3 repeats"):
        timing.repeat(lambda: None, 2)
    assert len(timing.repeat(lambda: None, 3)) == 3


@pytest.mark.slow
def test_latency_counts_rows_and_calls(tiny: Path) -> None:
    result = latency.latency(short(tiny), FP32, 3, cold_starts=0)
    total = result.find("edit", picture="new picture", stage="total")
    again = result.find("edit", picture="same picture", stage="total")
    rows = total.extras["rows"][DENOISER]
    assert rows in (8, 8 + 3 + 6)  # an empty mask ends after the first step
    quality = total.extras["quality"]
    assert quality == {"mask_iou": 1.0, "latents_relative_error": pytest.approx(0, abs=1e-4)}
    assert again.extras["rows"][DENOISER] <= rows
    assert every_timing_is_repeated(result) and "fp32" in result.configuration["backend"]


@pytest.mark.slow
def test_a_cold_start_runs_in_new_processes(tiny: Path) -> None:
    load = Workload(tiny, steps=2, maps=1)
    rows = latency.cold(load, Configuration(device="cpu", dtype="fp32"), 3)
    opened, first = rows
    assert opened.repeats == first.repeats == 3
    assert first.low is not None and opened.low is not None and first.low > opened.low > 0


@pytest.mark.slow
def test_clients_share_calls(tiny: Path) -> None:
    result = throughput.throughput(
        short(tiny, guidance=2), FP32, 3, clients=(1, 4), edits=6, arrivals=50
    )
    rows = {row.labels["clients"]: row for row in result.measurements if row.unit == "edits/s"}
    assert list(rows) == ["1 clients", "4 clients", "Poisson, 50 times that rate"]
    alone, four = (rows[name].extras for name in ("1 clients", "4 clients"))
    assert alone["gain"] == 1 and four["rows_per_call"] > alone["rows_per_call"]
    assert all(0 <= row.extras["padding"] < 1 for row in rows.values())
    assert alone["rows_shared"] == 0 and four["rows_shared"] >= 0
    assert all(row.extras["p50"] <= row.extras["p95"] for row in rows.values())
    assert every_timing_is_repeated(result)


def test_operations_are_those_of_the_layers(tiny: Path) -> None:
    """A text encoder is linear layers and attention: its operations can be counted by hand."""
    checkpoint = Checkpoint.open(tiny)
    config = checkpoint.family.configs["text_encoder"]
    width, inner = config["hidden_size"], config["intermediate_size"]
    tokens, layers = 77, config["num_hidden_layers"]
    linear = 2 * tokens * (4 * width * width + 2 * width * inner)
    attention = 2 * 2 * tokens * tokens * width
    spec = checkpoint.spec("text", (64, 64))
    assert networks.operations(checkpoint, spec) == layers * (linear + attention)


@pytest.mark.parametrize("net", networks.NETWORKS)
def test_weights_are_counted(net: str, tiny: Path) -> None:
    checkpoint = Checkpoint.open(tiny)
    count = networks.weight_count(checkpoint, net)
    modules = TorchNetworks.open(checkpoint, dtype="fp32", device="cpu").modules
    whole = sum(p.numel() for p in modules[checkpoint.network(net).part].parameters())
    assert 0 < count <= whole and (count == whole) == (not net.startswith("vae"))


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's limits, measured on small arrays."""
    monkeypatch.setattr(roofline, "SIDES", {"cpu": (128,), "cuda": (128,)})
    monkeypatch.setattr(roofline, "COPIED", {"cpu": 2**20, "cuda": 2**20})


@pytest.mark.usefixtures("small_limits")
def test_the_roofline_has_every_network_precision_and_batch(tiny: Path, tmp_path: Path) -> None:
    plot = tmp_path / "roofline.png"
    chosen: dict[str, Any] = {"batches": (1, 2, 99), "repeats": 3, "plot": plot}
    result = roofline.roofline(tiny, dtypes=("fp32", "bf16"), **chosen)
    calls = [row for row in result.measurements if row.name == "call"]
    fp32 = [row for row in calls if row.labels["backend"] == "torch fp32"]
    assert len(calls) == 2 * len(fp32)
    assert [(row.labels["network"], row.labels["rows"]) for row in fp32] == [
        ("text", 1), ("vae_encode", 1), ("unet", 1), ("unet", 2), ("vae_decode", 1)
    ]  # fmt: skip
    one, two = (row.extras["gflop"] for row in fp32 if row.labels["network"] == DENOISER)
    assert two == pytest.approx(2 * one, abs=0.11)
    assert all(row.extras["bound_ms"] > 0 for row in calls)
    assert {one.reason for one in result.not_run} == {"it has no such batch profile"}
    assert every_timing_is_repeated(result) and plot.stat().st_size > 5000


@pytest.mark.usefixtures("small_limits")
def test_a_profile_names_every_kind_of_operation(tiny: Path) -> None:
    result = profile.profile(tiny, rows=3, repeats=3, dtype="fp32")
    kinds = {row.labels["kind"]: row for row in result.measurements if row.name == "part"}
    assert set(kinds) == {*profile.KINDS, profile.REST}
    assert all(0 <= row.extras["share"] <= 1 for row in kinds.values())
    checkpoint = Checkpoint.open(tiny)
    counted = sum(row.extras.get("gflop", 0) for row in kinds.values())
    one = networks.operations(checkpoint, checkpoint.spec(DENOISER, (64, 64)))
    assert counted == pytest.approx(3 * one / 1e9, abs=0.2)
    with pytest.raises(DiffEditError, match="torch backend only"):
        profile.profile(tiny, backend="onnxruntime")


def test_the_parts_of_a_call_take_their_share_of_its_time() -> None:
    spent = [{"convolutions": 0.75, "attention": 0.25}] * 3
    flops = Counter({"convolutions": 3 * 10**12})
    first, second = profile.kinds(spent, flops, seconds=4.0, peak=2e12)
    assert (first.labels["kind"], first.value, first.extras["share"]) == ("convolutions", 3.0, 0.75)
    assert (first.extras["tflops"], first.extras["share_of_limit"]) == (1.0, 0.5)
    assert (second.labels["kind"], second.value) == ("attention", 1.0)
    assert "tflops" not in second.extras


@pytest.mark.slow
def test_the_ladder_says_what_ran_and_what_did_not(tiny: Path, tmp_path: Path) -> None:
    plot = tmp_path / "ladder.png"
    rungs = (1, 2, 4, 5, 7, 8, 9, 10, 14, 15)
    result = ladder.ladder(short(tiny), rungs=rungs, plot=plot)
    ran = {row.labels["rung"]: row for row in result.measurements}
    reasons = {one.name: one.reason for one in result.not_run}
    assert len(ran) + len(reasons) == len(rungs)
    assert reasons["onnxruntime, one edit"] == "no --engines folder was given"
    assert ran[ladder.FP32].extras["quality"] == {"mask_iou": 1, "latents_relative_error": 0}
    assert next(row for name, row in ran.items() if name.startswith("diffusers, its")).extras[
        "rows"
    ] == (4 * 4 + 2 * 3 + 2 * 3)
    assert ran["ours, plain loops in fp32"].extras["rows"] == 2 * 4 + 3 * 3
    assert every_timing_is_repeated(result)
    assert plot.stat().st_size > 5000 and "not run: tensorrt" in table(result)


HIDE_FEATURES = """
import sys, warnings
import torch
torch.cpu._is_avx512_bf16_supported = torch.cpu._is_amx_tile_supported = lambda: False
import benchmarks.ladder as ladder
from benchmarks.configuration import NetworkCache
from benchmarks.workload import Workload
from engine.backends.torch import compile
from pathlib import Path
assert "torch._inductor.compile_fx" not in sys.modules
warnings.simplefilter("error")
load = Workload(Path(sys.argv[1]), steps=2)
rungs = list(ladder.all_rungs(load, NetworkCache(load.checkpoint), torch.device("cpu"), None, 2))
print([rung.name for rung in rungs if rung.reason.startswith("this processor")])
print([i for i, rung in enumerate(rungs, 1) if rung.name == "+ torch.compile"])
linear = torch.nn.Linear(4, 4)
compile.compile_modules([linear], torch.device("cpu"))
with compile.first_call("unet", 1, torch.device("cpu")), torch.inference_mode():
    assert linear(torch.ones(2, 4)).shape == (2, 4)
print("compiled")
"""


def test_a_processor_without_bf16_can_compile_where_warnings_are_errors(tiny: Path) -> None:
    """PyTorch's compiler warns of deprecated code of its own when it is first imported, here in a
    new process. The rungs have the same numbers as on other processors."""
    done = subprocess.run(
        [sys.executable, "-c", HIDE_FEATURES, str(tiny)],
        cwd=Path(ladder.__file__).parents[1],
        text=True,
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['+ fp32', '+ channels_last']", "[11]", "compiled"]


@pytest.mark.usefixtures("small_limits")
def test_implementations_of_the_kernels_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "ATTENTION", ((40, 77, 12), (600, 600, 40)))
    monkeypatch.setattr(kernels, "CONVOLUTION", ((32, 64, 9), (96, 128, 16)))
    result = kernels.kernels(rows=1, repeats=3)
    calls = [row for row in result.measurements if row.name == "call"]
    assert len(calls) >= 2 * 2 + 2 * 2
    assert all(row.extras["quality"]["relative_error"] < 0.01 for row in calls)
    assert every_timing_is_repeated(result)
    only = kernels.kernels(only=("convolution",), rows=1, repeats=3)
    assert {row.labels.get("kernel") for row in only.measurements} == {None, "convolution"}


def test_equal_configurations_share_their_networks(tiny: Path) -> None:
    cache = NetworkCache(Checkpoint.open(tiny))
    chosen = Configuration(device="cpu", dtype="fp32", cuda_graphs=False, kernels=())
    cache.get(chosen).close()  # the end of a pipeline does not close them
    opened = cache.get(chosen)
    assert opened._networks is cache.get(replace(chosen))._networks  # type: ignore[attr-defined]
    plain = cache.get(replace(chosen, dtype="bf16", channels_last=False))
    assert plain.find(DENOISER, (4, 16, 16)).spec.precision == "bf16"
    cache.clear()


def test_openvino_is_optional(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(DiffEditError, match="pip install openvino"):
        OpenVinoNetworks(tmp_path)
    with pytest.raises(DiffEditError, match="name its folder with --engines"):
        roofline.roofline(tiny, backends=("openvino",))


def test_a_workload_runs_at_its_size(tiny: Path) -> None:
    work = Workload(tiny, (64, 96), 4, 0.5, 3.0, 2)
    request = work.request(seed=5, strength=0.7)
    assert work.image.size == (96, 64)
    assert (request.seed, request.strength, request.num_maps_per_mask) == (5, 0.7, 2)
    assert work.settings()["size"] == [64, 96] and "model" not in work.settings()


def test_the_parts_of_serving_that_run_several_times_become_one_row() -> None:
    codes = [Measurement(serving.EXIT, code, statistic="maximum") for code in (0.0, 1.0, 0.0)]
    late = [Measurement(serving.NOT_READY, ms, "ms") for ms in (3.0, 200.0, 4.0)]
    code, ready = serving.merged([*codes, *late])
    assert (code.value, code.repeats) == (1.0, 3) and ready.value == 4.0
    checks = [check for row in (code, ready) for check in serving.check(row)]
    assert [check.met for check in checks] == [False, True]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_server_is_measured(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_cost, "REQUESTS", 5)
    monkeypatch.setattr(serving_cost, "WARM_UPS", 2)
    monkeypatch.setattr(serving, "JOBS", 3)
    monkeypatch.setattr(serving, "CROWD", 200)
    monkeypatch.setattr(serving_keys, "EDITS", 3)
    monkeypatch.setattr(serving_keys, "REFINEMENTS", 5)
    monkeypatch.setattr(serving_keys, "WARM_UPS", 2)
    result = serving.serving(tiny, call_ms=2, seconds=2, soak=3)
    rows = {row.title: row.value for row in result.measurements}
    assert set(serving.BOUNDS) <= set(rows)
    assert len(result.checks) == len(serving.BOUNDS)
    processor = [row for row in result.measurements if row.name == serving_cost.PROCESSOR]
    assert [row.labels["preset"] for row in processor] == ["paper", "balanced", "paper"]
    assert all(row.value and row.low and row.repeats == 5 for row in processor)
    assert result.find(serving.EQUAL).value == 1 and result.find(serving.EXIT).value == 0
    assert result.find(serving.NOT_READY).repeats == 3
    assert result.find("failed requests at 4 times capacity").value == 0
    gain = result.find(serving.GAIN)
    assert all((rows[title] or 0) > 0 for title in serving_keys.BOUNDS)
    assert gain.repeats == 3 and gain.value is not None and gain.value > 0
    assert not result.not_run
