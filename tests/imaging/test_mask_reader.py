"""One reader for masks of every form: what is edited, what is warned of, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from diffedit.imaging.mask_reader import EditMask, MaskRules, read_mask
from diffedit.request import InvalidRequest
from tests.imaging.pictures import array, noise, saved

SIZE = (40, 30)
TRUTH = np.zeros((30, 40), bool)
TRUTH[5:20, 10:25] = True
WHITE = Image.fromarray(TRUTH.astype(np.uint8) * 255)
OPENAI = MaskRules(alpha_decides=True, same_size=True)


def with_hole(picture: Image.Image) -> Image.Image:
    """The area to edit is transparent."""
    picture.putalpha(Image.fromarray(np.where(TRUTH, 0, 255).astype(np.uint8)))
    return picture


def on_layer(color: tuple[int, int, int]) -> Image.Image:
    """The area to edit is painted on a transparent layer."""
    layer = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    layer.paste((*color, 255), mask=WHITE)
    return layer


def palette(first: tuple[int, int, int], second: tuple[int, int, int]) -> Image.Image:
    picture = Image.fromarray(TRUTH.astype(np.uint8))
    picture.putpalette([*first, *second])
    return picture


def levels(low: int, high: int) -> Image.Image:
    return Image.fromarray(np.where(TRUTH, high, low).astype(np.uint8))


def sixteen(high: int) -> Image.Image:
    return Image.fromarray(TRUTH.astype(np.uint16) * np.uint16(high))


def read(source: Any, rules: MaskRules | None = None, size: tuple[int, int] = SIZE) -> EditMask:
    return read_mask(source, size, rules=rules)


WHITE_ON_BLACK = {
    "L": WHITE,
    "RGB": WHITE.convert("RGB"),
    "1": WHITE.convert("1"),
    "LA": WHITE.convert("LA"),
    "RGBA with an opaque alpha": WHITE.convert("RGBA"),
    "CMYK": WHITE.convert("RGB").convert("CMYK"),
    "palette": palette((0, 0, 0), (255, 255, 255)),
    "palette, reversed": palette((255, 255, 255), (0, 0, 0)).point([1, 0] + [0] * 254),
    "0 and 1": levels(0, 1),
    "0 and 1 in RGB": Image.merge("RGB", [levels(0, 1)] * 3),
    "dark and light": levels(16, 235),
    "16 bits": sixteen(65535),
    "0 and 1 in 16 bits": sixteen(1),
    "0 and 255 in 16 bits": sixteen(255),
    "floating point": Image.fromarray(TRUTH.astype(np.float32)),
}
ARRAYS = {
    "bool": TRUTH,
    "uint8": TRUTH.astype(np.uint8) * np.uint8(255),
    "uint8 of 0 and 1": TRUTH.astype(np.uint8),
    "int64 of 0 and 1": TRUTH.astype(np.int64),
    "uint16": TRUTH.astype(np.uint16) * np.uint16(65535),
    "float32 to 1": TRUTH.astype(np.float32),
    "float64 to 255": TRUTH * 255.0,
    "one channel": TRUTH[..., None],
    "three channels": np.stack([TRUTH] * 3, axis=2),
    "four opaque channels": np.asarray(WHITE.convert("RGBA")),
}


@pytest.mark.parametrize("form", [*WHITE_ON_BLACK, *ARRAYS])
def test_white_on_black_in_every_form(form: str) -> None:
    for rules in (None, OPENAI):
        mask = read({**WHITE_ON_BLACK, **ARRAYS}[form], rules)
        np.testing.assert_array_equal(array(mask.image), np.where(TRUTH, 255, 0))
        assert (mask.read_as, mask.warnings, mask.image.mode) == ("white", (), "L")


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_files_of_masks(file_format: str, tmp_path: Path) -> None:
    path = tmp_path / "mask"
    path.write_bytes(saved(WHITE, file_format))
    for source in (path, path.read_bytes()):
        mask = read(source)
        assert (array(mask.image) > 0).mean() == pytest.approx(TRUTH.mean(), abs=0.02)
        assert mask.warnings == ()


HOLES = {
    "photograph": with_hole(noise(30, 40)),
    "grey photograph": with_hole(noise(30, 40).convert("L").convert("RGB")),
    "black layer": with_hole(Image.new("RGB", SIZE, (0, 0, 0))),
    "dark layer": with_hole(Image.new("RGB", SIZE, (9, 9, 9))),
}


@pytest.mark.parametrize("form", HOLES)
def test_the_hole_of_a_photograph_is_edited(form: str) -> None:
    for rules in (None, OPENAI, MaskRules("alpha")):
        mask = read(HOLES[form], rules)
        np.testing.assert_array_equal(array(mask.image) > 0, TRUTH)
        assert (mask.read_as, mask.warnings) == ("alpha", ())


def test_a_photograph_with_a_hole_as_a_palette_file() -> None:
    """A transparent index, as in GIF."""
    picture = noise(30, 40).quantize(200)
    picture.putpalette([*(picture.getpalette() or [])[:600], 0, 0, 0])
    picture.paste(200, mask=WHITE)
    mask = read(saved(picture, "PNG", transparency=200))
    np.testing.assert_array_equal(array(mask.image) > 0, TRUTH)


@pytest.mark.parametrize("color", [(255, 255, 255), (200, 30, 40), (250, 250, 10)], ids=str)
def test_a_drawing_on_a_transparent_layer_is_ambiguous(color: tuple[int, int, int]) -> None:
    """Only OpenAI's convention decides it, and only where that convention is the interface."""
    with pytest.raises(InvalidRequest, match="drawing on a transparent layer"):
        read(on_layer(color))
    np.testing.assert_array_equal(array(read(on_layer(color), OPENAI).image) > 0, ~TRUTH)


def test_an_explicit_format_decides() -> None:
    drawing = on_layer((255, 255, 255))
    assert (array(read(drawing, MaskRules("white")).image) > 0).tolist() == TRUTH.tolist()
    assert (array(read(drawing, MaskRules("alpha")).image) > 0).tolist() == (~TRUTH).tolist()
    mask = read(levels(255, 0), MaskRules("black"))
    assert (array(mask.image) > 0).tolist() == TRUTH.tolist()
    assert mask.read_as == "black"
    black_strokes = on_layer((0, 0, 0))
    assert (array(read(black_strokes, MaskRules("black")).image) > 0).tolist() == TRUTH.tolist()


def labels(*values: int) -> Image.Image:
    """Vertical stripes of equal width."""
    stripes = np.repeat(np.array(values, np.uint8), 40 // len(values))
    return Image.fromarray(np.tile(np.pad(stripes, (0, 40 - len(stripes))), (30, 1)))


def strokes(color: tuple[int, int, int]) -> Image.Image:
    picture = Image.new("RGB", SIZE)
    ImageDraw.Draw(picture).line((3, 3, 30, 20), fill=color, width=4)
    return picture


REFUSED = {
    "a photograph": (noise(30, 40), "looks like a photograph"),
    "a grey photograph": (
        noise(30, 40).convert("L").point(lambda v: 40 + v // 2),
        "of the mask is",
    ),
    "half": (np.full((30, 40), 0.5), "100.0% of the mask is grey"),
    "faint strokes": (Image.new("RGBA", SIZE, (255, 255, 255, 100)), "by half or more"),
    "red strokes": (strokes((255, 0, 0)), "2 colors"),
    "yellow strokes": (strokes((255, 255, 0)), "2 colors"),
    "a palette of labels": (palette((0, 0, 0), (128, 0, 0)), "2 colors"),
    "labels from 0": (labels(0, 1, 2, 3, 4), "label map"),
    "labels and 255 for unknown": (labels(0, 15, 255), "label map"),
    "labels over the whole range": (labels(0, 40, 80, 120, 160, 200), "label map"),
    "black": (Image.new("L", SIZE), "black everywhere"),
    "black in RGBA": (Image.new("RGBA", SIZE, (0, 0, 0, 255)), "black everywhere"),
    "dark": (levels(0, 100), "highest value is 100"),
    "12 bits in 16": (sixteen(4095), "selects nothing"),
    "transparent": (Image.new("RGBA", SIZE, (0, 0, 0, 0)), "transparent everywhere"),
    "False": (np.zeros((30, 40), bool), "black everywhere"),
    "from -1 to 1": (np.where(TRUTH, 1.0, -1.0), "values from -1 to 1"),
    "to 1000.5": (TRUTH * 1000.5, "values from 0 to 1000.5"),
    "NaN": (np.where(TRUTH, np.nan, 0), "NaN"),
    "complex": (TRUTH.astype(complex), "complex128"),
    "text": (np.full((30, 40), "x"), "array of <U1"),
    "channels first": (np.stack([TRUTH] * 3), r"shape \(3, 30, 40\)"),
    "a batch": (TRUTH[None, ..., None], r"shape \(1, 30, 40, 1\)"),
    "a missing file": ("nowhere.png", "The mask nowhere.png does not exist"),
    "an empty file": (b"", "The mask is empty"),
    "a text file": (b"text", "The mask is not in a supported format"),
    "a number": (5, "The mask is of type int"),
    "no pixels": (np.zeros((0, 4), bool), "pixels"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_no_mask_is_refused(form: str) -> None:
    source, message = REFUSED[form]
    with pytest.raises(InvalidRequest, match=message) as caught:
        read(source)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_a_black_mask_read_as_black_and_without_black_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no black pixels"):
        read(Image.new("L", SIZE, 255), MaskRules("black"))
    with pytest.raises(InvalidRequest, match="no transparent pixels") as caught:
        read(WHITE.convert("RGBA"), MaskRules("alpha"))
    assert (caught.value.field, caught.value.code) == ("mask_format", "mask_without_alpha")


def test_a_white_mask_selects_everything() -> None:
    for source in (Image.new("L", SIZE, 255), np.ones((30, 40), np.uint8), np.ones((30, 40))):
        assert array(read(source).image).min() == 255


def antialiased() -> Image.Image:
    large = Image.new("L", (1600, 1200))
    ImageDraw.Draw(large).ellipse((200, 200, 1400, 1000), fill=255)
    return large.resize((400, 300), Image.Resampling.BOX)


def test_a_soft_mask_is_kept_with_a_warning() -> None:
    mask = read(np.tile(np.linspace(0, 1, 40), (30, 1)))
    assert (array(mask.image) > 0).tolist() == (np.arange(40) >= 20)[None].repeat(30, 0).tolist()
    (warning,) = mask.warnings
    assert warning.startswith("900 pixels of the mask (75.0%) are grey")
    assert "the mask is soft" in warning and mask.soft is not None
    levels = (np.linspace(0, 1, 40) * 255).round()
    expected = np.where(levels < 8, 0, np.where(levels >= 248, 255, levels))
    assert (array(mask.soft) == expected).all()
    assert ((array(mask.area) > 0) == (array(mask.soft) > 0)).all()
    feathered = antialiased().filter(ImageFilter.GaussianBlur(12))
    (warning,) = read(feathered, size=(400, 300)).warnings
    assert "grey" in warning
    hole = noise(300, 400)
    hole.putalpha(feathered)
    assert "grey" in read(hole, size=(400, 300)).warnings[0]


def test_an_antialiased_border_needs_no_warning() -> None:
    assert read(antialiased(), size=(400, 300)).warnings == ()
    jpeg = saved(antialiased(), "JPEG", quality=80)
    assert read(jpeg, size=(400, 300)).warnings == ()


@pytest.mark.parametrize("size", [(40, 30), (80, 60), (8, 6), (41, 30), (13, 10)])
def test_masks_are_resized_to_the_photograph(size: tuple[int, int]) -> None:
    picture = Image.new("L", size, 0)
    picture.paste(255, (0, 0, size[0] // 2, size[1]))
    mask = array(read(picture).image)
    assert mask.shape == (30, 40)
    assert set(np.unique(mask)) == {0, 255}
    assert (mask[:, :17] == 255).all()
    assert (mask[:, 22:] == 0).all()


def test_white_that_disappears_when_scaled_is_refused() -> None:
    picture = Image.new("L", (4000, 3000), 0)
    picture.putpixel((7, 7), 255)
    with pytest.raises(InvalidRequest, match="disappears"):
        read(picture)


@pytest.mark.parametrize("size", [(30, 40), (40, 40), (40, 33), (43, 30)])
def test_masks_of_another_aspect_ratio_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidRequest, match=f"The mask has {size[0]} x {size[1]} pixels"):
        read(Image.new("L", size, 255))


def test_a_mask_on_its_side_is_refused_with_the_reason() -> None:
    side = Image.new("L", (30, 40), 255)
    for rules in (None, OPENAI):
        with pytest.raises(InvalidRequest, match="EXIF orientation turns it") as caught:
            read_mask(side, SIZE, stored_size=(30, 40), rules=rules)
        assert (caught.value.field, caught.value.code) == ("mask_image", "mask_size")
        with pytest.raises(InvalidRequest, match="fits when it is turned"):
            read_mask(side, SIZE, stored_size=SIZE, rules=rules)
        with pytest.raises(InvalidRequest) as caught:
            read_mask(Image.new("L", (40, 40), 255), SIZE, stored_size=SIZE, rules=rules)
        assert "turn" not in str(caught.value)


def test_the_size_of_openais_masks_is_exact() -> None:
    with pytest.raises(InvalidRequest, match="80 x 60 pixels"):
        read(Image.new("L", (80, 60), 255), OPENAI)


def test_a_mask_that_was_read_is_not_read_again() -> None:
    mask = read(HOLES["photograph"])
    assert read(mask) is mask
    twice = read(mask, size=(80, 60))
    assert twice.image.size == (80, 60)
    assert twice.read_as == "alpha"
