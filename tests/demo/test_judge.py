"""The judge: its crops, its answers, its training examples and its files."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from demo import judge, scenes, train_judge
from demo.judge import CROP, ENLARGED, FACTS, NOTHING, WEIGHTS, Judge, JudgeError, Network
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


@pytest.fixture
def blank(tmp_path: Path) -> Path:
    """A folder with an untrained judge."""
    untrained(0).save(tmp_path / "blank")
    return tmp_path / "blank"


def untrained(seed: int) -> Judge:
    torch.manual_seed(seed)
    return Judge(Network(), {"seed": seed})


def seen_by_pillow(image: NDArray[np.uint8], box: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The enlarged box, resized by Pillow from a picture with repeated borders."""
    side = len(image)
    wide = Image.fromarray(np.pad(image, ((2 * side,) * 2, (2 * side,) * 2, (0, 0)), "edge"))
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * ENLARGED
    corners = tuple(((np.concatenate([middle - half, middle + half]) + 2) * side).tolist())
    return np.asarray(wide.resize((CROP, CROP), Image.Resampling.BILINEAR, box=corners))


def cropped(images: NDArray[np.uint8], boxes: NDArray[np.float64]) -> NDArray[np.float32]:
    """In levels, [N, 32, 32, 3]."""
    pictures = judge.to_shares(torch.from_numpy(images))
    found = judge.crops(pictures, torch.from_numpy(boxes).float())
    return np.asarray(255 * found.permute(0, 2, 3, 1), np.float32)


@pytest.mark.parametrize("size", [16, 64, 200])
def test_crops_are_those_of_pillow(size: int) -> None:
    draw = np.random.default_rng(size)
    images, _ = scenes.batch(range(40), size)
    middle, half = draw.uniform(0, 1, (40, 2)), draw.uniform(0.1, 0.5, (40, 2))
    boxes = np.concatenate([middle - half, middle + half], 1).clip(-1, 2)
    boxes[0] = 1.2, -0.2, 1.7, 0.3  # sees nothing but the edge
    assert (boxes < 0).sum() > 5 and (boxes > 1).sum() > 5
    expected = [seen_by_pillow(i, b) for i, b in zip(images, boxes, strict=True)]
    assert np.abs(cropped(images, boxes) - np.stack(expected)).max() < 1.6  # Pillow rounds twice


def test_blur_is_a_gaussian() -> None:
    spot, half = torch.zeros(1, 3, 32, 32), 0.5 / ENLARGED
    spot[..., 16, 16] = 1
    box = torch.tensor([[0.5 - half, 0.5 - half, 0.5 + half, 0.5 + half]])
    assert torch.allclose(judge.crops(spot, box, torch.zeros(1)), spot, atol=1e-5)
    soft = judge.crops(spot, box, torch.tensor([1.2]))[0, 0]
    far = (torch.arange(32) - 16).square()
    assert float((soft.sum(0) * far).sum()) == pytest.approx(1.2**2, rel=0.01)


def test_answers_depend_on_neither_order_nor_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_BATCH_PIXELS", 7 * 64 * 64)  # in sevens
    looker, order = Judge.open(), np.random.default_rng(1).permutation(25)
    images, _ = scenes.batch(range(25))
    boxes = np.array([scenes.scene(seed).objects[0].box for seed in range(25)])
    seen, mixed = looker.look(images, boxes), looker.look(images[order], boxes[order])
    alone = [looker.look(images[i : i + 1], boxes[i : i + 1]) for i in range(25)]
    answers = list(zip(seen.kinds, seen.colours, strict=True))
    assert len(set(answers)) > 1
    assert answers == [(a.kinds[0], a.colours[0]) for a in alone]
    assert [answers[i] for i in order] == list(zip(mixed.kinds, mixed.colours, strict=True))
    assert np.allclose(seen.confidence, [a.confidence[0] for a in alone], atol=1e-5)
    assert np.allclose(seen.confidence[order], mixed.confidence, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", [0, 5, NOTHING])
def test_what_the_network_says_is_what_is_answered(kind: int) -> None:
    looker = untrained(0)
    for head, answer in ((looker.network.kind, kind), (looker.network.colour, 2)):
        head.weight.zero_()
        head.bias.copy_(3.0 * (torch.arange(len(head.bias)) == answer))
    seen = looker.look(scenes.batch([1, 2])[0], np.array([[0.1, 0.1, 0.6, 0.6]] * 2))
    sure, painted = (np.exp(3) / (np.exp(3) + others) for others in (len(KINDS), len(COLOURS) - 1))
    assert seen.kinds == [(*KINDS, None)[kind]] * 2
    assert seen.colours == [None if kind == NOTHING else COLOURS[2]] * 2
    assert seen.confidence == pytest.approx(sure if kind == NOTHING else sure * painted, rel=1e-4)
    assert seen.confidence.dtype == np.float32


@pytest.mark.parametrize(
    ("shape", "boxes", "sentence"),
    [
        ((2, 64, 48, 3), [[0, 0, 1, 1]] * 2, "images are uint8"),
        ((2, 8, 8, 3), [[0, 0, 1, 1]] * 2, "at least 16"),
        ((2, 64, 64, 3), [[0, 0, 1, 1]], "2 images need boxes"),
        ((1, 64, 64, 3), [[0, 0, 1, float("nan")]], "left, top, right, bottom"),
        ((1, 64, 64, 3), [[0, 0, 64, 64]], "fractions of the side"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(shape: Any, boxes: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        untrained(0).look(np.zeros(shape, np.uint8), np.array(boxes))


def changed(folder: Path, **facts: Any) -> None:
    before = json.loads((folder / FACTS).read_text())
    (folder / FACTS).write_text(json.dumps({**before, **facts}))


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), "there is no judge.safetensors in"),
        (shutil.rmtree, "there is no judge.json in"),
        (lambda folder: os.truncate(folder / WEIGHTS, 9000), "judge.safetensors is damaged"),
        (lambda folder: changed(folder, sha256="0"), "judge.safetensors is damaged"),
        (lambda folder: save_file({}, folder / WEIGHTS), "judge.safetensors is damaged"),
        (lambda folder: (folder / FACTS).write_text('{"kinds": ["ball'), "judge.json is damaged"),
        (lambda folder: (folder / FACTS).write_bytes(b"\xff\xfe"), "judge.json is damaged"),
        (lambda folder: changed(folder, colours=["red"]), "other kinds or colours"),
        (lambda folder: changed(folder, kinds=[*KINDS[1:], KINDS[0]]), "other kinds or colours"),
    ],
)
def test_bad_files_are_refused_in_a_sentence(
    blank: Path, harm: Callable[[Path], object], sentence: str
) -> None:
    harm(blank)
    with pytest.raises(JudgeError, match=sentence) as caught:
        Judge.open(blank)
    said = str(caught.value)
    assert "\n" not in said and said.endswith(f"python -m demo.train_judge --out {blank}")


def test_a_judge_is_saved_whole_or_not_at_all(blank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {f.name: f.read_bytes() for f in blank.iterdir()}

    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(JudgeError, match="No space left"):
        untrained(1).save(blank)
    monkeypatch.undo()
    assert {f.name: f.read_bytes() for f in blank.iterdir()} == before
    untrained(1).save(blank)
    assert Judge.open(blank).facts["seed"] == 1 and len(list(blank.iterdir())) == 2


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


@pytest.mark.skipif(not (judge.FOLDER / WEIGHTS).exists(), reason="demo/judge has no weights yet")
def test_the_shipped_judge_knows_what_it_sees() -> None:
    found = train_judge.measure(Judge.open(), scenes.evaluation_seeds(200), size=128)
    assert found["both"] >= 0.97 and found["empty"] >= 0.97 and found["gone"] >= 0.97
    assert found["half_done"] >= 0.9
