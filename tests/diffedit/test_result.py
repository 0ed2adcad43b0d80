"""`EditResult.save`: a file with everything that the format can hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffedit.imaging import photograph, png
from diffedit.request import InvalidRequest
from diffedit.result import EditResult

EMPTY: Any = None


def result_of(source: Any) -> EditResult:
    photo = photograph.read(source)
    return EditResult(photo.image, photo, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, seed=0)


def test_save_writes_every_format(tmp_path: Path) -> None:
    picture = Image.effect_noise((20, 10), 50).convert("RGB")
    for name, file_format in (
        ("a.png", "PNG"),
        ("a.JPG", "JPEG"),
        ("a.webp", "WEBP"),
        ("a.tif", "TIFF"),
    ):
        assert result_of(picture).save(str(tmp_path / name)) == []
        with Image.open(tmp_path / name) as image:
            assert (image.format, image.size) == (file_format, picture.size)
            if file_format != "JPEG":
                assert image.tobytes() == picture.tobytes()


def test_save_keeps_sixteen_bits_or_says_what_is_lost(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (10, 20, 4), np.uint16)
    result = result_of(png.encode(values))
    assert result.save(tmp_path / "a.png") == []
    np.testing.assert_array_equal(photograph.read(tmp_path / "a.png").values, values)
    lost = " ".join(result.save(tmp_path / "a.jpg"))
    assert "8 bits" in lost
    assert "transparency" in lost


def test_other_extensions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="extension"):
        result_of(Image.new("RGB", (4, 4))).save(tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_the_image_of_a_result_is_its_own(tmp_path: Path) -> None:
    photo = photograph.read(Image.new("RGB", (4, 4)))
    first, second = (replace(result_of(photo), photo=photo) for _ in range(2))
    first.image.putpixel((0, 0), (9, 9, 9))
    assert second.image.getpixel((0, 0)) == (0, 0, 0)
    first.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").getpixel((0, 0)) == (0, 0, 0)
