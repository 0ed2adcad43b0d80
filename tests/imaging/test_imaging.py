"""Geometry as properties over any photograph and canvas, and colour and bad files one by one."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from demo.picture import still_life
from diffedit.imaging import compose, decode, geometry
from diffedit.imaging.geometry import Placement
from diffedit.request import InvalidRequest
from engine.netspec import Size

RED, GREEN, WHITE, BLACK = (200, 30, 40), (20, 180, 60), (255, 255, 255), (0, 0, 0)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def solid(value: int, width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (value, value, value))


def array(picture: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(picture)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


# --- geometry -------------------------------------------------------------------------------------

sides = st.integers(1, 70)
photos = st.tuples(sides, sides)


@st.composite
def canvases(draw: st.DrawFn) -> tuple[Size, int]:
    factor = draw(st.sampled_from([1, 2, 4, 8]))
    return (factor * draw(st.integers(1, 8)), factor * draw(st.integers(1, 8))), factor


@st.composite
def placed(draw: st.DrawFn) -> tuple[Image.Image, NDArray[np.float32], Placement, int]:
    height, width = draw(photos)
    canvas, factor = draw(canvases())
    photo = noise(height, width)
    return photo, *geometry.fit(photo, canvas), factor


@st.composite
def masked(draw: st.DrawFn) -> tuple[Placement, int, NDArray[np.bool_]]:
    _, _, p, factor = draw(placed())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return p, factor, rng.random(p.cells(factor)) < draw(st.floats(0, 1))


@given(placed())
def test_fit_centres_and_keeps_the_aspect(case: Any) -> None:
    photo, values, p, _ = case
    assert values.shape == (3, *p.canvas)
    assert values.dtype == np.float32
    assert values.flags["C_CONTIGUOUS"]
    assert -1 <= values.min() <= values.max() <= 1
    assert p.source == (photo.height, photo.width)
    assert any(p.fitted[i] == p.canvas[i] for i in (0, 1))
    for i, start in enumerate((p.top, p.left)):
        rest = p.canvas[i] - p.fitted[i]
        assert 0 <= start <= rest - start <= start + 1
        other = 1 - i
        exact = p.source[i] * p.fitted[other] / p.source[other]
        assert p.fitted[i] == p.canvas[i] or abs(p.fitted[i] - exact) <= 0.5 or p.fitted[i] == 1


@given(placed())
def test_the_rest_of_the_canvas_reflects_the_photograph(case: Any) -> None:
    _, values, p, _ = case

    def mirrored(size: int, start: int, length: int) -> NDArray[np.int64]:
        at = (np.arange(size) - start) % (2 * length)
        return start + np.where(at < length, at, 2 * length - 1 - at)

    rows = mirrored(p.canvas[0], p.top, p.fitted[0])
    columns = mirrored(p.canvas[1], p.left, p.fitted[1])
    np.testing.assert_array_equal(values, values[:, rows][:, :, columns])


@given(photos, canvases())
def test_a_photograph_that_fits_as_it_is_comes_back_exactly(size: Size, case: Any) -> None:
    canvas, _ = case
    inner = canvas[0], min(size[1], canvas[1])
    photo = noise(*inner)
    values, p = geometry.fit(photo, canvas)
    if p.fitted == inner:
        np.testing.assert_array_equal(array(geometry.to_photo(values, p)), array(photo))


def test_values_are_those_of_the_networks() -> None:
    photo = Image.fromarray(np.array([[BLACK, WHITE]], np.uint8))
    values, _ = geometry.fit(photo, (1, 2))
    np.testing.assert_array_equal(values, [[[-1, 1]]] * 3)


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000), (3, 2000), (7, 5)])
def test_extreme_photographs(size: Size) -> None:
    photo = noise(*size)
    values, p = geometry.fit(photo, (64, 96))
    assert np.isfinite(values).all()
    inside = geometry.region(p, 8)
    mask = geometry.mask_to_photo(inside, p, 8)
    assert mask.getextrema() == (255, 255)
    edited = geometry.to_photo(values, p)
    assert edited.size == photo.size
    result = compose.composite(photo, edited, mask)
    overlay = compose.heatmap_overlay(photo, inside.astype(np.float32), p, 8)
    assert overlay.size == photo.size
    sheet = compose.panel(photo, overlay, mask, result)
    assert sheet.width < 4000
    assert sheet.height < 500


def test_a_smooth_photograph_survives_the_way_there_and_back() -> None:
    photo = still_life(150, 100)
    values, p = geometry.fit(photo, (128, 128))
    back = array(geometry.to_photo(values, p)).astype(int)
    assert np.abs(back - array(photo)).mean() < 3


def test_to_photo_clips_what_a_decoder_overshoots() -> None:
    _, p = geometry.fit(noise(2, 2), (2, 2))
    image = np.array([[[-3, 3], [-1.001, 1.001]]] * 3, np.float32)
    np.testing.assert_array_equal(array(geometry.to_photo(image, p))[..., 0], [[0, 255], [0, 255]])


@given(placed())
def test_the_region_covers_every_pixel_and_nothing_else(case: Any) -> None:
    _, _, p, factor = case
    inside = geometry.region(p, factor)
    covered = np.zeros(p.canvas, bool)
    covered[p.top : p.top + p.fitted[0], p.left : p.left + p.fitted[1]] = True
    rows, columns = p.cells(factor)
    cells = covered.reshape(rows, factor, columns, factor).any(axis=(1, 3))
    np.testing.assert_array_equal(inside, cells)
    assert geometry.mask_to_photo(inside, p, factor).getextrema() == (255, 255)
    assert geometry.mask_to_photo(~inside, p, factor).getextrema() == (0, 0)


@given(placed())
def test_all_and_nothing(case: Any) -> None:
    photo, _, p, factor = case
    white, black = (Image.new("L", photo.size, v) for v in (255, 0))
    np.testing.assert_array_equal(
        geometry.latent_mask(white, p, factor), geometry.region(p, factor)
    )
    assert not geometry.latent_mask(black, p, factor).any()
    ones = np.ones(p.cells(factor), bool)
    assert geometry.mask_to_photo(ones, p, factor).getextrema() == (255, 255)
    assert geometry.mask_to_photo(~ones, p, factor).getextrema() == (0, 0)


@given(masked())
def test_a_photo_pixel_is_edited_where_its_cell_is(case: Any) -> None:
    p, factor, mask = case

    def cells(i: int, start: int) -> list[int]:
        scale = Fraction(p.fitted[i], p.source[i])
        return [int(start + (Fraction(n) + half) * scale) // factor for n in range(p.source[i])]

    half = Fraction(1, 2)
    expected = mask[np.ix_(cells(0, p.top), cells(1, p.left))]
    found = array(geometry.mask_to_photo(mask, p, factor))
    np.testing.assert_array_equal(found, np.where(expected, 255, 0))


@given(canvases(), st.integers(1, 3), st.integers(0, 2**32))
def test_a_mask_survives_the_way_to_the_photograph(case: Any, zoom: int, seed: int) -> None:
    canvas, factor = case
    _, p = geometry.fit(noise(canvas[0] * zoom, canvas[1] * zoom), canvas)
    mask = np.random.default_rng(seed).random(p.cells(factor)) < 0.5
    picture = geometry.mask_to_photo(mask, p, factor)
    np.testing.assert_array_equal(geometry.latent_mask(picture, p, factor), mask)


def test_a_cell_is_edited_when_any_of_it_is_white() -> None:
    _, p = geometry.fit(noise(4, 8), (4, 8))
    mask = np.zeros((4, 8), np.uint8)
    mask[2, 4] = 255  # one pixel of the second cell
    found = geometry.latent_mask(Image.fromarray(mask), p, 4)
    np.testing.assert_array_equal(found, [[False, True]])


def test_a_pixel_across_two_cells_is_in_the_one_that_holds_its_centre() -> None:
    """Three rows on two cells: a box filter would give the middle one to the upper cell alone."""
    photo = Image.new("RGB", (2, 3))
    _, p = geometry.fit(photo, (2, 1))
    white = Image.fromarray(np.array([[0, 0], [255, 255], [0, 0]], np.uint8))
    edited = array(geometry.mask_to_photo(geometry.latent_mask(white, p, 1), p, 1))
    assert (edited[1] == 255).all()


@given(placed(), st.integers(0, 2**32), st.floats(0.001, 0.5))
def test_every_white_pixel_lies_in_an_edited_cell(case: Any, seed: int, share: float) -> None:
    photo, _, p, factor = case
    random = np.random.default_rng(seed)
    mask = np.where(random.random(photo.size[::-1]) < share, 255, 0).astype(np.uint8)
    cells = geometry.latent_mask(Image.fromarray(mask), p, factor)
    edited = array(geometry.mask_to_photo(cells, p, factor))
    assert (edited[mask == 255] == 255).all()


def test_a_cell_on_the_photographs_border_counts_the_photograph_only() -> None:
    photo = Image.new("L", (8, 2), 255)  # two rows in the middle of four-pixel cells
    _, p = geometry.fit(photo.convert("RGB"), (8, 8))
    assert (p.top, p.fitted) == (3, (2, 8))
    np.testing.assert_array_equal(geometry.latent_mask(photo, p, 4), [[True, True]] * 2)


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("photo", "expected"),
    [
        ((512, 512), (512, 512)),
        ((3000, 4000), (448, 576)),
        ((4000, 3000), (576, 448)),
        ((400, 600), (448, 640)),
        ((1080, 1920), (384, 704)),
        ((1, 1), (512, 512)),
        ((5000, 1), (4096, 64)),
        ((1, 5000), (64, 4096)),
    ],
)
def test_a_free_size_follows_the_aspect(photo: Size, expected: Size) -> None:
    assert geometry.choose_size(photo, None, 512, 8) == expected


@given(photos, st.sampled_from([(64, 4), (128, 4), (512, 8), (768, 8), (16, 8)]))
def test_a_free_size_is_whole_and_about_native(photo: Size, model: tuple[int, int]) -> None:
    native, factor = model
    height, width = geometry.choose_size(photo, None, native, factor)
    assert height % (8 * factor) == width % (8 * factor) == 0
    assert min(height, width) >= 8 * factor
    area = max(native, 8 * factor) ** 2
    assert 0.5 <= height * width / area <= 2


@given(photos)
def test_a_free_size_turns_with_the_photograph(photo: Size) -> None:
    """Portrait and landscape are treated alike (equally good sizes aside, which squares decide)."""
    height, width = geometry.choose_size(photo, None, 512, 8)
    turned = geometry.choose_size(photo[::-1], None, 512, 8)
    assert height * width == turned[0] * turned[1]


@pytest.mark.parametrize(
    ("photo", "expected"),
    [
        ((400, 600), (512, 768)),
        ((600, 400), (768, 512)),
        ((64, 64), (1024, 1024)),  # both squares waste nothing: the larger
        ((500, 520), (1024, 1024)),
        ((10, 1000), (512, 768)),
    ],
)
def test_the_compiled_size_that_wastes_least(photo: Size, expected: Size) -> None:
    sizes = [(512, 512), (512, 768), (1024, 1024), (768, 512)]
    assert geometry.choose_size(photo, sizes, 512, 8) == expected
    assert geometry.choose_size(photo, sizes[::-1], 512, 8) == expected


def test_rounding_to_pixels_does_not_decide_between_sizes() -> None:
    assert geometry.choose_size((333, 500), [(1024, 1024), (512, 512)], 512, 8) == (1024, 1024)
    assert geometry.choose_size((667, 1000), [(512, 512), (1024, 1024)], 512, 8) == (1024, 1024)


# --- composite, overlay, panel --------------------------------------------------------------------


@given(masked(), st.sampled_from([None, 0, 1, 2, 5]))
def test_outside_the_mask_every_pixel_is_the_photographs(case: Any, feather: int | None) -> None:
    p, factor, cells = case
    photo, edited = (noise(p.source[0], p.source[1], seed) for seed in (1, 2))
    mask = geometry.mask_to_photo(cells, p, factor)
    before = photo.tobytes(), edited.tobytes(), mask.tobytes()
    result = array(compose.composite(photo, edited, mask, feather=feather))
    outside = array(mask) == 0
    np.testing.assert_array_equal(result[outside], array(photo)[outside])
    if feather == 0:
        np.testing.assert_array_equal(result[~outside], array(edited)[~outside])
    assert (photo.tobytes(), edited.tobytes(), mask.tobytes()) == before


@given(photos)
def test_composites_under_no_mask_and_under_a_full_one(size: Size) -> None:
    photo, edited = (noise(size[0], size[1], seed) for seed in (1, 2))
    for value, expected in ((0, photo), (255, edited)):
        result = compose.composite(photo, edited, Image.new("L", photo.size, value), feather=3)
        assert result is not expected
        assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_the_feather_fades_in_from_the_outline_but_not_from_the_photographs_edge(turn: int) -> None:
    photo, edited = (solid(v, 40, 20).rotate(90 * turn, expand=True) for v in (0, 255))
    half = np.zeros((20, 40), np.uint8)
    half[:, :20] = 255  # up to three edges of the photograph
    mask = Image.fromarray(half).rotate(90 * turn, expand=True)
    result = compose.composite(photo, edited, mask, feather=4)
    row = array(result.rotate(-90 * turn, expand=True))[..., 0]
    assert (row == row[0]).all()
    assert (row[0, :16] == 255).all()
    assert (np.diff(row[0, 15:21].astype(int)) < 0).all()
    assert row[0, 19] > 0
    assert (row[0, 20:] == 0).all()


def test_by_default_a_large_photograph_fades_over_more_pixels() -> None:
    def faded(width: int) -> int:
        photo, edited = (Image.new("RGB", (width, 8), v) for v in (BLACK, WHITE))
        mask = Image.new("L", photo.size, 0)
        mask.paste(255, (0, 0, width // 2, 8))
        values = array(compose.composite(photo, edited, mask))[4, :, 0]
        return int(((values > 0) & (values < 255)).sum())

    assert (faded(64), faded(512), faded(2048)) == (0, 2, 8)


def test_the_overlay_is_warm_where_the_map_is_hot() -> None:
    photo = Image.new("RGB", (64, 64), (120, 130, 140))
    _, p = geometry.fit(photo, (64, 64))
    heat = np.zeros((16, 16), np.float32)
    heat[:, 8:] = 1
    over = array(compose.heatmap_overlay(photo, heat, p, 4)).astype(int)
    red, blue = over[..., 0], over[..., 2]
    assert (red[:, 40:] > blue[:, 40:]).all()
    assert (red[:, :24] < blue[:, :24]).all()
    assert 0 < np.abs(np.diff(over.sum(axis=2), axis=1)).max() < 200  # smooth between cells


def test_the_overlay_lies_on_the_photograph_and_not_on_the_canvas() -> None:
    photo = Image.new("RGB", (64, 16), (128, 128, 128))
    _, p = geometry.fit(photo, (64, 64))
    heat = np.zeros((16, 16), np.float32)
    heat[6:10] = 1  # the photograph's own cells
    over = array(compose.heatmap_overlay(photo, heat, p, 4))
    flat = array(compose.heatmap_overlay(photo, np.ones((16, 16), np.float32), p, 4))
    np.testing.assert_array_equal(over[4:12], flat[4:12])


def test_the_overlay_takes_maps_that_are_not_finite() -> None:
    photo = noise(8, 8)
    _, p = geometry.fit(photo, (8, 8))
    heat = np.array([[np.nan, np.inf], [-np.inf, 3]], np.float32)
    assert compose.heatmap_overlay(photo, heat, p, 4).size == photo.size


def test_the_heat_colours_grow_lighter_evenly() -> None:
    linear = (np.array(compose.HEAT) / 255) ** 2.2
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    assert (np.diff(lightness) > 10).all()
    assert (np.diff(lightness) < 25).all()


def test_the_panel_shows_four_pictures_of_one_height(photo: Image.Image) -> None:
    colors = [(255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 255)]
    first, second, third, fourth = (Image.new("RGB", (960, 720), c) for c in colors)
    sheet = array(compose.panel(first, second, third.convert("L"), fourth))
    for color in colors:
        found = (sheet == color).all(axis=2)
        assert found.any(axis=1).sum() == 384
        assert found.any(axis=0).sum() == 512
    small = compose.panel(photo, photo, photo.convert("L"), photo, labels=("a", "b", "c", "d"))
    assert small.height < 500


# --- formats and colour ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_formats_without_loss(kind: str, tmp_path: Path) -> None:
    picture = noise(5, 7)
    path = tmp_path / "picture"
    path.write_bytes(saved(picture, kind))
    for source in (path, str(path), path.read_bytes(), bytearray(path.read_bytes()), picture):
        found = decode.load(source)  # type: ignore[arg-type]
        assert found.mode == "RGB"
        assert type(found) is Image.Image
        assert found.tobytes() == picture.tobytes()
    assert decode.load(np.asarray(picture)).tobytes() == picture.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_formats_with_loss(kind: str) -> None:
    found = decode.load(saved(Image.new("RGB", (32, 32), RED), kind, quality=95))
    assert np.abs(array(found).astype(int) - RED).max() < 8


def test_the_callers_picture_is_left_alone() -> None:
    picture = noise(4, 4)
    picture.info["icc_profile"] = b"x"
    found = decode.load(picture)
    found.putpixel((0, 0), BLACK)
    assert found is not picture
    assert picture.tobytes() == noise(4, 4).tobytes()
    assert picture.info == {"icc_profile": b"x"}
    assert found.info == {}
    pixels = np.zeros((2, 2, 3), np.uint8)
    found = decode.load(pixels)
    pixels[:] = 9
    assert found.getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_pictures_are_turned_upright(orientation: int, kind: str) -> None:
    """The tag says where the stored first row and column lie; so build what is stored."""
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = WHITE  # a marked corner
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = saved(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    found = array(decode.load(data)).astype(int)
    assert found.shape == upright.shape
    assert np.abs(found - upright).max() < 12
    opened = Image.open(io.BytesIO(data))
    assert decode.load(opened).size == (32, 16)


def test_broken_exif_is_no_reason_to_refuse() -> None:
    """Under this suite's rules PIL's warning about it is an error, as other damage is in PIL."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0"  # five entries announced, none there
    data = saved(Image.new("RGB", (16, 8), RED), "PNG", exif=exif)
    with pytest.raises(UserWarning, match="Corrupt EXIF"):
        Image.open(io.BytesIO(data)).getexif()
    assert decode.load(data).size == (16, 8)


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("1", 255, WHITE),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 255), (77, 77, 77)),
        ("LA", (77, 0), WHITE),
        ("La", (0, 0), WHITE),
        ("RGBA", (*RED, 255), RED),
        ("RGBA", (*RED, 0), WHITE),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("RGBa", (0, 0, 0, 0), WHITE),
        ("RGBX", (*RED, 9), RED),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("HSV", (0, 255, 255), (255, 0, 0)),
        ("YCbCr", (255, 128, 128), WHITE),
        ("LAB", (255, 128, 128), WHITE),
        ("I;16", 65535, WHITE),
        ("I;16", 128 * 257, (128, 128, 128)),
        ("I;16", 200, (1, 1, 1)),
        ("I;16B", 128 * 257, (128, 128, 128)),
        ("I", 128 * 257, (128, 128, 128)),
        ("I", 2**31 - 1, WHITE),
        ("I", -5, BLACK),
    ],
)
def test_modes(mode: str, color: Any, expected: tuple[int, int, int]) -> None:
    found = decode.load(Image.new(mode, (3, 2), color))
    assert np.abs(array(found).astype(int) - expected).max() <= 1


def test_sixteen_bits_are_rounded() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (50, 50), dtype=np.uint16)
    found = array(decode.load(Image.fromarray(values)))[..., 2]
    np.testing.assert_array_equal(found, np.round(values / 257.0))


def test_sixteen_bits_are_scaled_and_not_cut() -> None:
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    data = saved(Image.fromarray(ramp), "PNG")
    assert Image.open(io.BytesIO(data)).mode.startswith("I")
    np.testing.assert_array_equal(array(decode.load(data))[..., 1].ravel(), np.arange(256))


def test_sixteen_bit_colour(tmp_path: Path) -> None:
    """PIL cannot write one: a PPM of 16 bits is plain enough to write by hand."""
    values = np.array([[[65535, 0, 128 * 257]]], ">u2")
    found = decode.load(b"P6 1 1 65535\n" + values.tobytes())
    assert found.getpixel((0, 0)) == (255, 0, 128)


def test_palettes() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([*RED, *GREEN])
    picture.putpixel((1, 0), 1)
    assert array(decode.load(saved(picture, "PNG"))).tolist() == [[list(RED), list(GREEN)]]
    for transparency in (1, b"\xff\x00"):
        data = saved(picture, "PNG", transparency=transparency)
        assert array(decode.load(data)).tolist() == [[list(RED), list(WHITE)]]
        mask = decode.load_mask(data, (2, 1))
        assert array(mask).tolist() == [[0, 0]]


def test_a_transparent_colour_of_rgb() -> None:
    picture = Image.fromarray(np.array([[RED, GREEN]], np.uint8))
    data = saved(picture, "PNG", transparency=GREEN)
    assert array(decode.load(data)).tolist() == [[list(RED), list(WHITE)]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_show_their_first_frame(kind: str) -> None:
    first, second = (Image.new("RGB", (16, 16), c) for c in (RED, GREEN))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(first, kind, save_all=True, append_images=[second], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 2
    assert np.abs(array(decode.load(data)).astype(int) - RED).max() <= 3


def icc_profile(curve: list[int], primaries: list[tuple[float, float, float]]) -> bytes:
    """A matrix profile (ICC v2): light over numbers, in 65535ths, and the primaries' D50 XYZ."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    curv = b"curv\0\0\0\0" + struct.pack(f">I{len(curve)}H", len(curve), *curve)
    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249)}
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78 + 1)
    tags[b"cprt"] = b"text\0\0\0\0none\0\0\0\0"
    for letter, xyz in zip(b"rgb", primaries, strict=True):
        tags[bytes([letter]) + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(*xyz)
        tags[bytes([letter]) + b"TRC"] = curv
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4s", start + len(body), b"lcms") + b"\x02\x40\0\0mntrRGB XYZ "
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += fixed(0.9642, 1.0, 0.8249)
    return header + bytes(128 - len(header)) + table + body


SRGB_PRIMARIES = [(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)]


def test_a_profile_is_converted_to_srgb() -> None:
    """Linear light in sRGB's primaries: 0.2159 of the light is half of the numbers."""
    icc = icc_profile([0, 65535], SRGB_PRIMARIES)
    picture = Image.new("RGB", (4, 4), (55, 55, 55))
    found = array(decode.load(saved(picture, "PNG", icc_profile=icc))).astype(int)
    assert np.abs(found - 128).max() <= 2
    with_alpha = Image.new("RGBA", (4, 4), (55, 55, 55, 255))
    found = array(decode.load(saved(with_alpha, "PNG", icc_profile=icc))).astype(int)
    assert np.abs(found - 128).max() <= 2


def test_primaries_of_a_profile_matter() -> None:
    green, red, blue = SRGB_PRIMARIES[1], SRGB_PRIMARIES[0], SRGB_PRIMARIES[2]
    icc = icc_profile([round(2.2 * 256)], [green, red, blue])  # red and green exchanged
    found = decode.load(saved(Image.new("RGB", (4, 4), (255, 0, 0)), "PNG", icc_profile=icc))
    assert np.abs(array(found).astype(int) - (0, 255, 0)).max() <= 3


def test_the_numbers_of_srgb_stay_as_they_are() -> None:
    """Also by another maker's profile, which lcms would change here and there by one."""
    picture = noise(64, 64)
    exact = np.linspace(0, 1, 256)
    light = np.where(exact <= 0.04045, exact / 12.92, ((exact + 0.055) / 1.055) ** 2.4)
    nearly = [(x, y + 0.0001, z) for x, y, z in SRGB_PRIMARIES]
    theirs = icc_profile([round(65535 * v) for v in light], nearly)
    ours = ImageCms.createProfile("sRGB")
    moved = ImageCms.profileToProfile(picture, io.BytesIO(theirs), ours)
    assert moved is not None
    assert moved.tobytes() != picture.tobytes()
    for icc in (theirs, ImageCms.ImageCmsProfile(ours).tobytes()):
        assert decode.load(saved(picture, "PNG", icc_profile=icc)).tobytes() == picture.tobytes()


@pytest.mark.parametrize("icc", [b"", b"not a profile", bytes(200)])
def test_a_broken_profile_is_ignored(icc: bytes) -> None:
    picture = noise(4, 4)
    picture.info["icc_profile"] = icc
    assert decode.load(picture).tobytes() == picture.tobytes()


def test_a_profile_of_another_mode_is_ignored() -> None:
    picture = Image.new("L", (2, 2), 50)
    picture.info["icc_profile"] = icc_profile([0, 65535], SRGB_PRIMARIES)
    assert decode.load(picture).getpixel((0, 0)) == (50, 50, 50)


@pytest.mark.parametrize(("gamma", "expected"), [(1.0, 127), (1 / 2.2, 55), (0.46, 55)])
def test_the_gamma_of_a_png(gamma: float, expected: int) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add(b"gAMA", struct.pack(">I", round(gamma * 100000)))
    data = saved(Image.new("RGB", (2, 2), (55, 55, 55)), "PNG", pnginfo=info)
    assert decode.load(data).getpixel((0, 0)) == (expected,) * 3


# --- bad pictures ---------------------------------------------------------------------------------


def refused(source: Any, message: str, **options: Any) -> str:
    with pytest.raises(InvalidRequest, match=message) as caught:
        decode.load(source, **options)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may read everything: be somebody else for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_bad_paths(tmp_path: Path) -> None:
    assert str(tmp_path / "none.png") in refused(tmp_path / "none.png", "does not exist")
    refused(str(tmp_path), "is a folder")
    refused("\0", "cannot be opened")
    refused("x" * 5000, "cannot be opened")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is no plain file")
    (tmp_path / "locked.png").write_bytes(saved(noise(2, 2), "PNG"))
    (tmp_path / "locked.png").chmod(0)
    with without_privileges():
        refused(tmp_path / "locked.png", "may not be read")


def test_bad_contents(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    refused(path, "is empty")
    refused(b"", "is empty")
    path.write_text("this is a shopping list")
    refused(path, "in no format that is read here")
    refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "in no format that is read")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_files(kind: str) -> None:
    data = saved(noise(64, 64), kind)
    for share in (0.1, 0.5, 0.9):
        refused(data[: int(len(data) * share)], "damaged|in no format")


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF"]), st.integers(0, 2**32))
def test_changed_bytes_give_a_picture_or_a_sentence(kind: str, seed: int) -> None:
    data = bytearray(saved(still_life(24, 16), kind))
    rng = np.random.default_rng(seed)
    for at in rng.integers(0, len(data), 6):
        data[at] = rng.integers(256)
    assert outcome(bytes(data)) in ("RGB", "The picture")


def outcome(data: bytes) -> str:
    try:
        return decode.load(data, max_pixels=10**6).mode
    except InvalidRequest as error:
        return str(error)[: len("The picture")]


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height"), [(8001, 8000), (9000, 10000), (12000, 12000), (65000, 65000)]
)
def test_huge_pictures_are_refused_by_their_header(width: int, height: int) -> None:
    """Also where PIL itself would only warn (over 89 megapixels), or raise its own (over 179)."""
    refused(png_header(width, height), "pixels")


def test_the_limit_is_the_callers() -> None:
    picture = noise(10, 10)
    assert decode.load(picture, max_pixels=100).size == (10, 10)
    text = refused(picture, "at most 99 are taken", max_pixels=99)
    assert "10 x 10 = 100 pixels" in text
    refused(np.zeros((10, 10, 3), np.uint8), "at most 99", max_pixels=99)
    refused(saved(picture, "PNG"), "at most 99", max_pixels=99)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 2, 3), np.float32), "array of float32"),
        (np.zeros((2, 2, 3), bool), "array of bool"),
        (np.zeros((2, 2), np.uint8), r"shape \(2, 2\)"),
        (np.zeros((2, 2, 4), np.uint8), r"shape \(2, 2, 4\)"),
        (np.zeros((3, 2, 2), np.uint8), r"shape \(3, 2, 2\)"),
        (np.zeros((1, 2, 2, 3), np.uint8), r"shape \(1, 2, 2, 3\)"),
        (np.zeros((0, 2, 3), np.uint8), "pixels"),
        (Image.new("RGB", (0, 4)), "0 x 4 pixels"),
        (Image.new("F", (2, 2)), "floating-point"),
        (7, "of type int"),
        (None, "of type NoneType"),
        ([[1]], "of type list"),
    ],
)
def test_what_is_no_picture(source: Any, message: str) -> None:
    refused(source, message)


def test_a_closed_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(saved(noise(4, 4), "PNG"))
    with Image.open(tmp_path / "a.png") as picture:
        pass
    refused(picture, "damaged")


def test_arrays_need_not_be_contiguous() -> None:
    pixels = np.asarray(noise(6, 8))[::2, ::-1]
    np.testing.assert_array_equal(array(decode.load(pixels)), pixels)


# --- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 30), (80, 60), (8, 6), (41, 30), (13, 10)])
def test_masks_of_any_size_are_stretched(size: tuple[int, int]) -> None:
    picture = Image.new("L", size, 0)
    picture.paste(255, (0, 0, size[0] // 2, size[1]))
    mask = decode.load_mask(picture, (40, 30))
    assert mask.mode == "L"
    assert mask.size == (40, 30)
    assert set(np.unique(array(mask))) == {0, 255}
    assert (array(mask)[:, :17] == 255).all()
    assert (array(mask)[:, 22:] == 0).all()


@pytest.mark.parametrize("size", [(30, 40), (40, 40), (40, 33), (43, 30)])
def test_masks_of_another_aspect_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidRequest, match=f"The mask has {size[0]} x {size[1]} pixels"):
        decode.load_mask(Image.new("L", size), (40, 30))


def test_what_masks_may_be() -> None:
    truth = np.array([[True, False], [False, True]])
    grey = truth.astype(np.uint8) * 255
    sources = [truth, grey, np.stack([grey] * 3, axis=2), Image.fromarray(grey).convert("1")]
    for source in [*sources, saved(Image.fromarray(grey), "PNG")]:
        mask = decode.load_mask(source, (2, 2))  # type: ignore[arg-type]
        np.testing.assert_array_equal(array(mask) == 255, truth)
    half = Image.fromarray(np.array([[127, 128]], np.uint8))
    assert array(decode.load_mask(half, (2, 1))).tolist() == [[0, 255]]
    stroke = Image.new("RGBA", (2, 1), (255, 255, 255, 0))  # white strokes on a transparent layer
    stroke.putpixel((1, 0), (255, 255, 255, 255))
    assert array(decode.load_mask(stroke, (2, 1))).tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.png", "The mask nowhere.png does not exist"),
        (b"", "The mask is empty"),
        (b"text", "The mask is in no format"),
        (np.zeros((2, 2), np.float64), "The mask is an array of float64"),
        (np.zeros((2, 2, 2), np.uint8), "The mask is an array of shape"),
        (Image.new("F", (2, 2)), "floating-point"),
        (5, "The mask is of type int"),
    ],
)
def test_bad_masks_are_called_masks(source: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        decode.load_mask(source, (2, 2))
