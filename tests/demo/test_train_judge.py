"""The judge's training: its examples, its smoke run and what it refuses."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from demo import judge, scenes, train_judge
from demo.judge import NOTHING, Judge
from demo.scenes import COLOURS, EVALUATION, KINDS
from demo.train_judge import HELD_OUT, TRAINING_END
from demo.training.hardware import Hardware
from demo.training.interrupts import Interrupts
from demo.training.judge_examples import Examples, Pool, augmented, overlap
from demo.training.networks import make_vae
from demo.training.trainer import Plan, generator
from demo.training.vae import load_vae, round_trip

Run = tuple[Path, list[int]]
CPU = Hardware(torch.device("cpu"), bf16=False)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The folder of a smoke run, and every seed it drew."""
    folder, drawn, scene = tmp_path_factory.mktemp("judge") / "made", list[int](), scenes.scene

    def watched(seed: int, size: int) -> scenes.Scene:
        drawn.append(seed)
        return scene(seed, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "scene", watched)
        assert train_judge.main(["--out", str(folder), "--smoke", "--device", "cpu"]) == 0
    return folder, drawn


@pytest.fixture(scope="module")
def pool() -> Pool:
    return Pool.draw(HELD_OUT[:90])


def rows(examples: Examples) -> list[tuple[Any, ...]]:
    return [tuple(t.numpy() for t in row) for row in zip(*examples, strict=True)]


def test_whole_objects_and_lost_ones_are_those_of_the_scenes(pool: Pool) -> None:
    objects = [(s, o) for s in map(scenes.scene, HELD_OUT[:90]) for o in s.objects]
    shown = rows(pool.whole(torch.arange(len(pool.objects))))
    for (picture, box, kind, colour), (scene, thing) in zip(shown, objects, strict=True):
        assert np.array_equal(picture, scene.image) and box == pytest.approx(thing.box)
        assert (KINDS[kind], COLOURS[colour]) == (thing.kind, thing.colour)
    lost = rows(pool.gone(torch.arange(90)))
    assert len(lost) == 30
    for picture, box, kind, colour in lost:
        ((scene, thing),) = ((s, o) for s, o in objects if box == pytest.approx(o.box))
        assert (picture != scene.image).any(2)[thing.mask].mean() > 0.9
        assert (kind, colour) == (NOTHING, -1)


def test_empty_boxes_hold_no_object(pool: Pool) -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [2, 2, 3, 3]])
    assert overlap(boxes[0], boxes).tolist() == pytest.approx([1, 1 / 3, 0])
    shown = rows(pool.empty(torch.arange(90), generator(0, "test", 0)))
    scene_of = {s.image.tobytes(): s for s in map(scenes.scene, HELD_OUT[:90])}
    assert len(shown) > 45
    for picture, box, kind, colour in shown:
        assert (kind, colour) == (NOTHING, -1) and box.min() >= 0 and box.max() <= 1
        taken = torch.tensor([thing.box for thing in scene_of[picture.tobytes()].objects])
        assert overlap(torch.from_numpy(box), taken).max() < 0.1


def test_half_done_edits_are_both_before_and_after(pool: Pool) -> None:
    shown = rows(pool.half_done(torch.arange(90), generator(0, "test", 0)))
    assert len(shown) > 15
    for picture, box, kind, colour in shown:
        n = int((pool.boxes.numpy() == box).all(2).any(1).argmax())
        before, after = pool.images[n].numpy(), pool.changed[n].numpy()
        old, new = ((picture == other).all(2) for other in (before, after))
        assert (old | new).all() and (kind, colour) == (NOTHING, -1)
        left, top, right, bottom = (64 * box).round().astype(int)
        clear = (np.abs(before.astype(int) - after).max(2) >= 48)[top:bottom, left:right]
        assert clear.mean() > 0.24 and 0.28 < new[top:bottom, left:right][clear].mean() < 0.72


def test_augmented_crops_are_near_the_plain_ones_and_fresh(pool: Pool) -> None:
    shown = pool.batch(64, generator(0, "test", 0))
    draws = (generator(0, "test", step) for step in (1, 1, 2))
    one, again, other = (augmented(shown, draw) for draw in draws)
    assert torch.equal(one, again) and not torch.allclose(one, other, atol=0.05)
    assert float(one.min()) >= 0 and float(one.max()) <= 1
    plain = judge.crops(judge.to_shares(shown.pictures), shown.boxes)
    assert 0.005 < float((one - plain).abs().mean()) < 0.1
    assert float((one.mean((2, 3)) - plain.mean((2, 3))).abs().mean()) < 0.06


@pytest.mark.slow
def test_a_smoke_run_learns(smoke: Run) -> None:
    """Guessing is right on an eighth of the colours and on one in 64 of both."""
    looker = Judge.open(smoke[0])
    found = train_judge.measure(looker, HELD_OUT[100:200])
    assert found["colour"] > 0.25 and found["kind"] > 0.08 and found["both"] > 0.06
    assert found["empty"] > 0.9 and found["gone"] > 0.9
    facts, again = looker.facts, train_judge.measure(looker, HELD_OUT[:40])
    assert facts["steps"] == 200 and facts["held_out"] == pytest.approx(again, abs=0.03)
    assert set(facts["evaluation"]) == set(found) and "PyTorch" in facts["hardware"]


@pytest.mark.slow
def test_training_draws_no_seed_that_is_measured_on(smoke: Run) -> None:
    during, after = smoke[1][:300], smoke[1][300:]
    assert max(during) < TRAINING_END < min(HELD_OUT) < max(HELD_OUT) < EVALUATION
    assert after == [*HELD_OUT[:40], *range(EVALUATION, EVALUATION + 40)]


def test_the_seeds_to_measure_on_are_refused_for_training() -> None:
    with pytest.raises(AssertionError):
        train_judge.learn(
            range(TRAINING_END, TRAINING_END + 3), Plan("judge", 1e-3, 8, 1.0), CPU, Interrupts()
        )


def test_a_stopped_run_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = Pool.batch

    def stopped(*arguments: Any) -> Examples:
        os.kill(os.getpid(), signal.SIGTERM)
        return batch(*arguments)

    monkeypatch.setattr(Pool, "batch", stopped)
    assert train_judge.main(["--out", str(tmp_path / "made"), "--smoke", "--device", "cpu"]) == 143
    assert "nothing was written" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_what_cannot_be_done_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert train_judge.main(["--smoke", "--out", str(tmp_path / "file")]) == 1
    assert train_judge.main(["--smoke", "--out", str(tmp_path), "--vae", str(tmp_path)]) == 1
    out, error = capsys.readouterr()
    assert out == "" and "is a file" in error and "has no vae" in error


def test_pictures_go_through_a_checkpoints_vae(tmp_path: Path) -> None:
    torch.manual_seed(0)
    make_vae(64).half().save_pretrained(tmp_path / "vae")
    images, _ = scenes.batch(range(2))
    again = round_trip(load_vae(tmp_path, CPU.device))(images)
    assert again.shape == images.shape and again.dtype == np.uint8
    assert not np.array_equal(again, images)
