"""The window of focus: around the mask, inside the photograph, with the canvas's aspect ratio."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffedit.imaging.window import MIN_SIDE, Box, enlargement, is_worthwhile, window_around
from engine.netspec import Size

sizes = st.tuples(st.integers(8, 5000), st.integers(8, 5000))
canvases = st.tuples(st.integers(1, 16), st.integers(1, 16)).map(lambda s: (64 * s[0], 64 * s[1]))


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Box, tuple[int, int]]:
    width, height = draw(sizes)
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    return (left, top, right, bottom), (width, height)


@given(boxes(), canvases, st.floats(1, 8))
def test_it_contains_the_box_and_stays_inside(
    where: tuple[Box, tuple[int, int]], canvas: Size, context: float
) -> None:
    (left, top, right, bottom), (width, height) = where
    x0, y0, x1, y1 = window_around(where[0], where[1], canvas, context)
    assert 0 <= x0 <= left < right <= x1 <= width
    assert 0 <= y0 <= top < bottom <= y1 <= height
    if x1 - x0 < width and y1 - y0 < height:  # not cut: the aspect ratio, to the pixel
        assert abs((x1 - x0) * canvas[0] - (y1 - y0) * canvas[1]) <= sum(canvas)
        assert x1 - x0 >= MIN_SIDE * canvas[1]
        assert x1 - x0 >= context * (right - left) - 1e-6
        assert y1 - y0 >= context * (bottom - top) - 1e-6


def test_it_is_shifted_at_the_border_instead_of_cut() -> None:
    assert window_around((0, 0, 100, 100), (1000, 800), (512, 512), 2) == (0, 0, 200, 200)
    assert window_around((940, 760, 1000, 800), (1000, 800), (512, 512), 3) == (820, 620, 1000, 800)


def test_the_middle_of_a_large_photograph() -> None:
    window = window_around((1000, 1200, 1400, 1400), (4000, 3000), (512, 768), 1.5)
    assert window == (900, 1100, 1500, 1500)
    assert enlargement(window, (4000, 3000), (512, 768)) == pytest.approx(7.5)


def test_a_tiny_mask_gets_a_quarter_of_the_canvas() -> None:
    assert window_around((50, 50, 52, 51), (500, 500), (256, 256), 1) == (19, 18, 83, 82)


@pytest.mark.parametrize(
    ("box", "photo", "worthwhile"),
    [
        ((0, 0, 300, 300), (1000, 1000), True),
        ((0, 0, 400, 300), (1000, 1000), False),
        ((0, 0, 300, 400), (1000, 1000), False),
        ((0, 0, 100, 100), (512, 512), False),
        ((0, 0, 100, 100), (513, 512), True),
    ],
)
def test_auto_needs_a_small_mask_and_a_photograph_larger_than_the_canvas(
    box: Box, photo: tuple[int, int], worthwhile: bool
) -> None:
    assert is_worthwhile(box, photo, (512, 512)) is worthwhile
