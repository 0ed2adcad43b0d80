""" "auto" never replaces engines by other weights, and says what it does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffedit import DiffEditPipeline, EngineMismatch, InvalidRequest, auto_backend
from diffedit.auto_backend import plan_auto
from diffedit.cli import main
from diffedit.doctor import report
from diffedit.provenance import Fused
from engine.manifest import Format, FusedFile, Manifest
from export.build import build
from tests.engine.conftest import without_engines
from tests.engine.lora_files import draw, saved
from tests.micro import make_micro

OPTIONS: dict[str, Any] = {
    "preset": "paper",
    "num_inference_steps": 2,
    "mask_thresholding_ratio": 1.0,
}
LORA = FusedFile("/somewhere/style.safetensors", "0" * 64, 0.8)
Changed = Callable[..., Path]


def build_engines(micro: Path, out: Path, **options: Any) -> Path:
    options |= {"sizes": [(16, 16)], "precision": "fp32", "batches": (1, 2), "verify": False}
    build(str(micro), out, target="onnx", **options)
    return out


@pytest.fixture(scope="module")
def onnx_folder(micro: Path, micro_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its ONNX files. Read only."""
    out = tmp_path_factory.mktemp("onnx") / "fp32"
    return without_engines(micro_build, out)


@pytest.fixture
def changed(onnx_folder: Path, tmp_path: Path) -> Changed:
    """A copy of the ONNX folder whose manifest states something else."""

    def change(*, formats: Format | None = None, **model: Any) -> Path:
        folder = Path(shutil.copytree(onnx_folder, tmp_path / "changed"))
        manifest = Manifest.load(folder)
        assert manifest.model
        entries = tuple(
            replace(entry, format=formats or entry.format) for entry in manifest.entries
        )
        Manifest(replace(manifest.model, **model), entries).save(folder)
        return folder

    return change


def opened(micro: Path, engines: Path, **options: Any) -> DiffEditPipeline:
    return DiffEditPipeline.from_pretrained(micro, engines=engines, device="cpu", **options)


def test_engines_of_the_same_weights_are_replaced_with_a_warning(
    micro: Path, onnx_folder: Path, photo: Image.Image
) -> None:
    with opened(micro, onnx_folder) as pipe:
        assert pipe.networks.name == "torch"
        (warning,) = pipe.warnings
        assert f"The engines in {onnx_folder} are not used" in warning
        assert "the folder has no TensorRT engines" in warning
        assert "the folder has no TensorRT engines" in pipe.describe()
        assert warning in pipe(photo, "a blue ball", "a red ball", **OPTIONS).warnings
    with opened(micro, onnx_folder, backend="torch") as pipe:
        assert pipe.warnings == ()


@pytest.mark.parametrize("kind", ["loras", "embeddings"])
def test_fused_weights_are_kept_by_onnx_runtime(kind: str, micro: Path, changed: Changed) -> None:
    with opened(micro, changed(**{kind: (LORA,)})) as pipe:
        assert pipe.networks.name == "onnxruntime"
        assert "style.safetensors" in pipe.describe() and pipe.warnings == ()


def test_a_result_states_the_fused_files(micro: Path, changed: Changed, photo: Image.Image) -> None:
    light = replace(LORA, path="/else/light.safetensors", scale=1.0)
    with opened(micro, changed(loras=(LORA,), embeddings=(light,))) as pipe:
        found = pipe(photo, "a blue ball", "a red ball", **OPTIONS).provenance
    assert found is not None
    assert (found.backend, found.precision, found.kernels) == ("onnxruntime", "fp32", ())
    assert found.loras == (Fused("style.safetensors", "0" * 64, 0.8),)
    assert found.embeddings == (Fused("light.safetensors", "0" * 64, 1.0),)


def test_engines_of_another_precision_are_not_taken(
    micro: Path, onnx_folder: Path, changed: Changed
) -> None:
    words = "are fp32, but dtype is bf16"
    with pytest.raises(EngineMismatch, match=words):
        opened(micro, onnx_folder, backend="onnxruntime", dtype="bf16")
    opened(micro, onnx_folder, backend="onnxruntime", dtype="fp32").close()
    with pytest.raises(EngineMismatch, match=rf"style\.safetensors.*{words}"):
        opened(micro, changed(loras=(LORA,)), dtype="bf16")


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_compile_is_refused_where_it_has_no_effect(
    backend: str, micro: Path, onnx_folder: Path
) -> None:
    with pytest.raises(InvalidRequest, match=f"for the torch backend.*is {backend}"):
        opened(micro, onnx_folder, backend=backend, compile=True)


def test_auto_says_that_compile_has_no_effect(micro: Path, changed: Changed) -> None:
    with opened(micro, changed(loras=(LORA,)), compile=True) as pipe:
        assert pipe.networks.name == "onnxruntime"
        assert pipe.warnings == ("compile has no effect, because ONNX Runtime runs the edits.",)


def test_a_device_that_was_asked_for_is_the_reason(
    changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence was "there is no NVIDIA GPU", also on machines that have one."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert auto_backend.fastest(changed(formats="tensorrt"), "cpu")[1].startswith(
        "the device is cpu"
    )


@pytest.mark.parametrize("kind", ["loras", "embeddings"])
@pytest.mark.parametrize("missing", ["ONNX files", "ONNX Runtime"])
def test_fused_weights_are_not_replaced(
    kind: str, missing: str, micro: Path, changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = changed(formats="tensorrt" if missing == "ONNX files" else None, **{kind: (LORA,)})
    if missing == "ONNX Runtime":
        monkeypatch.setattr("engine.products.find_spec", lambda name: None)
    with pytest.raises(EngineMismatch, match=r"style.safetensors.*cannot run here.*torch backend"):
        opened(micro, folder)
    with opened(micro, folder, backend="torch") as pipe:
        (warning,) = pipe.warnings
        assert "edits without the" in warning and "style.safetensors" in warning


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("digest", ["0" * 64, None])
def test_engines_of_another_model_are_not_replaced(
    part: str, digest: str | None, micro: Path, onnx_folder: Path, changed: Changed
) -> None:
    model = Manifest.load(onnx_folder).model
    assert model
    digests = {p: d for p, d in model.digests.items() if p != part}
    folder = changed(digests=digests | ({part: digest} if digest else {}))
    with pytest.raises(EngineMismatch, match=rf"whose {part} differs.*use the torch backend"):
        opened(micro, folder)
    opened(micro, folder, backend="torch").close()


def test_folders_without_engines_are_refused(micro: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(EngineMismatch, match="has no engines"):
            opened(micro, folder)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(EngineMismatch):
        opened(micro, tmp_path)


@pytest.fixture
def with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto" tries TensorRT first, which cannot be opened here."""
    monkeypatch.setattr(auto_backend, "fastest", lambda *a: ("tensorrt", "there is a GPU"))


def test_the_next_backend_is_tried(
    micro: Path, onnx_folder: Path, changed: Changed, with_a_gpu: None
) -> None:
    with opened(micro, onnx_folder) as pipe:
        assert pipe.networks.name == "torch"
        assert "TensorRT cannot use them" in pipe.warnings[0]
    folder = changed(loras=(LORA,))
    with opened(micro, folder) as pipe:
        assert pipe.networks.name == "onnxruntime"
    for file in folder.glob("unet-*.onnx"):
        file.write_bytes(b"changed")
    with pytest.raises(EngineMismatch, match=r"style\.safetensors.*TensorRT.*ONNX Runtime"):
        opened(micro, folder, warm=True)


def test_explain_and_doctor_say_what_auto_does(
    micro: Path, onnx_folder: Path, changed: Changed, capsys: pytest.CaptureFixture[str]
) -> None:
    def explained(folder: Path, *options: str) -> dict[str, Any]:
        with pytest.raises(SystemExit):
            main(["engines", "explain", str(folder), "--json", *options])
        auto: dict[str, Any] = json.loads(capsys.readouterr().out)["auto"]
        return auto

    def diagnosed(folder: Path) -> tuple[str, str]:
        check = next(check for check in report(folder) if check.name == "backend auto")
        return check.state, check.what

    assert explained(onnx_folder, "--model", str(micro))["backend"] == "torch"
    assert diagnosed(onnx_folder)[1].startswith("uses torch")
    folder = changed(loras=(LORA,))
    auto = explained(folder, "--model", str(micro))
    assert auto["backend"] == "onnxruntime" and "style.safetensors" in auto["why"]
    assert diagnosed(folder)[1].startswith("uses onnxruntime")
    other = make_micro(folder / "other", seed=5)
    auto = explained(folder, "--model", str(other))
    assert auto["backend"] is None and "differs from the model" in auto["why"]
    shutil.rmtree(folder)
    folder = changed(loras=(LORA,), formats="tensorrt")
    assert explained(folder)["backend"] is None
    assert diagnosed(folder) == ("problem", plan_auto(folder, None, None).refusal)


def test_a_lora_in_the_engines_reaches_the_picture(
    micro: Path, onnx_folder: Path, photo: Image.Image, tmp_path: Path
) -> None:
    """The whole way: built with a LoRA of the text encoder, opened by "auto", edited."""
    layer = "text_encoder.encoder.layers.0.self_attn.v_proj"
    state = {f"{layer}.lora_A.weight": 9 * draw(4, 16), f"{layer}.lora_B.weight": 9 * draw(16, 4)}
    lora = saved(tmp_path / "style.safetensors", state)
    folder = Path(shutil.copytree(onnx_folder, tmp_path / "engines"))
    build_engines(micro, folder, loras=[(lora, 1.0)])

    def picture(engines: Path, backend: Any) -> np.ndarray[Any, Any]:
        with opened(micro, engines, backend=backend, size=(16, 16)) as pipe:
            return pipe(photo, "a blue ball", "a red ball", **OPTIONS).latents

    auto = picture(folder, "auto")
    assert np.array_equal(auto, picture(folder, "onnxruntime"))
    assert np.abs(auto - picture(onnx_folder, "onnxruntime")).max() > 0.1
