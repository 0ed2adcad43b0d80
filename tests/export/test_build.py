"""What a build makes, keeps, makes again, refuses, and falls back to."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.backends.onnxruntime import memory
from engine.errors import BuildError, CheckpointError, EngineMismatch
from engine.manifest import Check, Manifest
from engine.netspec import Precision
from engine.verification import verdict
from export import output_folder, targets, verify
from export.build import Event, StorageError, build
from export.checks import BY_DEFAULT

Run = Callable[..., tuple[Manifest, list[Event]]]
Made = Callable[[list[Event]], list[tuple[str, str]]]
Change = Callable[..., None]
Copy = Callable[[Path], Path]
Only = Callable[..., None]
RTX: dict[str, Any] = {"target": "tensorrt-rtx"}


def stamps(out: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in out.iterdir()}


def intact(manifest: Manifest, out: Path) -> None:
    """Every entry's files are as listed, and nothing else lies there."""
    for entry in manifest.entries:
        entry.verified(out)
    listed = {f.name for e in manifest.entries for f in e.files}
    assert {p.name for p in out.iterdir()} == listed | {"manifest.json", ".lock"}
    assert Manifest.load(out) == manifest


def test_the_build_of_the_issue(engines: Path, tiny: Path) -> None:
    manifest = Manifest.load(engines)
    intact(manifest, engines)
    assert len(list(engines.glob("*.onnx"))) == len(list(engines.glob("*.engine"))) == 4
    assert manifest.model is not None
    assert manifest.model.source == str(tiny.resolve())
    assert manifest.model.family == "stable-diffusion"
    assert sorted(manifest.model.digests) == ["text_encoder", "unet", "vae"]
    assert manifest.model.networks == ("text", "vae_encode", "unet", "vae_decode")
    sizes = {entry.spec.name: entry.spec.size for entry in manifest.entries}
    assert sizes == dict.fromkeys(manifest.model.networks, (64, 96)) | {"text": None}
    assert len({entry.key for entry in manifest.entries}) == 8
    for entry in manifest.entries:
        by_torch = [c for c in entry.checks if c.backend == "torch"]
        first, *others = entry.own_checks
        assert {check.status for check in others} == {"not run"}
        assert len(entry.own_checks) == len(entry.spec.batch_sizes)
        if entry.format != "onnx":
            assert "there is no NVIDIA GPU" in first.reason
            continue
        assert {check.reason for check in others} == {BY_DEFAULT}
        for check in (*by_torch, first):
            assert check.status == "passed" and check.reason == ""
            assert check.relative is not None and check.relative < 1e-5
            assert check.max_abs is not None and check.max_abs < 1e-3
        assert entry.seconds > 0
        assert entry.peak_bytes > 1e8


def test_a_second_run_does_nothing(micro: Path, micro_engines: Path, run: Run) -> None:
    before = stamps(micro_engines)
    _, events = run(micro, micro_engines, **RTX)
    assert {e.step for e in events} == {"target", "kept"}
    after = stamps(micro_engines)
    assert {n: t for n, t in after.items() if n != ".lock"} == {
        n: t for n, t in before.items() if n != ".lock"
    }


def test_other_unet_weights_rebuild_the_unet_alone(
    micro: Path, micro_engines: Path, run: Run, made: Made, change: Change, own: Copy
) -> None:
    model = own(micro)
    change(model, "unet")
    built = Manifest.load(micro_engines)
    assert built.model is not None
    replace(built, model=replace(built.model, source=str(model))).save(micro_engines)
    before = {e.files[0].name: e for e in built.entries}
    manifest, events = run(model, micro_engines, **RTX)
    assert made(events) == [("export", "unet"), ("compile", "unet")]
    intact(manifest, micro_engines)
    for entry in manifest.entries:
        old = before[entry.files[0].name]
        assert (entry.key != old.key) == (entry.spec.name == "unet")
        assert (entry.files != old.files) == (entry.spec.name == "unet")


def test_other_batches_rebuild_the_unet_engine_alone(
    micro: Path, micro_engines: Path, run: Run, made: Made
) -> None:
    manifest, events = run(micro, micro_engines, batches=(1, 3), **RTX)
    assert made(events) == [("compile", "unet")]
    intact(manifest, micro_engines)
    for entry in (e for e in manifest.entries if e.spec.name == "unet"):
        assert entry.spec.batch_sizes == (1, 3)
    onnx = next(e for e in manifest.entries if (e.format, e.spec.name) == ("onnx", "unet"))
    checked = [c.batch for c in onnx.checks if c.backend == "onnxruntime"]
    assert sorted(checked) == [1, 3]


@pytest.mark.parametrize("harm", ["change", "truncate", "delete"])
def test_a_spoilt_file_is_made_again_and_no_other(
    harm: str, micro: Path, micro_engines: Path, run: Run, made: Made
) -> None:
    name = {"change": "vae_encode", "truncate": "text", "delete": "text"}[harm]
    ending = "engine" if harm == "delete" else "onnx"
    (path,) = micro_engines.glob(f"{name}*.{ending}")
    data = path.read_bytes()
    if harm == "delete":
        path.unlink()
    else:
        path.write_bytes(data[:-7] + (b"" if harm == "truncate" else b"changed"))
    manifest, events = run(micro, micro_engines, **RTX)
    step = "compile" if ending == "engine" else "export"
    assert made(events) == [(step, name)]  # the same bytes again, so no engine depends on it
    assert any("built again" in e.text for e in events)
    intact(manifest, micro_engines)
    if step == "export":
        assert path.read_bytes() == data


@pytest.mark.slow
def test_sizes_live_side_by_side(micro: Path, micro_engines: Path, run: Run, made: Made) -> None:
    first = Manifest.load(micro_engines)
    manifest, events = run(micro, micro_engines, sizes=[(16, 16), (16, 24)])
    assert made(events) == [("export", n) for n in ("vae_encode", "vae_decode", "unet")]
    intact(manifest, micro_engines)
    assert len(manifest.entries) == 11
    assert {e.key for e in first.entries} < {e.key for e in manifest.entries}


def test_sizes_of_other_weights_do_not_stay(
    micro: Path, micro_engines: Path, run: Run, change: Change, own: Copy, only: Only
) -> None:
    only("vae_encode", "vae_decode")
    model = own(micro)
    change(model, "vae")
    manifest, _ = run(model, micro_engines, sizes=[(16, 24)], verify=False)
    intact(manifest, micro_engines)
    names = sorted(e.files[0].name for e in manifest.entries if e.spec.name.startswith("vae"))
    assert names == ["vae_decode-16x24-fp32.onnx", "vae_encode-16x24-fp32.onnx"]


def test_another_models_folder_is_refused_unless_forced(
    micro: Path, tiny: Path, micro_engines: Path, run: Run
) -> None:
    before = stamps(micro_engines)
    with pytest.raises(EngineMismatch, match=r"choose another --out, or replace") as caught:
        run(tiny, micro_engines)
    assert str(micro.resolve()) in str(caught.value)
    assert str(tiny.resolve()) in str(caught.value)
    del before[".lock"]
    assert before.items() <= stamps(micro_engines).items()


def test_force_replaces_everything(
    micro: Path,
    micro_engines: Path,
    run: Run,
    made: Made,
    change: Change,
    own: Copy,
    only: Only,
) -> None:
    only("text", "vae_encode")
    model = own(micro)
    for part in ("unet", "vae", "text_encoder"):
        change(model, part)
    manifest, events = run(model, micro_engines, force=True, verify=False)
    assert made(events) == [("export", "text"), ("export", "vae_encode")]
    intact(manifest, micro_engines)
    assert manifest.source == str(model.resolve())


@pytest.mark.slow
def test_what_overflows_fp16_falls_back_to_fp32(
    micro: Path, tmp_path: Path, run: Run, made: Made, change: Change, own: Copy, only: Only
) -> None:
    only("text", "vae_encode", "vae_decode")
    model = own(micro)
    change(model, "vae", "decoder.conv_in", 1e6)  # a norm follows, so fp32 does not mind
    out = tmp_path / "out"
    manifest, events = run(model, out, precision="fp16")
    precisions = {e.spec.name: e.spec.precision for e in manifest.entries}
    others = dict.fromkeys(("text", "vae_encode"), "fp16")
    assert precisions == others | {"vae_decode": "fp32"}
    note = next(e.notes for e in manifest.entries if e.spec.name == "vae_decode")[0]
    assert note == "vae_decode 16x16 is too imprecise in fp16 (torch: not finite); it is in fp32."
    assert note in [e.text for e in events]
    intact(manifest, out)
    assert (out / "vae_decode-16x16-fp32.onnx").exists()
    assert made(run(model, out, precision="fp16")[1]) == []


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_what_misses_the_tolerance_falls_back_too(
    backend: str, micro: Path, tmp_path: Path, run: Run, only: Only, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = verify.compare

    def strict(name: str, precision: Precision, *tensors: Any) -> Check:
        check = compare(name, precision, *tensors)
        if name == backend and precision == "fp16" and check.batch in (1, 4):
            return replace(check, status="too imprecise", reason="relative error 1.0e+00")
        return check

    only("text")
    monkeypatch.setattr("export.verify.compare", strict)
    manifest, events = run(micro, tmp_path / "out", precision="fp16")
    (entry,) = manifest.entries
    assert entry.spec.precision == "fp32"
    assert f"({backend}" in entry.notes[0]
    assert "relative error" in entry.notes[0]
    intact(manifest, tmp_path / "out")
    wrong = [e for e in events if e.step == "export" and "fp16" in e.text]
    assert len(wrong) == (backend == "onnxruntime")


@pytest.mark.parametrize(("precision", "worst"), [("fp32", 1e-3), ("fp16", 2e-2), ("bf16", 5e-2)])
def test_the_tolerance_is_relative_to_the_whole_answer(precision: Precision, worst: float) -> None:
    want = torch.full((2, 100), 10.0)
    close, far = want * (1 + 0.9 * worst), want * (1 + 1.1 * worst)
    check = verify.compare("x", precision, [close], [want])
    assert check.status == "passed"
    assert check.relative == pytest.approx(0.9 * worst, rel=1e-3)
    assert check.max_abs == pytest.approx(9 * worst, rel=1e-2)
    assert verify.compare("x", precision, [far], [want]).status == "too imprecise"
    assert verify.compare("x", precision, [close, far], [want, want]).status == "too imprecise"
    far[0, 0] = float("inf")
    assert verify.compare("x", precision, [far], [want]).reason == "not finite"


@pytest.mark.slow
def test_profiles_that_do_not_fit_into_memory_are_listed_as_not_run(
    micro: Path, tmp_path: Path, run: Run, only: Only, monkeypatch: pytest.MonkeyPatch
) -> None:
    only("unet")
    first, _ = run(micro, tmp_path / "first", batches=(1,), verify=False)
    session = memory.SESSION_SHARE * sum(file.bytes for file in first.entries[0].files)
    row = 4 * 4 * 2 * 64 * 64  # bytes: four arrays of fp32, 2 heads, 8 x 8 cells squared
    monkeypatch.setattr(
        "engine.backends.onnxruntime.memory.available", lambda: int((session + 2.5 * row) / 0.7)
    )
    manifest, _ = run(micro, tmp_path / "out", batches=(1, 2, 3), verify="all")
    checks = [c for c in manifest.entries[0].checks if c.backend == "onnxruntime"]
    assert [(c.batch, c.status) for c in checks] == [(1, "passed"), (2, "passed"), (3, "not run")]
    assert "memory" in checks[2].reason


def test_bf16_is_built_and_listed_as_not_verified(
    micro: Path, tmp_path: Path, run: Run, only: Only
) -> None:
    only("text", "vae_encode")
    manifest, _ = run(micro, tmp_path / "out", precision="bf16", verify="all")
    for entry in manifest.entries:
        assert entry.spec.precision == "bf16"
        by_torch, *others = entry.checks
        assert (by_torch.backend, by_torch.status) == ("torch", "passed")
        assert {c.status for c in others} == {"not run"}
        assert all("bf16" in c.reason and str(tmp_path) not in c.reason for c in others)


@pytest.mark.slow
def test_verification_can_be_made_up_for(
    micro: Path, tmp_path: Path, run: Run, made: Made, only: Only
) -> None:
    only("text", "vae_decode")
    out = tmp_path / "out"
    first, _ = run(micro, out, verify=False)
    assert [verdict(e) for e in first.entries] == ["not run"] * 2
    before = stamps(out)
    second, events = run(micro, out, verify="all")
    assert made(events) == []
    assert all(c.status == "passed" for e in second.entries for c in e.checks)
    assert all(len(e.checks) == 1 + len(e.spec.batch_sizes) for e in second.entries)
    assert {e.step for e in run(micro, out)[1]} == {"target", "kept"}
    assert stamps(out)["text-fp32.onnx"] == before["text-fp32.onnx"]


def test_weights_that_are_not_finite_are_refused(
    micro: Path, tmp_path: Path, run: Run, change: Change, own: Copy
) -> None:
    model = own(micro)
    change(model, "text_encoder", by=float("nan"))
    out = tmp_path / "out"
    with pytest.raises(Exception, match=r"text gives wrong results in fp32 too .*not finite"):
        run(model, out)
    assert not out.exists()


def test_a_damaged_manifest_costs_a_build_not_an_error(
    micro: Path, tmp_path: Path, run: Run, made: Made, only: Only
) -> None:
    only("text")
    out = tmp_path / "out"
    run(micro, out, verify=False)
    (out / "manifest.json").write_text("{")
    manifest, events = run(micro, out, verify=False)
    assert made(events) == [("export", "text")]
    intact(manifest, out)


def test_too_little_room_is_said_before_anything_is_made(
    micro: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SimpleNamespace(total=10**9, used=10**9, free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(StorageError, match=r"needs about [\d.]+ MB and its disk has 0\.0 MB free"):
        run(micro, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_leaves_what_was_finished(
    micro: Path, tmp_path: Path, run: Run, only: Only, monkeypatch: pytest.MonkeyPatch
) -> None:
    only("text", "vae_encode")
    moves: list[str] = []

    def move(temporary: Path, out: Path, entry: Any) -> None:
        moves.append(entry.spec.name)
        with output_folder.storage(out):
            if len(moves) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(temporary, out, entry)

    original = output_folder.move
    monkeypatch.setattr(output_folder, "move", move)
    out = tmp_path / "out"
    with pytest.raises(StorageError, match="is full; free some space"):
        run(micro, out, verify=False)
    manifest = Manifest.load(out)
    assert [e.spec.name for e in manifest.entries] == ["text"]
    intact(manifest, out)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sizes": [(15, 16)]}, "multiples of 2 pixels"),
        ({"sizes": [(16, 8192)]}, "at most 4096 pixels a side"),
        ({"batches": (0, 1)}, "between 1 and 256"),
        ({"batches": ()}, "between 1 and 256"),
        ({"batches": (1, 257)}, "between 1 and 256"),
        ({"loras": [(Path("x.safetensors"), float("nan"))]}, "finite"),
        ({"target": "tensorrt-rtx", "compute_capabilities": ("eight",)}, "such as 8.9"),
        ({"compute_capabilities": ("8.9",)}, "tensorrt-rtx only"),
    ],
)
def test_values_out_of_range(
    options: dict[str, Any], sentence: str, micro: Path, tmp_path: Path, run: Run
) -> None:
    with pytest.raises(ValueError, match=sentence):
        run(micro, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def sdxl(model: Path) -> None:
    index = model / "model_index.json"
    data = json.loads(index.read_text())
    data["_class_name"] = "StableDiffusionXLPipeline"
    data["text_encoder"] = ["transformers", "CLIPTextModelWithProjection"]
    index.write_text(json.dumps(data))


def truncated(model: Path) -> None:
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def garbage(model: Path) -> None:
    (model / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x10" * 64)


def pickled(model: Path) -> None:
    file = model / "vae" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))


def incomplete(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    (file,) = (model / "text_encoder").glob("*.safetensors")
    state = load_file(file)
    state.pop(next(iter(state)))
    save_file(state, file)


def missing(model: Path) -> None:
    shutil.rmtree(model / "vae")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (sdxl, "text_encoder_2"),
        (truncated, r"damaged: it is truncated"),
        (garbage, r"damaged"),
        (pickled, r"pickle weights"),
        (incomplete, r"lack 1 tensors"),
        (missing, r"vae is missing"),
    ],
)
def test_bad_checkpoints_are_one_sentence(
    harm: Change, sentence: str, micro: Path, tmp_path: Path, run: Run, own: Copy
) -> None:
    model = own(micro)
    harm(model)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        run(model, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert harm is incomplete or not (tmp_path / "out").exists()


def test_a_hub_id_that_cannot_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a folder here and could not be downloaded"):
        build("no/such-model", tmp_path / "out", cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(CheckpointError, match="There is no model folder at"):
        build("./no/such/model", tmp_path / "out")


def test_the_target_is_chosen_by_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "probe", lambda product, capabilities: "1.2")
    here = {"tensorrt_rtx", "polygraphy"}
    monkeypatch.setattr(targets, "find_spec", lambda name: name if name in here else None)
    chosen = targets.choose("auto")
    assert (chosen.product, chosen.version, chosen.gpu) == ("tensorrt-rtx", "1.2", None)
    assert "not for tensorrt: tensorrt is not installed" in chosen.reason
    here -= {"tensorrt_rtx"}
    assert targets.choose("auto").product is None
    assert "tensorrt_rtx is not installed" in targets.choose("auto").reason
    with pytest.raises(BuildError, match="Cannot build for tensorrt-rtx"):
        targets.choose("tensorrt-rtx")
    here |= {"tensorrt"}
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "no CUDA GPU" in targets.choose("auto").reason
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA X")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    chosen = targets.choose("auto")
    assert (chosen.product, chosen.gpu, chosen.capability) == ("tensorrt", "NVIDIA X", "9.0")
    assert targets.choose("onnx").product is None
