"""The run on edits of your own, with a tiny random model: a bad line is refused, a bad picture
fails its own edit only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality import quality
from benchmarks.quality.edit_set import read_set
from benchmarks.schema import Result
from diffedit.request import InvalidRequest
from engine.errors import DiffEditError

GOOD = '{"image": "a.png", "prompt": "a dog"}'


def written(folder: Path, *lines: str | dict[str, Any]) -> Path:
    path = folder / "edits.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return path


def test_a_full_line_and_a_short_one(tmp_path: Path) -> None:
    full = {"image": "in/a.jpg", "prompt": "a dog", "source_prompt": "a cat", "out": "b.png"}
    path = written(tmp_path, {**full, "mask_image": "/m/a.png", "seed": 7}, "", GOOD)
    first, second = read_set(path)
    assert (first.line, first.image, first.mask) == (1, tmp_path / "in/a.jpg", Path("/m/a.png"))
    assert (first.request.source_prompt, first.request.prompt) == ("a cat", "a dog")
    assert first.request.seed == 7
    assert (second.line, second.image, second.mask) == (3, tmp_path / "a.png", None)
    assert (second.request.source_prompt, second.request.seed) == ("", 0)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"image": "a.png", "prompt": "x"', "is not a JSON object"),
        ("[1, 2]", "is not a JSON object"),
        ('{"prompt": "x"}', "has no image"),
        ('{"image": null, "prompt": "x"}', "has no image"),
        ('{"image": "a.png"}', "no prompt"),
        ('{"image": 3, "prompt": "x"}', "image must be a path, not 3"),
        ('{"image": "", "prompt": "x"}', "image must be a path, not ''"),
        ('{"image": "a.png", "prompt": "x", "mask_image": ["m.png"]}', "mask_image must be a path"),
        ('{"image": "a.png", "prompt": " "}', "prompt is blank"),
        ('{"image": "a.png", "prompt": 5}', "prompt is 5 of type int"),
        ('{"image": "a.png", "prompt": "x", "source_prompt": 5}', "source_prompt is 5 of type int"),
        ('{"image": "a.png", "prompt": "x", "seed": 1.5}', "seed is 1.5"),
        ('{"image": "a.png", "prompt": "x", "seed": -1}', "seed is -1"),
        ('{"image": "a.png", "promt": "x"}', "did you mean 'prompt'"),
    ],
)
def test_a_malformed_line_is_one_sentence_with_its_number(
    tmp_path: Path, line: str, sentence: str
) -> None:
    path = written(tmp_path, GOOD, "", line, GOOD)
    with pytest.raises(InvalidRequest, match=sentence) as caught:
        read_set(path)
    said = str(caught.value)
    assert said.startswith(f"Line 3 of {path}: ") and "\n" not in said and len(said) < 400


def test_a_set_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="contains no edits"):
        read_set(written(tmp_path, "", "  "))
    with pytest.raises(InvalidRequest, match=r"none\.jsonl cannot be read .*No such file"):
        read_set(tmp_path / "none.jsonl")


def test_pictures_are_opened_one_by_one(tmp_path: Path, photo: Image.Image) -> None:
    """Upright photograph, and its mask at the photograph's size, white where it is edited."""
    photo.save(tmp_path / "a.png")
    drawn = np.zeros((36, 48), np.uint8)
    drawn[:, 24:] = 255
    Image.fromarray(drawn).save(tmp_path / "m.png")
    Image.new("L", (50, 10)).save(tmp_path / "long.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])

    def line(**more: str) -> dict[str, Any]:
        return {"image": "a.png", "prompt": "x", **more}

    masks = [line(mask_image=name) for name in ("m.png", "none.png", "long.png")]
    images = [line(image=name) for name in ("a.png", "none.png", "cut.png")]
    masked, lost, long, plain, missing, cut = read_set(written(tmp_path, *masks, *images))
    picture, mask = masked.load()
    assert np.array_equal(np.asarray(picture), np.asarray(photo))
    assert mask is not None and mask.dtype == np.bool_ and mask.shape == (72, 96)
    assert mask[:, 48:].all() and not mask[:, :48].any()
    assert plain.load()[1] is None
    for entry, sentence in [
        (missing, r"The picture .*none.png does not exist"),
        (cut, r"The picture .*cut.png is damaged"),
        (lost, r"The mask .*none.png does not exist"),
        (long, r"The mask has 50 x 10 pixels, another aspect"),
    ]:
        with pytest.raises(InvalidRequest, match=sentence):
            entry.load()


@pytest.fixture
def edit_set(tmp_path: Path, photo: Image.Image) -> Path:
    photo.save(tmp_path / "table.png")
    mask = np.zeros((photo.height, photo.width), np.uint8)
    mask[20:60, 10:40] = 255
    Image.fromarray(mask).save(tmp_path / "ball.png")
    ball = {"source_prompt": "a red ball", "prompt": "a blue ball", "mask_image": "ball.png"}
    return written(
        tmp_path,
        {"image": "table.png", **ball},
        {"image": "gone.png", "prompt": "a dog"},
        {"image": "table.png", "prompt": "a green cube", "seed": 3, "out": "cube.png"},
    )


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
    assert names == {f"{n}-table-{s}.png" for n in (1, 3) for s in ("0.5", "0.8")}
    printed = capsys.readouterr().out
    assert "2 of 3 edits" in printed and "Line 2" in printed
    for name in ("lpips", "clip"):
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
