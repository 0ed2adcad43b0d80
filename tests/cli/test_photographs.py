"""`edit` on photographs of every kind: the output keeps the metadata and format of the input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffedit.imaging import photograph, png
from tests.cli.conftest import FAST, PROMPTS, Cli
from tests.imaging.profiles import P3


@pytest.fixture
def mask(work: Path, photo: Image.Image) -> Image.Image:
    picture = Image.new("L", photo.size)
    picture.paste(255, (20, 20, 60, 50))
    picture.save("mask.png")
    return picture


def edited(cli: Cli, image: str, out: str = "out.png") -> str:
    done = cli("edit", image, *PROMPTS, *FAST, "--mask", "mask.png", "-o", out, "--force")
    assert done.code == 0, done.err
    return done.err


def check_outside(mask: Image.Image, before: str, after: str) -> None:
    outside = np.asarray(mask) == 0
    with Image.open(before) as first, Image.open(after) as second:
        assert first.mode == second.mode
        one, two = np.asarray(first), np.asarray(second)
    assert (one[outside] == two[outside]).all()
    assert (one[~outside] != two[~outside]).any()


def test_display_p3(cli: Cli, photo: Image.Image, mask: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    photo.save("p3.png", icc_profile=P3, exif=exif, dpi=(300, 300))
    assert "warning" not in edited(cli, "p3.png")
    check_outside(mask, "p3.png", "out.png")
    with Image.open("out.png") as image:
        image.load()
        assert image.info["icc_profile"] == P3
        assert round(image.info["dpi"][0]) == 300
        assert image.getexif()[0x010F] == "Camera"
    done = cli("replay", "out.png", "p3.png", "--dtype", "fp32")
    assert "identical to out.png in every pixel" in done.err
    edited(cli, "p3.png", "out.tif")
    check_outside(mask, "p3.png", "out.tif")


def test_transparency(cli: Cli, photo: Image.Image, mask: Image.Image) -> None:
    clear = photo.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(photo.size))
    clear.save("clear.png")
    assert "warning" not in edited(cli, "clear.png")
    check_outside(mask, "clear.png", "out.png")
    assert "JPEG has no transparency" in edited(cli, "clear.png", "out.jpg")
    edited(cli, "clear.png", "out.webp")
    check_outside(mask, "clear.png", "out.webp")


def test_sixteen_bits(cli: Cli, photo: Image.Image, mask: Image.Image) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (photo.height, photo.width, 3), np.uint16)
    Path("deep.png").write_bytes(png.encode(values))
    assert "warning" not in edited(cli, "deep.png")
    found = photograph.read("out.png").values
    assert isinstance(found, np.ndarray)
    outside = np.asarray(mask) == 0
    assert (found[outside] == values[outside]).all()
    done = cli("replay", "out.png", "deep.png", "--dtype", "fp32")
    assert "identical to out.png in every pixel" in done.err
    assert "8 bits, not the picture's 16" in edited(cli, "deep.png", "out.webp")


def test_what_is_lost_is_said_once(cli: Cli, photo: Image.Image, mask: Image.Image) -> None:
    photo.convert("L").save("grey.png")
    photo.convert("CMYK").save("print.jpg")
    photo.save("moving.gif", save_all=True, append_images=[mask.convert("RGB")])
    photo.save("broken.png", icc_profile=b"not a profile")
    for name, words in (
        ("grey.png", "so the edit is grey"),
        ("print.jpg", "mode CMYK"),
        ("moving.gif", "2 frames"),
        ("broken.png", "profile of the picture is damaged"),
    ):
        messages = edited(cli, name)
        assert messages.count("warning: ") == 1
        assert words in messages


def test_mask_says_that_it_reads_one_frame(cli: Cli, work: Path, photo: Image.Image) -> None:
    photo.save("moving.gif", save_all=True, append_images=[Image.new("RGB", photo.size)])
    done = cli("mask", "moving.gif", *PROMPTS, *FAST)
    assert done.code == 0, done.err
    assert "2 frames" in done.err


def test_an_edit_that_does_not_show_is_said(cli: Cli, work: Path, photo: Image.Image) -> None:
    clear = photo.convert("RGBA")
    clear.putalpha(0)
    clear.save("clear.png")
    done = cli("edit", "clear.png", *PROMPTS, *FAST)
    assert done.code == 0, done.err
    assert "stays transparent" in done.err


def test_a_mask_on_the_unturned_pixels(cli: Cli, work: Path, photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save("turned.jpg", exif=exif)
    Image.new("L", photo.size, 255).save("mask.png")
    done = cli("edit", "turned.jpg", *PROMPTS, *FAST, "--mask", "mask.png")
    assert done.code == 2
    assert "EXIF orientation turns it" in done.err


@pytest.mark.slow
def test_a_detailed_mask_leaves_a_file_that_others_open(
    cli: Cli, work: Path, photo: Image.Image
) -> None:
    """A dithered mask of this size has more than Pillow's limit for text."""
    large = photo.resize((4000, 3000))
    large.save("large.jpg")
    levels = np.random.default_rng(0).integers(0, 2, (3000, 4000), np.uint8)
    Image.fromarray(levels * np.uint8(255)).save("mask.png")
    edited(cli, "large.jpg")
    with Image.open("out.png") as image:
        image.load()
        assert image.size == large.size
    Path("mask.png").unlink()
    done = cli("replay", "out.png", "large.jpg", "--dtype", "fp32")
    assert "identical to out.png in every pixel" in done.err
