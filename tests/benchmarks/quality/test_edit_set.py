"""A set of edits is read whole or refused by a sentence that names the line; a bad picture costs
its own edit alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality.edit_set import EntryError, SetError, load, read_set
from engine.errors import DiffEditError

GOOD = '{"image": "a.png", "prompt": "a dog"}'


def written(folder: Path, *lines: str | bytes) -> Path:
    path = folder / "edits.jsonl"
    rows = [line if isinstance(line, bytes) else line.encode() for line in lines]
    path.write_bytes(b"\n".join(rows))
    return path


def test_a_full_line_and_a_short_one(tmp_path: Path) -> None:
    full = {"image": "in/a.jpg", "prompt": "a dog", "source": "a cat", "mask": "/m/a.png"}
    path = written(tmp_path, json.dumps({**full, "seed": 7, "name": "one"}), GOOD)
    first, second = read_set(path)
    assert (first.line, first.name, first.image) == (1, "one", tmp_path / "in/a.jpg")
    assert (first.source, first.prompt, first.mask) == ("a cat", "a dog", Path("/m/a.png"))
    assert first.seed == 7
    assert (second.line, second.name, second.image) == (2, "a-2", tmp_path / "a.png")
    assert (second.source, second.prompt, second.mask, second.seed) == ("", "a dog", None, 0)


def test_blank_lines_are_passed_over_but_counted(tmp_path: Path) -> None:
    entries = read_set(written(tmp_path, b"\xef\xbb\xbf", GOOD + "\r", "  \r", "", GOOD, ""))
    assert [(e.line, e.name) for e in entries] == [(2, "a-2"), (5, "a-5")]


def test_null_is_left_out(tmp_path: Path) -> None:
    line = '{"image": "a.png", "prompt": "x", "mask": null, "seed": null, "name": null}'
    (entry,) = read_set(written(tmp_path, line))
    assert (entry.mask, entry.seed, entry.name) == (None, 0, "a-1")


def test_a_text_may_hold_what_other_programs_take_for_a_line_end(tmp_path: Path) -> None:
    line = json.dumps({"image": "a.png", "prompt": "a\u2028b\x85c"}, ensure_ascii=False)
    (entry,) = read_set(written(tmp_path, line))
    assert entry.prompt == "a\u2028b\x85c"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"image": "a.png", "prompt": "x"', "no json .*column"),
        ("[1, 2]", "no json object"),
        ("[" * 100_000, "nesting"),
        ('{"seed": ' + "9" * 5000 + "}", "nesting"),
        (b'{"image": "a.png", "prompt": "\xff"}', "no UTF-8"),
        ('{"prompt": "x"}', "has no image"),
        ('{"image": null, "prompt": "x"}', "has no image"),
        ('{"image": "a.png"}', "has no prompt"),
        ('{"image": 3, "prompt": "x"}', "image 3, but it must be a path"),
        ('{"image": "", "prompt": "x"}', "image '', but it must be a path"),
        ('{"image": "a\\u0000", "prompt": "x"}', "must be a path"),
        ('{"image": "a.png", "prompt": "x", "mask": ["m.png"]}', "mask .* must be a path"),
        ('{"image": "a.png", "prompt": "x", "mask": "\\ud800"}', "mask .* must be a path"),
        ('{"image": "a.png", "prompt": " "}', "prompt is blank"),
        ('{"image": "a.png", "prompt": 5}', "prompt is 5 of type int"),
        ('{"image": "a.png", "prompt": "x", "source": 5}', ": source is 5 of type int"),
        ('{"image": "a.png", "prompt": "x", "seed": 1.5}', "seed is 1.5"),
        ('{"image": "a.png", "prompt": "x", "seed": true}', "seed is True"),
        ('{"image": "a.png", "prompt": "x", "seed": -1}', "seed is -1"),
        ('{"image": "a.png", "prompt": "x", "name": 5}', "name 5, but it must be text"),
        ('{"image": "a.png", "prompt": "x", "name": "../a"}', "files are called by it"),
        ('{"image": "a.png", "prompt": "x", "name": ".a"}', "files are called by it"),
        ('{"image": "a.png", "prompt": "x", "name": "a\\nb"}', "files are called by it"),
        ('{"image": "a.png", "prompt": "x", "name": "' + "é" * 101 + '"}', "at most 200 bytes"),
        ('{"image": "a.png", "promt": "x"}', "unknown key 'promt'; did you mean 'prompt'"),
        ('{"image": "a.png", "prompt": "x", "mask_image": null}', "did you mean 'mask'"),
        ('{"image": "a.png", "prompt": "x", "out": 1}', "take one of image, prompt, source"),
    ],
)
def test_a_malformed_line_is_one_sentence_with_its_number(
    tmp_path: Path, line: str | bytes, sentence: str
) -> None:
    path = written(tmp_path, GOOD, "", line, GOOD)
    with pytest.raises(SetError, match=sentence) as caught:
        read_set(path)
    said = str(caught.value)
    assert isinstance(caught.value, DiffEditError)
    assert said.startswith(f"Line 3 of {path}") and "\n" not in said and len(said) < 400


def test_a_name_belongs_to_one_line(tmp_path: Path) -> None:
    """Also one that a line without a name would have got."""
    taken = '{"image": "b.png", "prompt": "x", "name": "a-3"}'
    with pytest.raises(SetError, match=r"Line 3 .*'a-3' of line 1; give"):
        read_set(written(tmp_path, taken, "", GOOD))


def test_default_names_are_fit_for_files(tmp_path: Path) -> None:
    images = ["..", ".hidden", "a\\b\tc.png", "long" * 60 + ".png"]
    lines = [json.dumps({"image": image, "prompt": "x"}) for image in images]
    names = [entry.name for entry in read_set(written(tmp_path, *lines))]
    assert names == ["edit-1", "hidden-2", "a_b_c-3", "long" * 10 + "-4"]


@pytest.mark.parametrize("lines", [[], ["", "  ", "\t"]])
def test_an_empty_set_is_refused(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(SetError, match="holds no edits; write one json object a line"):
        read_set(written(tmp_path, *lines))


def test_a_set_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetError, match=r"none\.jsonl cannot be read .*No such file"):
        read_set(tmp_path / "none.jsonl")
    with pytest.raises(SetError, match=r"cannot be read .*directory"):
        read_set(tmp_path)


def test_pictures_are_opened_one_by_one(tmp_path: Path, photo: Image.Image) -> None:
    """Upright photograph, and its mask at the photograph's size, white where it is edited."""
    photo.save(tmp_path / "a.png")
    drawn = np.zeros((36, 48), np.uint8)
    drawn[:, 24:] = 255
    Image.fromarray(drawn).save(tmp_path / "m.png")
    Image.new("L", (50, 10)).save(tmp_path / "long.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])

    def line(**more: str) -> str:
        return json.dumps({"image": "a.png", "prompt": "x", **more})

    masked, plain, missing, cut, lost, long = read_set(
        written(
            tmp_path,
            *(line(mask="m.png"), line(), line(image="none.png"), line(image="cut.png")),
            *(line(mask="none.png"), line(mask="long.png")),
        )
    )
    picture, mask = load(masked)
    assert np.array_equal(np.asarray(picture), np.asarray(photo))
    assert mask is not None and mask.dtype == np.bool_ and mask.shape == (72, 96)
    assert mask[:, 48:].all() and not mask[:, :48].any()
    assert load(plain)[1] is None
    for entry, sentence in [
        (missing, r"^Line 3: The picture .*none.png does not exist"),
        (cut, r"^Line 4: The picture .*cut.png is damaged"),
        (lost, r"^Line 5: The mask .*none.png does not exist"),
        (long, r"^Line 6: The mask has 50 x 10 pixels, another aspect"),
    ]:
        with pytest.raises(EntryError, match=sentence) as caught:
            load(entry)
        assert isinstance(caught.value, DiffEditError)
