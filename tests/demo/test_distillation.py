"""The distillation of the demo's model: the teacher's pairs, the LoRA, and the command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from demo import distill, few_step_model, scenes
from demo.training import TrainingError, data, student, teacher
from demo.training.denoiser import SCHEDULER
from demo.training.distillation import WEIGHTS
from demo.training.export import RUNS, digest
from demo.training.files import atomic_folder
from demo.training.interrupts import interruptible
from demo.training.networks import Denoiser, make_vae
from demo.training.teacher import Pairs, Teacher
from demo.training.trainer import generator
from engine.checkpoint import Checkpoint
from engine.loader import load_module
from engine.lora.file import Lora
from engine.lora.fuse import fuse
from tests.demo.training_runs import CPU
from tests.processes import rest_of

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "demo" / "model"


class OnePicture:
    """A denoiser of a world with one picture, which it always draws: the exact noise prediction."""

    def __init__(self, picture: Tensor) -> None:
        self.picture, self.seen = picture, list[Tensor]()

    def text_encoder(self, tokens: Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=tokens[..., None].float())

    def unet(self, noisy: Tensor, timesteps: Tensor, embeddings: Tensor) -> Any:
        self.seen.append(timesteps)
        abar = SCHEDULER.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return SimpleNamespace(sample=(noisy - abar.sqrt() * self.picture) / (1 - abar).sqrt())


def parts(folder: Path, world: OnePicture, count: int) -> Pairs:
    tokenizer = data.caption_tokenizer(folder / "tokenizer")
    made = Teacher(world, make_vae(32), tokenizer, range(50), 32)
    folder.joinpath("pairs").mkdir()
    for number in range(count):
        with atomic_folder(folder / "pairs" / f"part-{number}") as new:
            from safetensors.torch import save_file

            save_file(made.part(number, CPU, seed=0), new / "pairs.safetensors")
    return Pairs.load(folder / "pairs")


@pytest.fixture(scope="module")
def world() -> OnePicture:
    return OnePicture(torch.randn((1, 4, 8, 8), generator=generator(0, "picture", 0)))


@pytest.fixture(scope="module")
def pairs(world: OnePicture, tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return parts(tmp_path_factory.mktemp("pairs"), world, 3)


def test_sampling_from_any_noise_ends_at_the_only_picture(pairs: Pairs, world: OnePicture) -> None:
    end = world.picture.expand_as(pairs.clean)
    torch.testing.assert_close(pairs.clean.float(), end, atol=5e-3, rtol=0)
    # DDIM keeps the noise of a start: with exact predictions it is the same at every timestep.
    abar = SCHEDULER.alphas_cumprod[pairs.timesteps].view(-1, 1, 1, 1)
    noise = (pairs.noisy.float() - abar.sqrt() * world.picture) / (1 - abar).sqrt()
    of_start = noise[pairs.start == pairs.start[-1]]
    assert len(of_start) > 3
    torch.testing.assert_close(of_start, of_start[-1:].expand_as(of_start), atol=0.05, rtol=0)
    asked = torch.cat(world.seen)
    assert int(asked.min()) >= 1 and int(asked.max()) <= 999


def test_pairs_are_in_the_order_of_time_and_know_their_start(pairs: Pairs, tmp_path: Path) -> None:
    assert (pairs.timesteps.diff() >= 0).all()
    assert len(pairs.clean) == 3 * teacher.STARTS == len(pairs.tokens)
    assert sorted(set(pairs.start.tolist())) == list(range(len(pairs.clean)))
    with pytest.raises(TrainingError, match="has no pairs"):
        Pairs.load(tmp_path)
    (tmp_path / "part-00000").mkdir()
    (tmp_path / "part-00000" / "pairs.safetensors").write_bytes(b"{")
    with pytest.raises(TrainingError, match="is damaged"):
        Pairs.load(tmp_path)


def test_a_batch_covers_all_noise_levels(pairs: Pairs) -> None:
    batch = student.draw_pairs(pairs, 200, generator(0, "draw", 0))
    again = student.draw_pairs(pairs, 200, generator(0, "draw", 0))
    assert torch.equal(batch.noisy, again.noisy)
    counts = torch.histc(batch.timesteps.float(), 4, 0, int(pairs.timesteps[-1]))
    assert counts.min() >= 30, counts
    rows = [int((pairs.noisy.float() == one).all((1, 2, 3)).nonzero()[0]) for one in batch.noisy]
    assert torch.equal(batch.clean, pairs.clean[pairs.start[rows]].float())
    assert torch.equal(batch.timesteps, pairs.timesteps[rows])


def test_the_time_of_earlier_parts_counts(world: OnePicture, tmp_path: Path) -> None:
    """A run that is resumed does not sample for its whole time again."""
    tokenizer = data.caption_tokenizer(tmp_path / "tokenizer")
    made, folder = Teacher(world, make_vae(32), tokenizer, range(50), 32), tmp_path / "pairs"
    options: dict[str, Any] = {"minutes": 1e-6, "seed": 0}
    with interruptible() as interrupts:
        first = made.write(folder, CPU, interrupts, parts=1, **options)
        assert first > 0
        again = made.write(folder, CPU, interrupts, parts=None, **options)
    assert 0 < again < 1.5 * first
    assert [path.name for path in folder.glob("part-*")] == ["part-00000"]  # its time was over


def test_captions_are_the_scenes_own_or_an_edits() -> None:
    shown = scenes.scene(3, 32)
    edits = {edit.target for edit in shown.edits()}
    found = [teacher._caption(shown, generator(0, "caption", i)) for i in range(200)]
    assert set(found) == edits | {shown.caption}
    assert 60 < found.count(shown.caption) < 140


def test_the_lora_begins_as_the_model_and_is_all_that_is_trained(tmp_path: Path) -> None:
    from demo.training.trainer import Plan, Trainer

    denoiser = Denoiser(32, 600).eval()
    noisy, times = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    tokens = torch.randint(0, 600, (2, 77))
    with torch.no_grad():
        before = denoiser(noisy, times, tokens)
        student.add_lora(denoiser)
        assert torch.equal(denoiser(noisy, times, tokens), before)
    trainer = Trainer(Plan("lora", 1e-3, 4, 1.0), denoiser, CPU, None)
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    names = {name for name, p in denoiser.named_parameters() if id(p) in trained}
    assert names and all(".lora_" in name and name.startswith("unet.") for name in names)


@torch.no_grad()
def test_the_file_changes_the_model_as_peft_does(tmp_path: Path) -> None:
    """What is trained with PEFT is what `--lora` computes."""
    checkpoint = Checkpoint.open(MODEL)
    denoiser = Denoiser(128, checkpoint.family.text_inputs[0].vocabulary)
    denoiser.unet = load_module(checkpoint, "unet", torch.float32)
    student.add_lora(denoiser)
    draw = generator(0, "lora", 0)
    for name, p in denoiser.unet.named_parameters():
        if ".lora_B" in name:
            p.copy_(0.03 * torch.randn(p.shape, generator=draw))
    student.write_lora(tmp_path, denoiser.unet)
    noisy = torch.randn((1, 4, 32, 32), generator=draw)
    text = torch.randn((1, 77, 128), generator=draw)
    wanted = denoiser.unet(noisy, 500, text).sample
    module = load_module(checkpoint, "unet", torch.float32)
    plain = module(noisy, 500, text).sample
    fuse(module, checkpoint, "unet", [Lora.open(tmp_path / WEIGHTS, 1.0)])
    got = module(noisy, 500, text).sample
    assert (wanted - plain).abs().mean() > 0.05
    assert (got - wanted).abs().mean() < 0.01 * (wanted - plain).abs().mean()  # fp16 in the file


def smoke(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "demo.distill", "--smoke", "--device", "cpu", *options]
    command += ["--out", str(folder / "lora"), "--work", str(folder / "work")]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was terminated while it trained, and resumed."""
    folder = tmp_path_factory.mktemp("distill")
    first = smoke(folder)
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("lora  step"):
            first.send_signal(signal.SIGTERM)
            break
    _, error = rest_of(first)
    assert first.returncode == 143 and "--resume" in error, error
    assert not (folder / "lora").exists()
    second = smoke(folder, "--resume")
    said, error = second.communicate()
    assert second.returncode == 0, error
    assert "teacher" not in said and "held-out error" in said  # that stage is done
    return folder


@pytest.mark.slow
def test_a_smoke_run_writes_a_lora_that_loads(distilled: Path, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    out = distilled / "lora"
    run = json.loads((out / RUNS).read_text())
    assert run["steps"] == 20 and run["model"] == digest(MODEL)
    assert f"LoRA of rank {run['rank']}" in (out / "README.md").read_text()
    unet: Any = UNet2DConditionModel.from_pretrained(MODEL / "unet")
    unet.load_lora_adapter(out / WEIGHTS, prefix="unet")
    unet.fuse_lora()
    assert few_step_model.main([str(tmp_path / "model"), "--lora", str(out)]) == 0
    checkpoint = Checkpoint.open(tmp_path / "model")
    assert checkpoint.family.defaults.few_steps
    ours = load_module(checkpoint, "unet", torch.float32).state_dict()
    theirs = {n.replace(".base_layer", ""): t for n, t in unet.state_dict().items()}
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=2e-3, rtol=2e-3)


@pytest.mark.slow
def test_what_cannot_be_done_is_said_before_any_work(
    distilled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = ["--work", str(distilled / "work"), "--smoke"]
    assert distill.main(["--out", str(tmp_path / "new"), *work]) == 1
    assert "--resume" in capsys.readouterr().err
    assert distill.main(["--out", str(tmp_path / "new"), *work, "--resume", "--seed", "3"]) == 1
    assert "another model or seed" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    assert distill.main(["--out", str(tmp_path / "mine"), *work, "--resume"]) == 1
    assert "is not a LoRA" in capsys.readouterr().err
    assert few_step_model.main([str(tmp_path / "mine"), "--lora", str(tmp_path)]) == 1
    assert "is not a checkpoint" in capsys.readouterr().err
    assert few_step_model.main([str(tmp_path / "m"), "--lora", str(tmp_path)]) == 1
    assert "few_step_model: " in capsys.readouterr().err
