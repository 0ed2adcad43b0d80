"""The record of an edit in a PNG: written, read, and refused if it is missing or damaged."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffedit.imaging import png
from diffedit.imaging.mask_reader import EditMask, read_mask
from diffedit.imaging.metadata import (
    KEYWORD,
    EditRecord,
    pack_mask,
    pixel_digest,
    read_record,
    record_chunks,
)
from diffedit.request import InvalidRequest
from tests.imaging.pictures import array, load, noise, saved

RECORD = EditRecord(
    {"preset": "paper", "prompt": 'a "red" ball\u2028\U0001f534', "seed": 3},
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
    for record in (RECORD, replace(RECORD, mask=packed(Image.new("L", (3, 2), 255)))):
        (tmp_path / "a.png").write_bytes(png.encode(noise(4, 6), record_chunks(record)))
        assert read_record(tmp_path / "a.png") == record


def packed(mask: Image.Image) -> bytes:
    return pack_mask(EditMask(mask, "white"))


def dithered(width: int, height: int) -> Image.Image:
    """A mask that is hard to compress."""
    levels = np.random.default_rng(0).integers(0, 2, (height, width), np.uint8)
    return Image.fromarray(levels * np.uint8(255))


def test_a_large_mask_and_long_prompts_leave_a_file_that_others_open(tmp_path: Path) -> None:
    """Pillow refuses a file with more than 1 MiB of text."""
    mask, prompt = dithered(4000, 3000), "\U0001f534" * 4096
    parameters = dict.fromkeys(("prompt", "source_prompt", "negative_prompt"), prompt)
    parameters["preset"] = "paper"
    record = replace(RECORD, parameters=parameters, mask=packed(mask))
    assert len(record.mask or b"") > 2**20
    path = tmp_path / "a.png"
    path.write_bytes(png.encode(noise(4, 6), record_chunks(record)))
    with Image.open(path) as picture:
        picture.load()
        assert picture.tobytes() == noise(4, 6).tobytes()
    assert max(len(data) for _, data in png.chunks_of(path.read_bytes())) <= 2**19
    assert read_record(path) == record
    assert read_mask(record.mask or b"", mask.size).image.tobytes() == mask.tobytes()


def test_records_with_the_mask_in_the_text_are_read(tmp_path: Path) -> None:
    """Earlier versions wrote them, also above Pillow's limit."""
    for mask in (dithered(40, 30), dithered(4000, 3000)):
        values = {"parameters": {}, "input": "x", "mask": b64encode(packed(mask)).decode()}
        chunk = png.text_chunk(KEYWORD, json.dumps(values), compress=True)
        (tmp_path / "a.png").write_bytes(png.encode(noise(4, 6), [chunk]))
        assert read_record(tmp_path / "a.png").mask == packed(mask)


def test_a_mask_that_another_program_dropped_is_missed(tmp_path: Path) -> None:
    text, *pieces = record_chunks(replace(RECORD, mask=packed(dithered(3000, 3000))))
    assert len(pieces) > 2
    for kept in ([], pieces[:-1], pieces[::-1]):
        (tmp_path / "a.png").write_bytes(png.encode(noise(4, 6), [text, *kept]))
        with pytest.raises(InvalidRequest, match=r"mask in .*a\.png is missing or damaged"):
            read_record(tmp_path / "a.png")


def test_only_parameters_and_input_are_required(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", json.dumps({"parameters": {}, "input": "x", "new": 1}))
    assert read_record(path) == EditRecord({"preset": "paper"}, "x")  # older than presets


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
        {"parameters": {}, "input": "x", "mask": "not base64!"},
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
        copy = load(saved(picture, file_format))
        assert pixel_digest(copy) == pixel_digest(picture)
    others = [
        Image.frombytes("RGB", (4, 6), picture.tobytes()),
        Image.frombytes("L", (12, 6), picture.tobytes()),
        noise(4, 6, seed=1),
    ]
    assert len({pixel_digest(p) for p in (picture, *others)}) == 4


def test_masks_survive_packing() -> None:
    mask = Image.fromarray(np.where(array(noise(5, 7))[..., 0] > 127, 255, 0).astype(np.uint8))
    restored = read_mask(packed(mask), mask.size)
    assert restored.image.tobytes() == mask.tobytes()
