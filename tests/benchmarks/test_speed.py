"""The speed benchmarks run on a tiny model; what they assert are counts and shares, not seconds."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import (
    attention,
    convolution,
    kernels,
    ladder,
    latency,
    plots,
    profile,
    roofline,
    suite,
    throughput,
)
from benchmarks.openvino import OpenVinoNetworks
from benchmarks.shelf import Shelf, Way
from benchmarks.subject import Subject
from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError, DiffEditError
from engine.models.stable_diffusion import NETWORKS


def options(model: Path, *more: str) -> list[str]:
    return ["--model", str(model), "--steps", "4", "--maps", "4", *more]


def test_latency_counts_what_an_edit_costs(tiny: Path) -> None:
    found = latency.run(options(tiny, "--dtype", "fp32", "--repeats", "2"))["result"]
    assert found["rows"]["unet"] in (8, 8 + 3 + 6)  # an empty mask ends after the first step
    assert set(found["warm"]) >= {"mask", "total"}
    assert found["warm"]["total"]["count"] == 2
    assert found["seconds_cold"] > found["seconds_open"] > 0
    assert found["check"] == {"mask_iou": 1.0, "latents_relative_error": pytest.approx(0, abs=1e-4)}
    assert found["next_rows"]["unet"] <= found["rows"]["unet"]
    assert (found["host_syncs"] is None) == (not torch.cuda.is_available())


def test_clients_share_calls(tiny: Path) -> None:
    more = ("--dtype", "fp32", "--clients", "1,4", "--edits", "6", "--load", "50")
    lines = throughput.run(options(tiny, "--guidance", "2", *more))["result"]["lines"]
    assert list(lines) == [
        "one at a time",
        "1 clients",
        "4 clients",
        "Poisson, 50 times that rate",
    ]
    alone, four = lines["one at a time"], lines["4 clients"]
    assert alone["gain"] == 1
    assert four["rows_per_call"] > alone["rows_per_call"]
    assert all(0 <= line["padding"] < 1 for line in lines.values())
    assert alone["rows_shared"] == 0 and four["rows_shared"] >= 0
    assert all(line["p50"] <= line["p95"] <= line["p99"] for line in lines.values())


def test_operations_are_those_of_the_layers(tiny: Path) -> None:
    """A text encoder is linear layers and attention: its operations can be counted by hand."""
    checkpoint = Checkpoint.open(tiny)
    config = checkpoint.family.configs["text_encoder"]
    width, inner = config["hidden_size"], config["intermediate_size"]
    tokens, layers = 77, config["num_hidden_layers"]
    linear = 2 * tokens * (4 * width * width + 2 * width * inner)
    attention = 2 * 2 * tokens * tokens * width
    spec = checkpoint.spec("text", (64, 64))
    assert roofline.operations(checkpoint, spec) == layers * (linear + attention)


@pytest.mark.parametrize("net", [network.name for network in NETWORKS])
def test_weights_are_counted(net: str, tiny: Path) -> None:
    checkpoint = Checkpoint.open(tiny)
    count = roofline.weight_count(checkpoint, net)
    modules = TorchNetworks.open(checkpoint, dtype="fp32", device="cpu").modules
    whole = sum(p.numel() for p in modules[checkpoint.network(net).part].parameters())
    assert 0 < count <= whole and (count == whole) == (not net.startswith("vae"))


def test_the_roofline_has_every_network_and_profile(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roofline, "SIDES", {"cpu": (256,), "cuda": (256,)})
    monkeypatch.setattr(roofline, "COPIED", {"cpu": 2**20, "cuda": 2**20})
    plot = tmp_path / "roofline.png"
    more = ("--dtype", "fp32", "--batches", "1,2,3", "--repeats", "1", "--plot", str(plot))
    found = roofline.run(options(tiny, *more))["result"]
    told = [(call["network"], call["rows"]) for call in found["calls"]]
    assert told == [
        ("text", 1), ("vae_encode", 1), ("unet", 1), ("unet", 2), ("unet", 3), ("vae_decode", 1)
    ]  # fmt: skip
    one, two = (c["gflop"] for c in found["calls"] if c["network"] == "unet" and c["rows"] < 3)
    assert two == pytest.approx(2 * one, abs=0.11)
    assert all(call["bound_ms"] > 0 for call in found["calls"])
    assert found["matrix_tflops"] > 0 and plot.stat().st_size > 5000


def test_a_profile_names_every_kind_of_work(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(profile, "matrix_ceiling", lambda device, dtype: 1e12)
    more = ("--dtype", "fp32", "--rows", "3", "--repeats", "1")
    found = profile.run(options(tiny, *more))["result"]
    kinds = found["kinds"]
    assert set(kinds) == {*profile.KINDS, profile.REST}
    assert sum(kind["share"] for kind in kinds.values()) == pytest.approx(1, abs=1e-3)
    checkpoint = Checkpoint.open(tiny)
    counted = sum(kind.get("gflop", 0) for kind in kinds.values())
    one = roofline.operations(checkpoint, checkpoint.spec("unet", (64, 64)))
    assert counted == pytest.approx(3 * one / 1e9, abs=0.2)
    assert "convolutions" in capsys.readouterr().out
    with pytest.raises(DiffEditError, match="torch backend alone"):
        profile.run(options(tiny, "--backend", "onnxruntime"))


def test_the_ladder_says_what_ran_and_what_did_not(tiny: Path, tmp_path: Path) -> None:
    found = ladder.run(options(tiny, "--rungs", "1,2,4,5,7,8,9,10,14,15"))["result"]["rungs"]
    by_name = {rung["name"]: rung for rung in found}
    ran = [rung for rung in found if "seconds" in rung]
    assert len(ran) >= 4 and all("why_not" in rung for rung in found if rung not in ran)
    assert by_name["onnxruntime, one edit"]["why_not"] == "no --engines folder was given"
    fp32, plain = by_name[ladder.FP32], by_name["ours, plain loops in fp32"]
    assert fp32["mask_iou"] == 1 and fp32["latents_relative_error"] == 0
    theirs = next(rung for rung in ran if rung["name"].startswith("diffusers, its defaults"))
    assert theirs["unet_rows"] == 4 * 4 + 2 * 3 + 2 * 3 and plain["unet_rows"] == 2 * 4 + 3 * 3
    plots.ladder(found, tmp_path / "ladder.png")
    assert (tmp_path / "ladder.png").stat().st_size > 5000


def test_ways_of_attention_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SHAPES", ((40, 77, 12), (600, 600, 40)))
    monkeypatch.setattr(kernels, "matrix_ceiling", lambda device, dtype: 1e12)
    calls = attention.run(["--rows", "1", "--repeats", "1"])["calls"]
    assert len(calls) >= 2 * len(attention.WAYS)
    assert all(0 < call["relative_error"] < 0.01 for call in calls)
    assert all(call["ms"] > 0 for call in calls)


def test_ways_of_convolution_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "SHAPES", ((32, 64, 9), (96, 128, 16)))
    monkeypatch.setattr(kernels, "matrix_ceiling", lambda device, dtype: 1e12)
    calls = convolution.run(["--rows", "1", "--repeats", "1"])["calls"]
    assert len(calls) >= 4
    assert {c["relative_error"] for c in calls if c["way"] == "PyTorch, fp32"} == {0}
    assert all(c["relative_error"] < 0.01 and c["ms"] > 0 for c in calls)


def test_rungs_that_run_alike_share_their_networks(tiny: Path) -> None:
    shelf = Shelf(Checkpoint.open(tiny))
    way = Way(device="cpu", dtype="fp32", cuda_graphs=False)
    first = shelf.take(way)
    first.close()  # a pipeline's end does not empty the shelf
    backend = first.find("unet", (4, 16, 16))
    assert (
        shelf.take(Way(device="cpu", dtype="fp32", cuda_graphs=False)).find("unet", (4, 16, 16))
        is backend
    )
    plain = shelf.take(replace(way, dtype="bf16", channels_last=False))
    assert plain.find("unet", (4, 16, 16)).spec.precision == "bf16"
    shelf.clear()


def test_the_suite_keeps_what_ran_and_names_what_failed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: list[str]) -> None:
        raise DiffEditError("the device went away")

    monkeypatch.setattr(latency, "run", fail)
    monkeypatch.setattr(roofline, "matrix_ceiling", lambda device, dtype: 1e12)
    monkeypatch.setattr(roofline, "copy_ceiling", lambda device: 1e10)
    path = tmp_path / "results.json"
    more = ["--model", str(tiny), "--steps", "2", "--only", "latency,roofline"]
    found = suite.run([*more, "--into", str(path)])
    assert found["done"] == ["roofline"] and found["failed"] == {"latency": "the device went away"}
    assert [run["benchmark"] for run in json.loads(path.read_text())["runs"]] == ["roofline"]
    assert "latency failed" in capsys.readouterr().err
    with pytest.raises(DiffEditError, match="No benchmark could run"):
        suite.run([*more[:-1], "latency", "--into", str(path)])


def test_the_yardstick_is_no_need(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(DiffEditError, match="pip install openvino"):
        OpenVinoNetworks(tmp_path)


def test_a_missing_model_is_named_before_anything_is_measured() -> None:
    for module in (latency, throughput, roofline, ladder):
        with pytest.raises(CheckpointError, match="no model folder"):
            module.run(["--model", "/no/such/model"])


def test_a_subject_runs_at_its_models_size(tiny: Path) -> None:
    subject = Subject(tiny, (64, 96), 4, 0.5, 3.0, 2)
    request = subject.request(seed=5, strength=0.7)
    assert subject.image.size == (96, 64)
    assert (request.seed, request.strength, request.num_maps_per_mask) == (5, 0.7, 2)
    assert subject.settings()["size"] == [64, 96] and "model" not in subject.settings()
