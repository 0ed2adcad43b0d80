"""The record of an edit in a PNG: written, read, and refused if it is missing or damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffedit.imaging import decode
from diffedit.imaging.mask_reader import read_mask
from diffedit.imaging.metadata import (
    KEYWORD,
    EditRecord,
    mask_from_text,
    mask_to_text,
    pixel_digest,
    png_info,
    read_record,
)
from diffedit.request import InvalidRequest
from tests.imaging.pictures import array, noise, saved

RECORD = EditRecord(
    {"prompt": 'a "red" ball\u2028\U0001f534', "seed": 3},
    "0" * 64,
    version="0.1.0",
    model="sd15",
    size=(512, 768),
    backend="torch",
)


def write_png(path: Path, text: str | None) -> Path:
    info = PngInfo()
    if text is not None:
        info.add_itxt(KEYWORD, text)
    Image.new("RGB", (2, 2)).save(path, pnginfo=info)
    return path


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    for record in (RECORD, replace(RECORD, mask=mask_to_text(Image.new("L", (3, 2), 255)))):
        noise(4, 6).save(tmp_path / "a.png", pnginfo=png_info(record))
        assert read_record(tmp_path / "a.png") == record


def test_only_parameters_and_input_are_required(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", json.dumps({"parameters": {}, "input": "x", "new": 1}))
    assert read_record(path) == EditRecord({}, "x")


@pytest.mark.parametrize(
    "values",
    [
        [],
        3,
        {"input": "x"},
        {"parameters": {}},
        {"parameters": 3, "input": "x"},
        {"parameters": {}, "input": 3},
        {"parameters": {}, "input": "x", "mask": 3},
        {"parameters": {}, "input": "x", "size": [512]},
        {"parameters": {}, "input": "x", "size": "big"},
    ],
    ids=str,
)
def test_damaged_records_are_refused(values: Any, tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", json.dumps(values))
    with pytest.raises(InvalidRequest, match=r"The parameters in .*a\.png are damaged"):
        read_record(path)


@pytest.mark.parametrize("text", ['{"parameters": ', "[" * 100_000])
def test_text_that_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidRequest, match="are damaged"):
        read_record(write_png(tmp_path / "a.png", text))


def test_files_without_a_record_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="contains no parameters"):
        read_record(write_png(tmp_path / "a.png", None))
    with pytest.raises(InvalidRequest, match="does not exist"):
        read_record(tmp_path / "missing.png")
    (tmp_path / "b.png").write_bytes(saved(noise(2, 2), "JPEG"))
    with pytest.raises(InvalidRequest, match="not a readable PNG"):
        read_record(tmp_path / "b.png")


def test_the_digest_depends_on_pixels_size_and_mode_only() -> None:
    picture = noise(4, 6)
    for file_format in ("PNG", "BMP", "TIFF"):
        copy = decode.load(saved(picture, file_format))
        assert pixel_digest(copy) == pixel_digest(picture)
    others = [
        Image.frombytes("RGB", (4, 6), picture.tobytes()),
        Image.frombytes("L", (12, 6), picture.tobytes()),
        noise(4, 6, seed=1),
    ]
    assert len({pixel_digest(p) for p in (picture, *others)}) == 4


def test_masks_survive_conversion_to_text() -> None:
    mask = Image.fromarray(np.where(array(noise(5, 7))[..., 0] > 127, 255, 0).astype(np.uint8))
    restored = read_mask(mask_from_text(mask_to_text(mask)), mask.size)
    assert restored.image.tobytes() == mask.tobytes()


def test_a_damaged_mask_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="mask stored in the picture is damaged"):
        mask_from_text("not base64!")
