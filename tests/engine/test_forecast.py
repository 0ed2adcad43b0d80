"""The forecasts of runs and builds: weights from headers, calls from configs, refusals with both
figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo import random_checkpoint
from engine.build_forecast import forecast_build, require_fit
from engine.checkpoint import Checkpoint
from engine.errors import ResourceError
from engine.forecast import forecast_run, require_memory, text_parts
from engine.netspec import Precision


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("sd3") / "model"
    return Checkpoint.open(random_checkpoint.make(folder, "tiny-sd3", dtype="bf16"))


def precisions(checkpoint: Checkpoint, precision: Precision) -> dict[str, Precision]:
    return {part.name: precision for part in checkpoint.family.parts}


def stored(checkpoint: Checkpoint, part: str) -> int:
    (file,) = checkpoint.weights(part)
    return file.stat().st_size


def test_weights_are_those_of_the_files_in_the_precision_of_the_run(sd3: Checkpoint) -> None:
    same = forecast_run(sd3, (64, 64), precisions(sd3, "bf16"))
    for part in same.parts:  # stored in bf16: the file is the weights and a header
        assert part.weights < stored(sd3, part.part) < part.weights + 40_000
    wide = forecast_run(sd3, (64, 64), precisions(sd3, "fp32"))
    assert wide.weights == 2 * same.weights
    mixed = forecast_run(sd3, (64, 64), precisions(sd3, "fp32") | {"text_encoder_3": "bf16"})
    (t5,) = [part.weights for part in same.parts if part.part == "text_encoder_3"]
    assert mixed.weights == wide.weights - t5


def test_larger_pictures_and_batches_need_more(sd3: Checkpoint) -> None:
    small, large = (forecast_run(sd3, (side, side), precisions(sd3, "bf16")) for side in (64, 256))
    assert small.weights < small.needed < small.peak
    assert small.needed < large.needed
    assert small.peak < large.peak


def test_offloaded_text_encoders_count_one_at_a_time(sd3: Checkpoint) -> None:
    texts = {"text_encoder", "text_encoder_2", "text_encoder_3"}
    assert text_parts(sd3) == texts
    every, off = (
        forecast_run(sd3, (64, 64), precisions(sd3, "bf16"), offload_text=offload)
        for offload in (False, True)
    )
    sizes = sorted(part.weights for part in every.parts if part.part in texts)
    assert off.weights == every.weights - sum(sizes[:-1])


def test_a_build_counts_the_steps_that_it_does(sd3: Checkpoint) -> None:
    specs = [sd3.spec(n.name, (64, 64), precision="fp16") for n in sd3.family.networks]
    every = forecast_build(sd3, specs, verifies=True, compiles=True)
    assert [one.label for one in every][-2:] == ["transformer 64x64", "vae_decode 64x64"]
    denoiser = every[-2]
    assert denoiser.parameters == sd3.parameters("transformer")
    assert min(denoiser.export, denoiser.verify, denoiser.compile) > 0
    assert "verify" in str(denoiser) and "compile" in str(denoiser)
    alone = forecast_build(sd3, specs[-2:-1], verifies=False, compiles=False)[0]
    assert (alone.verify, alone.compile, alone.export) == (0, 0, denoiser.export)


def test_a_build_that_cannot_fit_names_the_step_and_both_figures(
    sd3: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = sd3.spec("transformer", (64, 64), precision="fp16")
    (found,) = forecast_build(sd3, [spec], verifies=True, compiles=True)
    for free, step in ((found.export - 1, "Exporting"), (found.export, None), (0, None)):
        monkeypatch.setattr("engine.build_forecast.available", lambda free=free: free)
        if step is None:
            require_fit([found])
            continue
        with pytest.raises(ResourceError, match=f"{step} the transformer 64x64 needs about") as e:
            require_fit([found])
        assert "MB free" in str(e.value) and "--ignore-memory" in str(e.value)
        assert "\n" not in str(e.value)


def test_unknown_memory_refuses_nothing() -> None:
    require_memory("Loading", 1 << 60, 0, "this machine", "wait")


def test_the_demo_model_needs_little() -> None:
    """A guard on units: the demo's 20 MB of weights are not gigabytes."""
    checkpoint = Checkpoint.open(Path("demo/model"))
    found = forecast_run(checkpoint, (128, 128), precisions(checkpoint, "fp32"))
    files = sum(
        file.stat().st_size for p in checkpoint.family.parts for file in checkpoint.weights(p.name)
    )
    assert files / 4 < found.weights < 4 * files + 1
    assert found.peak < 2e9
