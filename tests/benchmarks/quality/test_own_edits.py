"""The run on a user's own edit set, with a tiny random model and no downloaded weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import quality
from diffedit.request import InvalidRequest
from engine.errors import DiffEditError


@pytest.fixture
def edit_set(tmp_path: Path, photo: Image.Image) -> Path:
    photo.save(tmp_path / "table.png")
    mask = np.zeros((photo.height, photo.width), np.uint8)
    mask[20:60, 10:40] = 255
    Image.fromarray(mask).save(tmp_path / "ball.png")
    lines: list[dict[str, Any]] = [
        {"image": "table.png", "source": "a red ball", "prompt": "a blue ball", "mask": "ball.png"},
        {"image": "gone.png", "prompt": "a dog"},
        {"image": "table.png", "prompt": "a green cube", "seed": 3, "name": "cube"},
    ]
    path = tmp_path / "edits.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(tiny: Path, edits: Path, *more: str) -> dict[str, Any]:
    fixed = ("--steps", "4", "--ratio", "1.9", "--dtype", "fp32", "--device", "cpu")
    return quality.run(["--model", str(tiny), "--edits", str(edits), *fixed, *more])


def test_a_missing_picture_costs_its_line_alone(
    tiny: Path, edit_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save = edit_set.parent / "results" / "deep"
    found = run(tiny, edit_set, "--strengths", "0.5,0.8", "--save", str(save))
    assert list(found["failed"]) == [2] and "gone.png" in found["failed"][2]
    assert list(found["strengths"]) == ["strength 0.5", "strength 0.8"]
    figures = found["strengths"]["strength 0.8"]
    assert 0 <= figures["iou"][0] <= 1 and 0 < figures["mask_share"][0] < 1
    assert figures["changed_outside_mask"][0] == 0
    names = {p.name for p in save.iterdir()}
    assert names == {f"{n}-{s}.png" for n in ("table-1", "cube") for s in ("0.5", "0.8")}
    said = capsys.readouterr().out
    assert "2 of 3 edits" in said and "Line 2" in said
    for name in ("lpips", "clip", "fid"):
        assert f"{name}: not measured: " in said


def test_strength_is_what_is_varied(tiny: Path, edit_set: Path) -> None:
    found = run(tiny, edit_set, "--strengths", "0.3,1", "--method", "sdedit")["strengths"]
    weak, strong = found["strength 0.3"], found["strength 1"]
    assert weak["background_db"] != strong["background_db"]


def test_the_source_can_be_ignored(tiny: Path, edit_set: Path) -> None:
    told = run(tiny, edit_set, "--strengths", "0.5")
    blind = run(tiny, edit_set, "--strengths", "0.5", "--no-source")
    assert told["source"] and not blind["source"]
    assert told["strengths"] != blind["strengths"]


def test_nothing_readable_is_an_error(tiny: Path, tmp_path: Path) -> None:
    edits = tmp_path / "edits.jsonl"
    edits.write_text('{"image": "gone.png", "prompt": "a dog"}\n')
    with pytest.raises(DiffEditError, match="No edit of"):
        run(tiny, edits, "--strengths", "0.5")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--strengths", "1.5"), "strength is 1.5"),
        (("--method", "paint"), "no method 'paint'"),
        (("--guidance", "nan"), "guidance_scale is nan"),
    ],
)
def test_bad_options_are_refused_before_the_model_is_loaded(
    more: tuple[str, ...], sentence: str, edit_set: Path
) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        run(Path("/no/such/model"), edit_set, *more)


def test_a_malformed_line_is_named(tiny: Path, tmp_path: Path) -> None:
    edits = tmp_path / "edits.jsonl"
    edits.write_text('{"image": "a.png", "prompt": "a dog"}\n{"image": "b.png"\n')
    with pytest.raises(DiffEditError, match="Line 2"):
        run(tiny, edits)
