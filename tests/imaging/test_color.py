"""Color: modes, bit depths, transparency, ICC profiles and gamma."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.imaging.pictures import BLACK, GREEN, RED, WHITE, array, load, noise, saved
from tests.imaging.profiles import SRGB_PRIMARIES, icc_profile


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
def test_every_mode_becomes_rgb(mode: str, color: Any, expected: tuple[int, int, int]) -> None:
    found = load(Image.new(mode, (3, 2), color))
    assert np.abs(array(found).astype(int) - expected).max() <= 1


def test_sixteen_bits_are_rounded() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (50, 50), dtype=np.uint16)
    found = array(load(Image.fromarray(values)))[..., 2]
    np.testing.assert_array_equal(found, np.round(values / 257.0))


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    data = saved(Image.fromarray(ramp), "PNG")
    assert Image.open(io.BytesIO(data)).mode.startswith("I")
    np.testing.assert_array_equal(array(load(data))[..., 1].ravel(), np.arange(256))


def test_sixteen_bit_color() -> None:
    """PIL cannot write such a file, so the test writes a PPM."""
    values = np.array([[[65535, 0, 128 * 257]]], ">u2")
    found = load(b"P6 1 1 65535\n" + values.tobytes())
    assert found.getpixel((0, 0)) == (255, 0, 128)


def test_palettes() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([*RED, *GREEN])
    picture.putpixel((1, 0), 1)
    assert array(load(saved(picture, "PNG"))).tolist() == [[list(RED), list(GREEN)]]
    for transparency in (1, b"\xff\x00"):
        data = saved(picture, "PNG", transparency=transparency)
        assert array(load(data)).tolist() == [[list(RED), list(WHITE)]]


def test_a_transparent_color_of_an_rgb_picture() -> None:
    picture = Image.fromarray(np.array([[RED, GREEN]], np.uint8))
    data = saved(picture, "PNG", transparency=GREEN)
    assert array(load(data)).tolist() == [[list(RED), list(WHITE)]]


def test_a_profile_is_converted_to_srgb() -> None:
    """A linear profile with sRGB's primaries: linear 0.2159 is 128 in sRGB."""
    icc = icc_profile([0, 65535], SRGB_PRIMARIES)
    picture = Image.new("RGB", (4, 4), (55, 55, 55))
    found = array(load(saved(picture, "PNG", icc_profile=icc))).astype(int)
    assert np.abs(found - 128).max() <= 2
    with_alpha = Image.new("RGBA", (4, 4), (55, 55, 55, 255))
    found = array(load(saved(with_alpha, "PNG", icc_profile=icc))).astype(int)
    assert np.abs(found - 128).max() <= 2


def test_the_primaries_of_a_profile_are_used() -> None:
    green, red, blue = SRGB_PRIMARIES[1], SRGB_PRIMARIES[0], SRGB_PRIMARIES[2]
    icc = icc_profile([round(2.2 * 256)], [green, red, blue])  # red and green swapped
    found = load(saved(Image.new("RGB", (4, 4), (255, 0, 0)), "PNG", icc_profile=icc))
    assert np.abs(array(found).astype(int) - (0, 255, 0)).max() <= 3


def test_srgb_profiles_change_no_pixel() -> None:
    """Includes a slightly different sRGB profile, with which lcms changes some values by one."""
    picture = noise(64, 64)
    exact = np.linspace(0, 1, 256)
    light = np.where(exact <= 0.04045, exact / 12.92, ((exact + 0.055) / 1.055) ** 2.4)
    nearly = [(x, y + 0.0001, z) for x, y, z in SRGB_PRIMARIES]
    similar = icc_profile([round(65535 * v) for v in light], nearly)
    exact_profile = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(picture, io.BytesIO(similar), exact_profile)
    assert converted is not None
    assert converted.tobytes() != picture.tobytes()
    for icc in (similar, ImageCms.ImageCmsProfile(exact_profile).tobytes()):
        assert load(saved(picture, "PNG", icc_profile=icc)).tobytes() == picture.tobytes()


@pytest.mark.parametrize("icc", [b"", b"not a profile", bytes(200)])
def test_a_broken_profile_is_ignored(icc: bytes) -> None:
    picture = noise(4, 4)
    picture.info["icc_profile"] = icc
    assert load(picture).tobytes() == picture.tobytes()


def test_a_profile_of_another_mode_is_ignored() -> None:
    picture = Image.new("L", (2, 2), 50)
    picture.info["icc_profile"] = icc_profile([0, 65535], SRGB_PRIMARIES)
    assert load(picture).getpixel((0, 0)) == (50, 50, 50)


@pytest.mark.parametrize(("gamma", "expected"), [(1.0, 127), (1 / 2.2, 55), (0.46, 55)])
def test_the_gamma_of_a_png_is_applied(gamma: float, expected: int) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add(b"gAMA", struct.pack(">I", round(gamma * 100000)))
    data = saved(Image.new("RGB", (2, 2), (55, 55, 55)), "PNG", pnginfo=info)
    assert load(data).getpixel((0, 0)) == (expected,) * 3
