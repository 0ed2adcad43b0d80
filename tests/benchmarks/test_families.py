"""`families`: counts without weights, an edit and a build of a tiny model, and what did not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.families import families
from benchmarks.schema import Result
from engine.errors import DiffEditError, ResourceError
from tests.micro import MICRO, kind


def values(result: Result, name: str) -> dict[str, float]:
    """Label "part" or "network" -> value."""
    return {
        str(one.labels.get("part") or one.labels.get("network")): one.value or 0.0
        for one in result.measurements
        if one.name == name
    }


def test_counting_loads_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    result = families("tiny-flux", parts=("count",), work=tmp_path)
    parameters = values(result, "parameters")
    assert set(parameters) == {"text_encoder", "text_encoder_2", "vae", "transformer"}
    weights = values(result, "weights in bf16")
    for part, count in parameters.items():
        assert weights[part] == pytest.approx(2 * count, rel=1e-3) and count > 0
    operations = values(result, "operations a row")
    assert operations["transformer"] > operations["text"] > 0
    assert result.model is not None and result.model.denoiser_bytes is None
    assert not (tmp_path / "tiny-flux").exists()


@pytest.mark.slow
def test_a_count_equals_the_published_figures(tmp_path: Path) -> None:
    """SDXL's U-Net has 2,567,463,684 parameters."""
    result = families("sdxl", parts=("count",), work=tmp_path)
    assert values(result, "parameters")["unet"] == pytest.approx(2.567, abs=0.001)
    assert 5.5 < values(result, "operations a row")["unet"] < 7.0


def test_one_edit_has_its_stages(tmp_path: Path) -> None:
    result = families(
        "tiny-sd3-no-t5", parts=("edit",), sides=(64,), steps=3, maps=2, work=tmp_path, keep=True
    )
    assert result.not_run == ()
    seconds = {m.labels["stage"] for m in result.measurements if m.name == "edit"}
    assert seconds == {"mask", "encode", "decode", "total"}
    peaks = {
        m.labels["stage"]: m.value for m in result.measurements if m.name == "edit, peak memory"
    }
    assert set(peaks) == {"mask", "encode", "decode", "picture"}
    assert all(peak is not None and 0.05 < peak < 5 for peak in peaks.values())
    assert (tmp_path / "tiny-sd3-no-t5" / "model" / "model_index.json").exists()


def test_what_does_not_fit_is_named_with_its_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise ResourceError("Compiling the unet needs about 30.0 GB of memory.")

    monkeypatch.setattr("export.build.build", refuse)
    result = families("tiny-sd3-no-t5", parts=("build",), work=tmp_path)
    assert [(one.name, "30.0 GB" in one.reason) for one in result.not_run] == [("build", True)]


@pytest.mark.slow
def test_a_build_has_a_row_for_every_step(tmp_path: Path) -> None:
    with kind("micro", MICRO):
        result = families(
            "micro", parts=("build",), build_side=16, batches=(1, 2), target="onnx", work=tmp_path
        )
    steps = {(m.labels["network"], m.labels["step"]) for m in result.measurements}
    assert {("unet 16x16", step) for step in ("torch", "export", "verify")} <= steps
    assert result.not_run == ()


@pytest.mark.slow
def test_a_file_that_is_not_verified_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.verify.memory.available", lambda: 1)
    with kind("micro", MICRO):
        result = families(
            "micro", parts=("build",), build_side=16, batches=(1,), target="onnx", work=tmp_path
        )
    assert {m.labels["step"] for m in result.measurements} == {"torch", "export"}
    assert {one.name for one in result.not_run} >= {"verify unet-16x16-fp16.onnx"}
    assert {"memory" in one.reason for one in result.not_run} == {True}


def test_an_unknown_kind_lists_the_others() -> None:
    with pytest.raises(DiffEditError, match=r"'sdxxl'.*tiny-flux"):
        families("sdxxl")
