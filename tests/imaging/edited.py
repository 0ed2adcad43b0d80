"""Photographs with a green box in the middle."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffedit.imaging import encode, photograph
from diffedit.imaging.photograph import Photograph
from tests.imaging.pictures import noise
from tests.imaging.profiles import SRGB_PRIMARIES, icc_profile

SIZE = (64, 48)
MASK = Image.new("L", SIZE)
MASK.paste(255, (10, 10, 40, 30))
OUTSIDE = np.asarray(MASK) == 0
LINEAR = icc_profile([0, 65535], SRGB_PRIMARIES)
GREEN = Image.new("RGB", SIZE, (20, 200, 60))


def edit(source: Any, **options: Any) -> tuple[Photograph, Photograph]:
    """The photograph, and the same with a green box."""
    photo = photograph.read(source)
    return photo, photograph.edited(photo, GREEN, MASK, **options)


def written(photo: Photograph) -> Image.Image:
    """The PNG of a result, as PIL opens it."""
    image = Image.open(io.BytesIO(encode.encode(photo, "PNG")))
    image.load()
    return image


def gradient(mode: str) -> Image.Image:
    return noise(48, 64).convert(mode)


def with_alpha(mode: str) -> Image.Image:
    picture = gradient(mode)
    picture.putalpha(Image.linear_gradient("L").resize(SIZE))
    return picture


def gamma_info(gamma: float) -> PngInfo:
    info = PngInfo()
    info.add(b"gAMA", struct.pack(">I", round(gamma * 100000)))
    return info


def deep_values(channels: int) -> NDArray[np.uint16]:
    return np.random.default_rng(channels).integers(0, 65536, (48, 64, channels), np.uint16)
