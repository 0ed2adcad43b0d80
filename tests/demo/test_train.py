"""The demo's training: exact resumption, complete checkpoints, and a smoke run with its export."""

from __future__ import annotations

import copy
import itertools
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from demo import scenes, train
from demo.random_checkpoint import WORDS, make_tokenizer
from demo.training import TrainingError, data, networks, trainer
from demo.training.export import read_runs, read_weights
from demo.training.files import atomic_folder
from demo.training.hardware import Hardware
from demo.training.interrupts import Interrupted, Interrupts, interruptible
from demo.training.networks import SIZE_LIMIT, Denoiser, make_vae
from demo.training.run import Run, Settings
from demo.training.trainer import Plan, Trainer, checkpoints
from demo.training.vae import load_vae, normalize_latents, psnr, round_trip

ROOT = Path(__file__).resolve().parents[2]
CPU = Hardware(torch.device("cpu"), bf16=False)


def plan(**changes: Any) -> Plan:
    usual: dict[str, Any] = {"stage": "toy", "learning_rate": 0.01, "batch_size": 4, "minutes": 1.0}
    return Plan(**{**usual, "steps": 10, "warmup_steps": 2, "log_seconds": 0.0, **changes})


def toy(folder: Path, **changes: Any) -> Trainer:
    torch.manual_seed(0)
    return Trainer(plan(**changes), nn.Linear(8, 8), CPU, folder / "toy")


def draw(count: int, generator: torch.Generator) -> tuple[Tensor]:
    return (torch.randn((count, 8), generator=generator),)


def toy_loss(model: Any, batch: tuple[Tensor]) -> Tensor:
    (rows,) = batch
    loss: Tensor = (model(rows) - rows.flip(1)).square().mean()
    return loss


def same(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(t, other[k]) for k, t in a.state_dict().items())


@pytest.mark.parametrize("words", [WORDS, scenes.WORDS], ids=["general", "scenes"])
def test_every_word_is_one_token(words: tuple[str, ...], tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    size = make_tokenizer(tmp_path, words)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    ids = [tokenizer(word).input_ids for word in words]
    assert [len(i) for i in ids] == [3] * len(words)  # begin, the word, end
    assert len({i[1] for i in ids}) == len(words)
    assert max(map(max, ids)) == size - 1


def test_captions_are_padded_with_the_end(tmp_path: Path) -> None:
    tokenizer = data.caption_tokenizer(tmp_path)
    tokens = data.tokenize(tokenizer, ["", "a red ball on the grass"])
    begin, end = len(tokenizer) - 2, len(tokenizer) - 1
    assert tokens.shape == (2, 77) and tokens.dtype == torch.int64
    assert tokens[0].tolist() == [begin] + [end] * 76
    assert int((tokens[1] != end).sum()) == 7


def test_networks_fit_into_the_limit(tmp_path: Path) -> None:
    tokens = len(data.caption_tokenizer(tmp_path))
    parts = Denoiser(64, tokens), make_vae(64)
    size = 2 * sum(networks.count_parameters(part) for part in parts)
    assert 0.9 * SIZE_LIMIT < size < SIZE_LIMIT - 150_000  # names, configs and the tokenizer


@torch.no_grad()
def test_plain_attention_computes_the_same() -> None:
    torch.manual_seed(0)
    vae, denoiser = make_vae(32).eval(), Denoiser(32, 600).eval()
    rows, times = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    tokens = torch.randint(0, 600, (2, 77))
    before = vae.decode(rows).sample, denoiser(rows, times, tokens)
    networks.use_plain_attention(vae)
    networks.use_plain_attention(denoiser)
    after = vae.decode(rows).sample, denoiser(rows, times, tokens)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(after, before, strict=True))


@torch.no_grad()
def test_normalising_the_latents_keeps_the_pictures() -> None:
    torch.manual_seed(0)
    vae = make_vae(32).eval()
    pictures = torch.randn(16, 3, 32, 32)
    before = vae.encode(pictures).latent_dist
    seen, std, latents = vae.decode(before.mode()).sample, before.std, before.mode()
    normalized = normalize_latents(vae, latents)
    after = vae.encode(pictures).latent_dist
    assert torch.allclose(after.mode(), normalized, atol=1e-4)
    assert torch.allclose(after.mode().mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(after.mode().std((0, 2, 3)), torch.ones(4), atol=1e-4)
    assert torch.allclose(after.std, std / latents.std((0, 2, 3)).view(1, 4, 1, 1), rtol=1e-3)
    assert torch.allclose(vae.decode(after.mode()).sample, seen, atol=1e-4)


def test_scenes_are_the_same_by_one_process_or_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_CHUNK", 8)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    seeds = scenes.training_seeds(37)
    images, captions = data.draw_scenes(seeds, 16)
    alone, said = scenes.batch(seeds, 16)
    assert np.array_equal(images, alone) and captions == said


def test_nothing_is_trained_on_what_is_held_out_or_reserved() -> None:
    pool = range(65_536)
    assert not set(pool) & set(data.HELD_OUT)
    assert max(data.HELD_OUT) < scenes.EVALUATION


def test_resuming_equals_never_stopping(tmp_path: Path) -> None:
    whole = toy(tmp_path / "a")
    whole.run(draw, toy_loss, Interrupts())

    def interrupted(model: Any, batch: tuple[Tensor]) -> Tensor:
        if first.progress.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)  # the current step is completed
        return toy_loss(model, batch)

    first = toy(tmp_path)
    with interruptible() as interrupts, pytest.raises(Interrupted) as caught:
        first.run(draw, interrupted, interrupts)
    assert caught.value.exit_status == 128 + signal.SIGTERM
    again = toy(tmp_path)
    assert again.resume() and again.progress.step == 5
    again.run(draw, toy_loss, Interrupts())
    assert again.progress.step == 10 and same(again.model, whole.model)
    assert [h[2] for h in again.progress.history] == [h[2] for h in whole.progress.history]
    before = copy.deepcopy(again.model)
    with again.ema_weights() as ours, whole.ema_weights() as other:
        assert same(ours, other) and not same(ours, before)
    assert same(again.model, before)


def test_a_checkpoint_replaces_the_one_before(tmp_path: Path) -> None:
    this = toy(tmp_path, save_minutes=0.0)
    this.run(draw, toy_loss, Interrupts())
    assert [folder.name for folder in (tmp_path / "toy").iterdir()] == ["checkpoint-0000010"]


def test_a_stop_while_samples_are_drawn_saves_as_well(tmp_path: Path) -> None:
    def sample() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    this = toy(tmp_path, sample_minutes=0.0, save_minutes=9.0)
    with interruptible() as interrupts, pytest.raises(Interrupted) as caught:
        this.run(draw, toy_loss, interrupts, sample)
    assert caught.value.exit_status == 128 + signal.SIGINT
    again = toy(tmp_path)
    assert again.resume() and again.progress.step == 1


def test_the_minutes_end_the_run_with_a_low_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()  # a step takes a millisecond
    fake = SimpleNamespace(perf_counter=lambda: next(clock) / 1000)
    monkeypatch.setattr(trainer, "time", fake)
    this = toy(tmp_path, steps=None, minutes=0.005)
    this.run(draw, toy_loss, Interrupts())
    progress = this.progress
    assert progress.seconds == pytest.approx(0.3, abs=0.002)
    assert progress.step == pytest.approx(300, abs=2)
    assert this.optimizer.param_groups[0]["lr"] < 0.02 * this.plan.learning_rate
    assert progress.history[-1][2] < 0.5 * progress.history[0][2]


def test_the_work_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    def run(size: int) -> Run:
        settings = Settings(tmp_path / "out", tmp_path, device="cpu", size=size, resume=True)
        return Run(settings, Interrupts())

    run(64)._check_work_folder(resume=False)
    (tmp_path / "vae" / "checkpoint-0000007").mkdir(parents=True)
    run(64)._check_work_folder(resume=True)
    with pytest.raises(TrainingError, match="has a run already"):
        run(64)._check_work_folder(resume=False)
    with pytest.raises(TrainingError, match="size 64, not 32"):
        run(32)._check_work_folder(resume=True)
    (tmp_path / "run.json").write_text("half a fi")
    with pytest.raises(TrainingError, match="damaged"):
        run(64)._check_work_folder(resume=True)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "trainer.pt"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    toy(tmp_path).save()
    (checkpoints(tmp_path / "toy")[0] / name).write_bytes(b"half a file")
    with pytest.raises(TrainingError, match="not a complete checkpoint"):
        toy(tmp_path).resume()


def test_a_full_disk_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    this = toy(tmp_path)
    this.save()

    def contents() -> dict[Path, bytes]:
        return {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}

    def full(state: object, path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    before = contents()
    this.progress.step = 1
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match="disk full"):
        this.save()
    assert contents() == before and len(list((tmp_path / "toy").iterdir())) == 1


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for content in ("first", "second"):
        with atomic_folder(folder) as new:
            (new / content).touch()
        assert [f.name for f in folder.iterdir()] == [content]
    with pytest.raises(KeyError), atomic_folder(folder) as new:
        raise KeyError
    assert [f.name for f in folder.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nan at step 1"):
        toy(tmp_path).run(draw, lambda *args: toy_loss(*args) * math.nan, Interrupts())
    assert not (tmp_path / "toy").exists()


def test_what_cannot_be_done_is_said_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    work = ["--work", str(tmp_path / "work"), "--smoke"]
    assert train.main(["--out", str(tmp_path / "mine"), *work]) == 1
    assert "is no checkpoint" in capsys.readouterr().err
    assert train.main(["--out", str(tmp_path / "new"), "--export-only", *work]) == 1
    assert "has no checkpoint of the UNet yet" in capsys.readouterr().err
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
    rest, error = first.communicate()
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
