"""The run on a user's own edit set, with a tiny random model and no downloaded weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality import quality
from benchmarks.schema import Result
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


def run(tiny: Path, edits: Path, *strengths: float, **more: Any) -> Result:
    fixed: dict[str, Any] = {"steps": 4, "ratio": 1.9, "dtype": "fp32", "device": "cpu"}
    strengths = strengths or (0.5,)
    return quality(tiny, edits=edits, strengths=strengths, **(fixed | more))


def figures(result: Result, strength: str) -> dict[str, float | None]:
    rows = (row for row in result.measurements if row.labels["setting"] == f"strength {strength}")
    return {row.name: row.value for row in rows}


def test_a_missing_picture_fails_its_line_only(
    tiny: Path, edit_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save = edit_set.parent / "results" / "deep"
    result = run(tiny, edit_set, 0.5, 0.8, save=save)
    (failed,) = result.not_run
    assert failed.name == "line 2" and "gone.png" in failed.reason
    assert {row.labels["setting"] for row in result.measurements} == {
        "strength 0.5",
        "strength 0.8",
    }
    found = figures(result, "0.8")
    iou, share = found["iou"], found["mask_share"]
    assert iou is not None and 0 <= iou <= 1 and share is not None and 0 < share < 1
    assert found["changed_outside_mask"] == 0
    names = {p.name for p in save.iterdir()}
    assert names == {f"{n}-{s}.png" for n in ("table-1", "cube") for s in ("0.5", "0.8")}
    printed = capsys.readouterr().out
    assert "2 of 3 edits" in printed and "Line 2" in printed
    for name in ("lpips", "clip", "fid"):
        assert f"{name}: not measured: " in printed


def test_strength_is_what_is_varied(tiny: Path, edit_set: Path) -> None:
    result = run(tiny, edit_set, 0.3, 1.0, method="sdedit")
    weak, strong = figures(result, "0.3"), figures(result, "1")
    assert weak["background_db"] != strong["background_db"]


def test_the_source_can_be_ignored(tiny: Path, edit_set: Path) -> None:
    used, ignored = run(tiny, edit_set), run(tiny, edit_set, source=False)
    assert used.settings["source"] and not ignored.settings["source"]
    assert figures(used, "0.5") != figures(ignored, "0.5")


def test_nothing_readable_is_an_error(tiny: Path, tmp_path: Path) -> None:
    edits = tmp_path / "edits.jsonl"
    edits.write_text('{"image": "gone.png", "prompt": "a dog"}\n')
    with pytest.raises(DiffEditError, match="No edit of"):
        run(tiny, edits)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"strengths": (1.5,)}, "strength is 1.5"),
        ({"method": "paint"}, "no method 'paint'"),
        ({"guidance": float("nan")}, "guidance_scale is nan"),
    ],
)
def test_bad_options_are_refused_before_the_model_is_loaded(
    more: dict[str, Any], sentence: str, edit_set: Path
) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        quality(Path("/no/such/model"), edits=edit_set, **more)


def test_a_malformed_line_is_named(tiny: Path, tmp_path: Path) -> None:
    edits = tmp_path / "edits.jsonl"
    edits.write_text('{"image": "a.png", "prompt": "a dog"}\n{"image": "b.png"\n')
    with pytest.raises(DiffEditError, match="Line 2"):
        run(tiny, edits)
