"""What a build refuses: bad weights, full disks, values out of range, damaged checkpoints."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.errors import BuildError, CheckpointError
from engine.manifest import Manifest
from export import output_folder, targets
from export.build import StorageError, build
from tests.export.builds import Change, Copy, Made, Only, Run, intact


def test_weights_that_are_not_finite_are_refused(
    micro: Path, tmp_path: Path, run: Run, change: Change, own: Copy
) -> None:
    model = own(micro)
    change(model, "text_encoder", by=float("nan"))
    out = tmp_path / "out"
    with pytest.raises(Exception, match=r"text gives wrong results in fp32 too .*not finite"):
        run(model, out)
    assert not out.exists()


@pytest.mark.slow
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
        ({"batches": (0, 1)}, "from 1 to 256"),
        ({"batches": ()}, "from 1 to 256"),
        ({"batches": (1, 257)}, "from 1 to 256"),
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
