"""Draw a recipe at a given size.

The background is painted first, then all shadows, then the objects from back to front. No object
changes the colour of another, so an edit of one object changes only pixels that the object or its
shadow touches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.scenes.backgrounds import PAINTERS
from demo.scenes.colours import COLOURS, STEM
from demo.scenes.recipe import Light, ObjectRecipe, Recipe
from demo.scenes.shapes import SHAPES, Field, Layer

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Region = tuple[slice, slice]


@dataclass(frozen=True)
class _Patch:
    """A rectangle of the picture and its pixel centres in the units of an object."""

    region: Region
    u: Field
    v: Field


def render(recipe: Recipe, size: int) -> tuple[Pixels, NDArray[np.int8]]:
    """Return the picture, uint8 [size, size, 3], and the object index of each pixel, int8 [size,
    size], -1 for the background.

    A pixel belongs to the foremost object that covers at least half of it.
    """
    canvas = _background(recipe, size)
    index_map = np.full((size, size), -1, np.int8)
    for item in recipe.objects:
        region, shade = _shadow(item, recipe.light, size)
        canvas[region] *= 1 - shade[..., None]
    # An object with a lower base is nearer to the viewer.
    for i in sorted(range(len(recipe.objects)), key=lambda i: recipe.objects[i].base):
        patch, layers = _layers(recipe.objects[i], size)
        target = canvas[patch.region]
        for layer in layers:
            colour = _shaded(layer, recipe.objects[i], recipe.light, patch)
            target += (colour - target) * layer.coverage[..., None]
        index_map[patch.region][_total_coverage(layers) >= 0.5] = i
    canvas *= 255 * np.array(recipe.light.tint, np.float32)
    return (np.clip(canvas, 0, 255) + 0.5).astype(np.uint8), index_map


def touched(item: ObjectRecipe, light: Light, size: int, *, shadow: bool) -> Mask:
    """Return every pixel that the object changes, with its soft edge and optionally its shadow."""
    mask = np.zeros((size, size), np.bool_)
    patch, layers = _layers(item, size)
    mask[patch.region] = _total_coverage(layers) > 0
    if shadow:
        region, shade = _shadow(item, light, size)
        mask[region] |= shade > 0
    return mask


def _background(recipe: Recipe, size: int) -> Field:
    """Return the background, brighter near the light."""
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = centres[None, :], centres[:, None]
    ground = PAINTERS[recipe.background](x, y, 1 / size, recipe.variation)
    lamp = 0.5 + 0.7 * recipe.light.right
    falloff = 1.04 - 0.15 * ((x - lamp) ** 2 + (y - 0.25) ** 2)
    return np.clip(ground, 0, 1) * falloff[..., None]


def _patch(
    item: ObjectRecipe, size: int, left: float, right: float, low: float, high: float
) -> _Patch:
    """Return the part of the picture between these bounds, which are in the object's units."""
    s = item.scale
    x0, x1 = math.floor((item.x + left * s) * size), math.ceil((item.x + right * s) * size)
    y0, y1 = math.floor((item.base - high * s) * size), math.ceil((item.base - low * s) * size)
    x0, x1 = max(x0, 0), min(x1, size)
    y0, y1 = max(y0, 0), min(y1, size)
    u = ((np.arange(x0, x1) + 0.5) / size - item.x) / s
    v = (item.base - (np.arange(y0, y1) + 0.5) / size) / s
    region = (slice(y0, y1), slice(x0, x1))
    return _Patch(region, u.astype(np.float32)[None, :], v.astype(np.float32)[:, None])


def _layers(item: ObjectRecipe, size: int) -> tuple[_Patch, tuple[Layer, ...]]:
    pixel = 1 / (item.scale * size)
    patch = _patch(item, size, -0.5 - 2 * pixel, 0.5 + 2 * pixel, -2 * pixel, 1 + 2 * pixel)
    return patch, SHAPES[item.kind].draw(patch.u, patch.v, pixel, item.turn)


def _total_coverage(layers: tuple[Layer, ...]) -> Field:
    """Return the share of each pixel that any layer covers."""
    total = layers[0].coverage
    for layer in layers[1:]:
        total = np.maximum(total, layer.coverage)
    return total


def _shadow(item: ObjectRecipe, light: Light, size: int) -> tuple[Region, Field]:
    """Return the share of light that the ground loses: a dark contact shadow and a soft cast one.

    Both fade to exactly zero, so a shadow changes a bounded set of pixels.
    """
    foot = SHAPES[item.kind].foot
    shift = -0.30 * light.right
    patch = _patch(item, size, shift - 0.8, shift + 0.8, -0.24, 0.34)
    far_u, far_v = (patch.u - shift) / (foot + 0.30), (patch.v - 0.05) / 0.26
    near_u, near_v = (patch.u - 0.2 * shift) / (foot * 1.12), (patch.v - 0.015) / 0.11
    cast = np.clip(1 - far_u * far_u - far_v * far_v, 0, 1)
    contact = np.clip(1 - near_u * near_u - near_v * near_v, 0, 1)
    return patch.region, 1 - (1 - 0.40 * cast * cast) * (1 - 0.50 * contact)


def _shaded(layer: Layer, item: ObjectRecipe, light: Light, patch: _Patch) -> Field:
    """Return the colour of a surface, [h, w, 3]: diffuse light and a specular highlight."""
    right, up = layer.right, layer.up
    near = np.sqrt(np.maximum(1 - right * right - up * up, 0.0))
    lamp = np.maximum(right * light.right + up * light.up + near * light.near, 0.0)
    bounce = np.maximum(-0.1 - up, 0.0)
    ground = np.clip(patch.v * 5, 0, 1)  # less light reaches the base
    bright = (0.10 + 0.90 * lamp + 0.20 * bounce) * (0.75 + 0.25 * ground) * layer.tone
    half = math.sqrt(light.right**2 + light.up**2 + (light.near + 1) ** 2)
    shine = right * light.right + up * light.up + near * (light.near + 1)
    shine = np.clip(shine / half, 0, 1)
    for _ in range(5):  # the 32nd power
        shine = shine * shine
    shade, full = np.array(STEM if layer.stem else COLOURS[item.colour], np.float32) / 255
    colour: Field = shade + (full - shade) * np.asarray(bright, np.float32)[..., None]
    return colour if layer.stem else colour + (1 - colour) * (0.42 * shine)[..., None]
