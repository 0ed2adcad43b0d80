"""Pictures, masks and placements that the imaging tests share."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from diffedit.imaging import compose, geometry, photograph
from diffedit.imaging.geometry import Placement
from engine.netspec import Size

RED, GREEN, WHITE, BLACK = (200, 30, 40), (20, 180, 60), (255, 255, 255), (0, 0, 0)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def array(picture: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(picture)


def saved(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    """The bytes of a picture file."""
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def load(source: Any, **options: Any) -> Image.Image:
    """What the networks see of a picture."""
    return photograph.read(source, **options).rgb


def composite(
    photo: Image.Image, edited: Image.Image, mask: Image.Image, feather: int | None = None
) -> Image.Image:
    area = compose.faded_area(mask, feather)
    if area is None:
        return photo.copy()
    box, alpha = area
    return compose.paste(photo, edited.crop(box), box, alpha)


sides = st.integers(1, 70)
photo_sizes = st.tuples(sides, sides)


@st.composite
def canvases(draw: st.DrawFn) -> tuple[Size, int]:
    """A canvas size, and pixels per cell."""
    factor = draw(st.sampled_from([1, 2, 4, 8]))
    return (factor * draw(st.integers(1, 8)), factor * draw(st.integers(1, 8))), factor


@st.composite
def fitted_photos(
    draw: st.DrawFn,
) -> tuple[Image.Image, NDArray[np.float32], Placement, int]:
    """A photograph, its canvas, its position there, and pixels per cell."""
    height, width = draw(photo_sizes)
    canvas, factor = draw(canvases())
    photo = noise(height, width)
    return photo, *geometry.fit(photo, canvas), factor


@st.composite
def cell_masks(draw: st.DrawFn) -> tuple[Placement, int, NDArray[np.bool_]]:
    """The position of a photograph, pixels per cell, and a random mask of cells."""
    _, _, placement, factor = draw(fitted_photos())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return placement, factor, rng.random(placement.cells(factor)) < draw(st.floats(0, 1))
