"""The blend mask: the fit against a plain loop, borders on the picture's edges, and exactness."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffedit.imaging import borders, compose, geometry, guided_filter
from diffedit.imaging.borders import Guide
from diffedit.imaging.geometry import Placement


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


def disk(side: int, center: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.mgrid[:side, :side] + 0.5
    return np.asarray((y - center[0]) ** 2 + (x - center[1]) ** 2 < radius**2)


def whole(side: int) -> Placement:
    return Placement((side, side), (side, side), (side, side), 0, 0)


def on_grid(mask: np.ndarray, factor: int) -> np.ndarray:
    """The cells of which half or more is in a mask."""
    side = len(mask) // factor
    return np.asarray(mask.reshape(side, factor, side, factor).mean((1, 3)) >= 0.5)


def drawn(
    photo: Image.Image,
    soft: np.ndarray,
    cells: np.ndarray,
    placement: Placement,
    factor: int,
) -> Image.Image:
    guide = Guide.of(photo, placement, factor)
    return borders.picture_border(guide, soft, cells, placement, factor)


def test_the_fit_is_the_least_squares_fit_of_each_window() -> None:
    levels, mask, radius = (255 * random(3, 7, 9)).astype(np.uint8), random(7, 9), 2
    colors = levels / 255
    models = np.empty((4, 7, 9))
    for y in range(7):
        for x in range(9):
            rows, columns = (slice(max(0, c - radius), c + radius + 1) for c in (y, x))
            inside = colors[:, rows, columns].reshape(3, -1).astype(np.float64)
            wanted = mask[rows, columns].ravel()
            slopes = np.linalg.solve(
                np.cov(inside, bias=True) + 0.01 * np.eye(3),
                ((inside - inside.mean(1, keepdims=True)) * (wanted - wanted.mean())).mean(1),
            )
            models[:, y, x] = *slopes, wanted.mean() - slopes @ inside.mean(1)
    fit = guided_filter.fit(levels, mask, radius, 0.01)
    y, x = 3, 4
    expected = models[:, y - 2 : y + 3, x - 2 : x + 3].mean((1, 2))
    np.testing.assert_allclose(fit[:, y, x], expected, rtol=1e-4, atol=1e-5)
    corner = models[:, :3, :3].mean((1, 2))
    np.testing.assert_allclose(fit[:, 0, 0], corner, rtol=1e-4, atol=1e-5)


def test_interpolation_is_exact_at_pixels_and_linear_between() -> None:
    values = random(2, 5, 6)
    at = np.arange(6, dtype=np.float32)
    np.testing.assert_array_equal(borders.interpolated(values, at[:5], at), values)
    half = borders.interpolated(values, at[:4] + 0.5, at)
    np.testing.assert_allclose(half, (values[:, :4] + values[:, 1:]) / 2, rtol=1e-6)
    outside = borders.interpolated(values, np.array([-3, 9], np.float32), at)
    np.testing.assert_array_equal(outside, values[:, [0, 4]])


@pytest.mark.parametrize("scale", [1, 3])
def test_the_border_follows_the_object_instead_of_the_cells(scale: int) -> None:
    """A disk on noise, found roughly: the cells overlap it with 0.8, the border with 0.95."""
    side, factor = 128, 8
    truth = disk(side * scale, (60 * scale, 70 * scale), 28 * scale)
    colors = np.where(truth[..., None], (200, 60, 40), (70, 90, 120)) + 20 * random(*truth.shape, 1)
    photo = Image.fromarray(colors.astype(np.uint8))
    rough = disk(side, (62, 68), 30)
    cells = on_grid(rough, factor)
    placement = Placement((side * scale,) * 2, (side,) * 2, (side,) * 2, 0, 0)
    soft = np.where(cells, np.float32(0.55), np.float32(0.1))
    border = np.asarray(drawn(photo, soft, cells, placement, factor)) >= 128
    stairs = np.asarray(geometry.mask_to_photo(cells, placement, factor)) > 0

    def overlap(mask: np.ndarray) -> float:
        return float((mask & truth).sum() / (mask | truth).sum())

    assert overlap(stairs) < 0.87
    assert overlap(border) > 0.95


def test_cells_beside_the_photograph_take_no_part() -> None:
    """The photograph covers the middle rows only; its mask reaches its upper and lower edge."""
    photo = Image.new("RGB", (64, 32), (90, 120, 40))
    placement = Placement((32, 64), (64, 64), (32, 64), 16, 0)
    cells = geometry.region(placement, 8)
    border = drawn(photo, cells.astype(np.float32), cells, placement, 8)
    assert border.getextrema() == (255, 255)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (300, 7)])
def test_tiny_and_narrow_photographs_have_a_border(size: tuple[int, int]) -> None:
    photo = Image.new("RGB", size, (9, 8, 7))
    array, placement = geometry.fit(photo, (64, 64))
    assert array.shape == (3, 64, 64)
    cells = geometry.region(placement, 8)
    border = drawn(photo, np.zeros((8, 8), np.float32), cells, placement, 8)
    assert border.size == photo.size and border.getextrema() == (255, 255)


def test_a_faded_mask_is_the_area_that_is_pasted() -> None:
    mask = Image.fromarray(disk(50, (20, 30), 12).astype(np.uint8) * 255)
    area = compose.faded_area(mask, 3)
    assert area is not None
    box, alpha = area
    blend = borders.faded(mask, 3 / 50)
    assert blend.crop(box) == alpha
    blend.paste(0, box)
    assert blend.getbbox() is None
    assert borders.faded(Image.new("L", (5, 4))).getbbox() is None
    assert borders.faded(mask, 0) == mask


def test_a_smooth_picture_gives_a_smooth_border() -> None:
    cells = on_grid(disk(128, (64, 64), 40), 8)
    photo = Image.new("RGB", (128, 128), (50, 60, 70))
    border = drawn(photo, cells * np.float32(0.55), cells, whole(128), 8)
    steps = np.abs(np.diff(np.asarray(border).astype(int), axis=0)).max()
    assert 0 < steps < 128, "the border fades over more than a pixel"
