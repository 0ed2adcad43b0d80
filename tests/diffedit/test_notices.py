"""Warnings are sentences with codes: every code is documented, and stays with its text."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffedit import DiffEditPipeline
from diffedit.imaging import encode, photograph
from diffedit.imaging.mask_reader import read_mask
from diffedit.imaging.restore import restore
from diffedit.notices import CODES, Notice, warning_facts
from docs.generate.warning_codes import find_warning_codes, warning_codes


def test_every_code_in_the_source_is_documented_and_used() -> None:
    assert {code for code, _ in find_warning_codes()} == set(CODES)
    rows = warning_codes().splitlines()[2:]
    assert len(rows) == len(CODES)
    assert not [row for row in rows if row.endswith("|  |")]


def test_a_code_has_to_be_known() -> None:
    with pytest.raises(KeyError, match="soft_masks"):
        Notice("soft_masks", "The mask is soft.")


def test_a_warning_is_its_sentence_and_keeps_its_code_in_copies() -> None:
    notice = Notice("soft_mask", "The mask is soft.")
    assert notice == "The mask is soft." and json.dumps(notice) == '"The mask is soft."'
    for same in (pickle.loads(pickle.dumps(notice)), copy.deepcopy(notice), copy.copy(notice)):
        assert (same, same.code) == (notice, "soft_mask")
    assert warning_facts([notice]) == {
        "warnings": ["The mask is soft."],
        "warning_codes": ["soft_mask"],
    }


def noise(mode: str, size: tuple[int, int] = (16, 12)) -> Image.Image:
    return Image.effect_noise(size, 90).convert(mode)


def codes(notices: Any) -> list[str]:
    return [notice.code for notice in notices]


def test_what_a_picture_loses_has_codes() -> None:
    assert codes(photograph.read(noise("YCbCr")).warnings) == ["mode_converted"]
    dark = Image.fromarray(np.full((8, 8), 200, np.uint16))
    assert codes(photograph.read(dark).warnings) == ["almost_black"]
    with_alpha = noise("RGB")
    with_alpha.putalpha(noise("L"))
    photo = photograph.read(with_alpha)
    assert codes(encode.losses(photo, "JPEG")) == ["format_transparency"]
    assert codes(encode.losses(photograph.read(dark), "WEBP")) == ["format_bits"]


def test_a_soft_mask_has_a_code() -> None:
    ramp = Image.linear_gradient("L")
    assert codes(read_mask(ramp, ramp.size).warnings) == ["soft_mask"]


def test_warnings_about_the_other_picture_keep_their_codes() -> None:
    original = noise("RGB", (64, 64))
    edited = original.convert("YCbCr")
    found = restore(original, edited)
    assert "mode_converted" in codes(found.warnings)
    assert any("edited picture" in warning for warning in found.warnings)
    assert codes(restore(original, original).warnings) == ["no_changes"]


def test_the_warnings_of_an_edit_have_codes(pipe: DiffEditPipeline) -> None:
    result = pipe(
        noise("RGB", (64, 64)),
        "(a cat:1.2) " + "very " * 90 + "small\u200b",
        "a dog",
        num_inference_steps=2,
        num_maps_per_mask=1,
    )
    expected = ["prompt_truncated", "prompt_syntax", "invisible_characters"]
    assert codes(result.warnings)[:3] == expected
    same = pipe(noise("L", (64, 64)), "a cat", "a cat", num_inference_steps=2, num_maps_per_mask=1)
    assert codes(same.warnings) == ["same_texts"]
