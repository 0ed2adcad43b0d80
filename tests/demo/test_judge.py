"""The judge: its crops, its answers and its files."""

from __future__ import annotations

import json
import os
import shutil
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
from demo.scenes import COLOURS, KINDS
from demo.training.hardware import Hardware

CPU = Hardware(torch.device("cpu"), bf16=False)


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


@pytest.mark.skipif(not (judge.FOLDER / WEIGHTS).exists(), reason="demo/judge has no weights yet")
def test_the_shipped_judge_knows_what_it_sees() -> None:
    found = train_judge.measure(Judge.open(), scenes.evaluation_seeds(200), size=128)
    assert found["both"] >= 0.97 and found["empty"] >= 0.97 and found["gone"] >= 0.97
    assert found["half_done"] >= 0.9
