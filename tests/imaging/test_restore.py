"""`diffedit.restore`: another editor's change is kept, and every other pixel is the original's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

import diffedit
from demo import scenes
from diffedit import InvalidRequest, RestoredImage
from diffedit.imaging import photograph
from tests.imaging.pictures import saved
from tests.imaging.profiles import P3

Bools = NDArray[np.bool_]
SIDE = 256


def scene(seed: int) -> Image.Image:
    return Image.fromarray(scenes.scene(seed, SIDE).image)


def painted(
    photo: Image.Image, color: tuple[int, int, int] = (40, 90, 200)
) -> tuple[Image.Image, Bools]:
    """A photograph with a disc painted on it, and the disc's mask."""
    region = Image.new("L", photo.size)
    width, height = photo.size
    box = (width * 0.3, height * 0.2, width * 0.6, height * 0.5)
    ImageDraw.Draw(region).ellipse(box, fill=255)
    result = photo.copy()
    result.paste(color, mask=region)
    return result, np.asarray(region) > 0


def jpeg(picture: Image.Image) -> Image.Image:
    return photograph.read(saved(picture, "JPEG", quality=75)).rgb


def half_resolution(picture: Image.Image) -> Image.Image:
    return picture.reduce(2).resize(picture.size, Image.Resampling.BICUBIC)


def noisy(picture: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 6, (*picture.size[::-1], 3))
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def tinted(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture) * np.array([0.93, 1.0, 1.04]) + np.array([6, -4, 3])
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def soft(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(1))


def all_of_them(picture: Image.Image) -> Image.Image:
    return jpeg(noisy(tinted(half_resolution(picture))))


EDITORS = [jpeg, half_resolution, noisy, tinted, soft, all_of_them]


def check_exact(original: Image.Image, result: RestoredImage) -> None:
    outside = np.asarray(result.mask) == 0
    assert (np.asarray(result.image)[outside] == np.asarray(original)[outside]).all()
    assert result.max_abs_diff_outside_mask == 0


@pytest.mark.parametrize("editor", EDITORS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_change_is_found_and_the_rest_is_put_back(seed: int, editor: object) -> None:
    photo = scene(seed)
    change, region = painted(photo)
    assert callable(editor)
    result = diffedit.restore(photo, editor(change))
    found = np.asarray(result.mask) == 255
    assert (found & region).sum() / region.sum() > 0.97
    assert (found & region).sum() / (found | region).sum() > 0.6
    check_exact(photo, result)
    inside = np.asarray(Image.fromarray(region).filter(ImageFilter.MinFilter(21)))
    error = np.abs(np.asarray(result.image, float) - np.asarray(change, float))[inside]
    assert error.mean() < 6
    assert result.warnings == ()


@pytest.mark.parametrize("editor", EDITORS)
def test_without_a_change_the_original_is_returned_and_it_says_so(editor: object) -> None:
    photo = scene(2)
    assert callable(editor)
    result = diffedit.restore(photo, editor(photo))
    assert (np.asarray(result.image) == np.asarray(photo)).all()
    assert result.share == 0
    (warning,) = result.warnings
    assert "use a lower threshold" in warning


def test_a_weak_change_needs_a_lower_threshold() -> None:
    photo = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
    change, region = painted(photo, (129, 129, 129))
    assert diffedit.restore(photo, change).share == 0
    result = diffedit.restore(photo, change, threshold=1, grow=0)
    found = np.asarray(result.mask) == 255
    assert (found & region).sum() / (found | region).sum() > 0.8


def test_grow_enlarges_the_region_and_colors_are_matched_on_request() -> None:
    photo = scene(3)
    change = tinted(painted(photo)[0])
    small, large = (diffedit.restore(photo, change, grow=grow) for grow in (0, 0.05))
    assert (np.asarray(small.mask) <= np.asarray(large.mask)).all()
    assert large.share > small.share
    raw = diffedit.restore(photo, change, match_colors=False)
    inside = np.asarray(small.mask.filter(ImageFilter.MinFilter(15))) == 255
    assert (np.asarray(raw.image)[inside] == np.asarray(change)[inside]).all()


def test_a_given_mask_decides_alone() -> None:
    photo, other = scene(4), scene(5)
    mask = Image.new("L", photo.size)
    mask.paste(255, (10, 10, 90, 60))
    result = diffedit.restore(photo, other, mask_image=mask)
    assert (np.asarray(result.mask) == np.asarray(mask)).all()
    assert (result.noise, result.differing) == (None, None)
    check_exact(photo, result)


def test_the_original_keeps_its_own_colors_alpha_and_size() -> None:
    photo = scene(6).resize((1500, 1100))
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    original = saved(photo, "PNG", icc_profile=P3, dpi=(300, 300))
    change, region = painted(photograph.read(original).rgb)  # on white
    result = diffedit.restore(original, jpeg(change), threshold=8)
    outside = np.asarray(result.mask) == 0
    assert (np.asarray(result.image)[outside] == np.asarray(photo)[outside]).all()
    assert result.image.info["icc_profile"] == P3
    assert (np.asarray(result.mask)[region] == 255).mean() > 0.9


def test_unrelated_pictures_are_refused_with_the_share_that_differs() -> None:
    other = scene(7).transpose(Image.Transpose.FLIP_TOP_BOTTOM).rotate(90)
    other = Image.fromarray(255 - np.asarray(other))
    with pytest.raises(InvalidRequest, match=r"\d\d% of the picture differs") as error:
        diffedit.restore(scene(0), other)
    assert error.value.field == "edited"


def test_other_sizes_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="256 x 128 pixels and the original 256 x 256"):
        diffedit.restore(scene(0), scene(0).resize((256, 128)))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("threshold", 0, "threshold is 0, but must be a number above 0"),
        ("threshold", float("nan"), "threshold is nan"),
        ("threshold", "4", "threshold is '4'"),
        ("grow", -0.1, "grow is -0.1"),
        ("grow", 1, "grow is 1"),
        ("match_colors", 1, "match_colors is 1, but must be True or False"),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: object, words: str) -> None:
    options: dict[str, object] = {option: value}
    with pytest.raises(InvalidRequest, match=words):
        diffedit.restore(scene(0), scene(0), **options)  # type: ignore[arg-type]


def test_a_tiny_picture_and_one_color_do_not_fail() -> None:
    for size in ((1, 1), (3, 2), (1, 900)):
        photo = Image.new("RGB", size, (10, 20, 30))
        assert diffedit.restore(photo, photo).share == 0


def test_save_writes_the_values(tmp_path: Path) -> None:
    photo = scene(8)
    result = diffedit.restore(photo, painted(photo)[0])
    assert result.save(tmp_path / "out.png") == []
    with Image.open(tmp_path / "out.png") as image:
        assert (np.asarray(image) == np.asarray(result.image)).all()
