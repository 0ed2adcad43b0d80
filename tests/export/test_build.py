"""What a build makes, keeps and makes again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import EngineMismatch
from engine.manifest import Manifest
from export.checks import BY_DEFAULT
from tests.export.builds import RTX, Change, Copy, Made, Only, Run, intact, stamps


def test_what_the_command_builds(micro_build: Path, micro: Path) -> None:
    manifest = Manifest.load(micro_build)
    intact(manifest, micro_build)
    assert len(list(micro_build.glob("*.onnx"))) == len(list(micro_build.glob("*.engine"))) == 4
    assert manifest.model is not None
    assert manifest.model.source == str(micro.resolve())
    assert manifest.model.family == "stable-diffusion"
    assert sorted(manifest.model.digests) == ["text_encoder", "unet", "vae"]
    assert manifest.model.networks == ("text", "vae_encode", "unet", "vae_decode")
    sizes = {entry.spec.name: entry.spec.size for entry in manifest.entries}
    assert sizes == dict.fromkeys(manifest.model.networks, (16, 16)) | {"text": None}
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


@pytest.mark.slow
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
    only("vae_encode")
    model = own(micro)
    change(model, "vae")
    manifest, _ = run(model, micro_engines, sizes=[(16, 24)], verify=False)
    intact(manifest, micro_engines)
    names = [e.files[0].name for e in manifest.entries if e.spec.name == "vae_encode"]
    assert names == ["vae_encode-16x24-fp32.onnx"]


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


@pytest.mark.slow
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
