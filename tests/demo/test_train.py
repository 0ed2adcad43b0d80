"""The demo's training command: a smoke run, its export, and what it refuses."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from demo import scenes, train
from demo.training import TrainingError
from demo.training.export import read_runs, read_weights
from demo.training.networks import SIZE_LIMIT
from demo.training.trainer import checkpoints
from demo.training.vae import load_vae, psnr, round_trip
from tests.demo.training_runs import CPU
from tests.processes import rest_of

ROOT = Path(__file__).resolve().parents[2]


def test_what_cannot_be_done_is_said_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    work = ["--work", str(tmp_path / "work"), "--smoke"]
    assert train.main(["--out", str(tmp_path / "mine"), *work]) == 1
    assert "is not a checkpoint" in capsys.readouterr().err
    (tmp_path / "work" / "vae" / "checkpoint-0000007").mkdir(parents=True)
    assert train.main(["--out", str(tmp_path / "new"), *work]) == 1
    assert "--resume" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train.main(["--out", str(tmp_path / "new"), "--size", "50"])


def smoke(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "demo.train", "--smoke", "--device", "cpu", *options]
    command += ["--out", str(folder / "model"), "--work", str(folder / "work")]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[str]]:
    """The folder, the output of a run terminated in the UNet stage, and that of its resumption."""
    folder = tmp_path_factory.mktemp("train")
    first = smoke(folder)
    assert first.stdout is not None
    said = []
    for line in first.stdout:
        said.append(line)
        if line.startswith("unet"):
            first.send_signal(signal.SIGTERM)
            break
    rest, error = rest_of(first)
    assert first.returncode == 143 and "--resume" in error, error
    assert checkpoints(folder / "work" / "unet") and not (folder / "model").exists()
    second = smoke(folder, "--resume")
    again, error = second.communicate()
    assert second.returncode == 0, error
    return folder, said + rest.splitlines(), again.splitlines()


def losses(lines: list[str], stage: str) -> list[tuple[int, float]]:
    found = (re.match(rf"{stage} +step +(\d+)  loss ([\d.]+)", line) for line in lines)
    return [(int(m[1]), float(m[2])) for m in found if m]


@pytest.mark.slow
def test_a_smoke_run_learns_and_goes_on_where_it_was_stopped(
    trained: tuple[Path, list[str], list[str]],
) -> None:
    folder, first, second = trained
    vae = losses(first, "vae")
    assert vae[-1][0] == 20 and vae[-1][1] < vae[0][1]
    assert not losses(second, "vae")  # that stage is done
    before, after = losses(first, "unet"), losses(second, "unet")
    assert before[-1][0] < after[0][0] and after[-1][0] == 24
    assert after[-1][1] < 0.6 * before[0][1]
    assert {"vae.png", "samples.png"} <= {f.name for f in (folder / "work").iterdir()}
    with Image.open(folder / "work" / "samples.png") as sheet:
        assert sheet.size == (8 * 64, 2 * 64)


@pytest.mark.slow
def test_the_export_loads_in_diffusers_and_edits(
    trained: tuple[Path, list[str], list[str]],
) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    from diffedit import DiffEditPipeline
    from engine.checkpoint import Checkpoint

    model = trained[0] / "model"
    files = [f for f in model.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= SIZE_LIMIT
    assert not any(f.suffix in (".bin", ".pt") for f in files)
    Checkpoint.open(model)
    assert "Apache-2.0" in (model / "README.md").read_text()
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.vae.config.scaling_factor == 1.0
    seen = pipe("a red ball in a studio", num_inference_steps=2, output_type="np").images
    assert seen.shape == (1, 32, 32, 3) and np.isfinite(seen).all()
    shown = scenes.scene(7, 32)
    edit = shown.edits()[0]
    ours = DiffEditPipeline.from_pretrained(model)
    result = ours(
        Image.fromarray(shown.image), edit.target, source_prompt=edit.source, num_inference_steps=4
    )
    assert result.image.size == (32, 32)


@pytest.mark.slow
def test_a_checkpoint_learns_on_with_its_own_vae(
    trained: tuple[Path, list[str], list[str]], tmp_path: Path
) -> None:
    model = trained[0] / "model"
    begun = smoke(tmp_path, "--from", str(model), "--seed", "1")
    said, error = begun.communicate()
    assert begun.returncode == 0, error
    lines = said.splitlines()
    assert not losses(lines, "vae")
    first = losses(trained[1], "unet")[0][1]
    assert losses(lines, "unet")[0][1] < 0.9 * first  # it does not begin from nothing
    runs = read_runs(tmp_path / "model")
    assert [run["seed"] for run in runs] == [0, 1]
    assert runs[0] == read_runs(model)[0] and runs[1]["vae_steps"] == runs[0]["vae_steps"]
    text = (tmp_path / "model" / "README.md").read_text()
    assert text.count("| text encoder and UNet |") == 2 and "again with `--from`" in text
    pictures = scenes.batch(range(990_000, 990_004), 32)[0]
    vaes = [load_vae(folder, CPU.device) for folder in (model, tmp_path / "model")]
    before, after = (psnr(pictures, round_trip(vae)(pictures)) for vae in vaes)
    assert after == pytest.approx(before, abs=0.2)


def test_what_one_cannot_start_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--out", str(tmp_path / "new"), "--work", str(tmp_path / "work"), "--smoke"]
    assert train.main([*options, "--from", str(tmp_path / "nothing")]) == 1
    assert "has no weights in unet" in capsys.readouterr().err
    (tmp_path / "vae").mkdir()
    save_file({"weight": torch.zeros(3)}, tmp_path / "vae" / "a.safetensors")
    with pytest.raises(TrainingError, match="other shapes"):
        read_weights(tmp_path, "vae", nn.Linear(2, 2))
