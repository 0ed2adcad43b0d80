"""Parts of pictures that are made alone equal those of the whole picture to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffedit.focus import Focus
from diffedit.imaging import compare, geometry
from diffedit.imaging.geometry import Placement
from diffedit.imaging.photograph import Photograph
from diffedit.request import EditRequest

SIZES = [
    ((512, 512), (128, 128)),
    ((300, 400), (96, 128)),
    ((1000, 333), (128, 96)),
    ((97, 61), (64, 64)),
    ((60, 40), (128, 128)),
    ((64, 64), (64, 64)),
    ((120, 90), (64, 48)),
]
"""(height, width) of photographs and canvases: larger, smaller, equal, without a common factor."""


def boxes(height: int, width: int) -> list[tuple[int, int, int, int]]:
    draw = np.random.default_rng(0)
    found = [(0, 0, width, height), (width - 1, height - 1, width, height), (0, 0, 1, 1)]
    for _ in range(12):
        (left, right), (top, bottom) = (
            sorted(int(n) for n in draw.choice(side + 1, 2, replace=False))
            for side in (width, height)
        )
        found.append((left, top, right, bottom))
    return found


@pytest.mark.parametrize(("source", "canvas"), SIZES)
def test_a_part_of_the_decoded_photograph(source: tuple[int, int], canvas: tuple[int, int]) -> None:
    placement = geometry.place(source, canvas)
    image = np.random.default_rng(1).normal(0, 0.8, (3, *canvas)).astype(np.float32)
    whole = geometry.to_photo(image, placement)
    assert whole.size == source[::-1]
    for box in boxes(*source):
        part = geometry.to_photo(image, placement, box)
        assert part.tobytes() == whole.crop(box).tobytes(), box


def test_a_part_of_a_photograph_with_a_decoded_window() -> None:
    photo = Photograph(Image.effect_noise((400, 300), 90).convert("RGB"))
    request = EditRequest(photo, "a", preset="paper", focus=True)
    focus = Focus(request, photo, (64, 64), 4)
    mask = Image.new("L", photo.size)
    mask.paste(255, (150, 100, 200, 160))
    assert focus.choose(mask) is not None
    image = np.random.default_rng(1).normal(0, 0.8, (3, 64, 64)).astype(np.float32)
    whole = focus.put_back(image)
    assert focus.window is not None
    left, top, right, _ = focus.window
    outside = (left - 20, top - 20, left, top)
    assert whole.crop(outside).tobytes() == photo.rgb.crop(outside).tobytes()
    for box in (outside, focus.window, (150, 100, 200, 160), (right - 3, 0, 400, 300)):
        assert focus.put_back(image, box).tobytes() == whole.crop(box).tobytes()


def test_the_largest_difference_counts_colors_of_equal_transparency() -> None:
    first = Image.new("RGBA", (8, 8), (10, 20, 30, 255))
    second = first.copy()
    second.putpixel((3, 4), (10, 27, 30, 255))
    photos = Photograph(first), Photograph(second)
    assert compare.largest_difference(*photos) == 7
    area = Image.new("L", (8, 8), 255)
    assert compare.largest_difference(*photos, area) == 7
    area.putpixel((3, 4), 0)
    assert compare.largest_difference(*photos, area) == 0


def test_the_share_of_a_mask_counts_only_all_of_it() -> None:
    mask = Image.new("L", (4, 2))
    mask.putdata([255, 254, 0, 255, 1, 0, 0, 0])
    assert compare.share(mask) == 0.25


def test_the_key_of_a_canvas_depends_on_pixels_and_placement() -> None:
    from diffedit.canvas import make_canvas

    photo = Image.effect_noise((64, 64), 90).convert("RGB")
    other = photo.copy()
    other.putpixel((5, 5), (1, 2, 3))
    pictures = (photo, photo.copy(), other, photo.resize((32, 32)))
    keys = [make_canvas(picture, None, (64, 64), 4).key for picture in pictures]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    flat = [make_canvas(Image.new("RGB", size), None, (64, 64), 4) for size in ((64, 64), (32, 64))]
    assert isinstance(flat[0].placement, Placement)
    assert (flat[0].image == flat[1].image).all()
    assert flat[0].key != flat[1].key, "the same pixels at another place"
