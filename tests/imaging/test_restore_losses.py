"""Warnings about what `restore` cannot take from the edited picture, which they name."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from demo.picture import still_life
from diffedit import restore
from diffedit.request import InvalidRequest

PLACE = (60, 40, 100, 80)
BASE = still_life(160, 120)


def changed(picture: Image.Image) -> Image.Image:
    copy = picture.copy()
    copy.paste((250, 250, 10), PLACE)
    return copy


def clear(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    alpha = Image.new("L", picture.size, 255)
    alpha.paste(0, box)
    copy = picture.copy()
    copy.putalpha(alpha)
    return copy


def animated(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "GIF", save_all=True, append_images=[picture.rotate(90)])
    return file.getvalue()


def with_profile(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", icc_profile=b"no profile")
    return file.getvalue()


EDITED = changed(BASE)
CASES: dict[str, tuple[Image.Image, bytes | Image.Image, str | None]] = {
    "nothing": (BASE, EDITED, None),
    "transparent in both elsewhere": (clear(BASE, (0, 0, 9, 9)), clear(EDITED, (0, 0, 9, 9)), None),
    "grey original": (
        BASE.convert("L"), changed(BASE.convert("L").convert("RGB")), "changes are grey"
    ),
    "grey original and edited": (BASE.convert("L"), EDITED.convert("L"), None),
    "transparent original": (clear(BASE, PLACE), EDITED, "transparent in the original"),
    "erased by the editor": (BASE, clear(EDITED, PLACE), "transparent in the edited picture"),
    "erased in part": (BASE, clear(EDITED, (70, 50, 80, 60)), "transparent in the edited picture"),
    "frames of the edited": (BASE, animated(EDITED), "The edited picture has 2 frames"),
    "profile of the edited": (BASE, with_profile(EDITED), "color profile of the edited picture"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_lost_is_said(case: str) -> None:
    original, edited, words = CASES[case]
    result = restore(original, edited)
    assert result.share > 0.01
    assert result.max_abs_diff_outside_mask == 0
    assert len(result.warnings) == (words is not None), result.warnings
    assert words is None or words in result.warnings[0]
    assert not any("the result" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("edited", "words"),
    [
        ("/no/such.png", "The edited picture /no/such.png does not exist"),
        (b"", "The edited picture is empty"),
        (Image.new("F", (160, 120)), "The edited picture has floating-point pixels"),
        (np.zeros((4, 4)), "The edited picture is an array"),
        (None, "The edited picture is of type NoneType"),
    ],
)
def test_a_message_names_the_edited_picture(edited: object, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        restore(BASE, edited)  # type: ignore[arg-type]
    assert caught.value.field == "edited"
