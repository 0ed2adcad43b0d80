"""The trainer: exact resumption, complete checkpoints, and what it refuses."""

from __future__ import annotations

import copy
import itertools
import math
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from demo.training import TrainingError, trainer
from demo.training.files import atomic_folder
from demo.training.interrupts import Interrupted, Interrupts, interruptible
from demo.training.run import Run, Settings
from demo.training.trainer import checkpoints
from tests.demo.training_runs import draw, same, toy, toy_loss


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
