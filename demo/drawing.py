"""Draw a still life from its recipe: a place, a light and the things that stand there.

`render(recipe, size)` gives the picture and, for every pixel, whose it is. A recipe is free of
pixels: lengths are shares of the picture's side, so another size is the same scene. First comes the
place, then all shadows, then the things from back to front. No thing colours another, so changing
one leaves every pixel alone that neither it nor its shadow touches. It knows nothing of seeds,
captions or edits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.drawing_kinds import KINDS, Field, Layer
from demo.drawing_places import PLACES

Pixels = NDArray[np.uint8]
Bools = NDArray[np.bool_]

Rgb = tuple[int, int, int]

COLOURS: dict[str, tuple[Rgb, Rgb]] = {
    "red": ((116, 6, 30), (232, 42, 44)),
    "orange": ((176, 58, 8), (255, 142, 30)),
    "yellow": ((196, 128, 10), (255, 226, 52)),
    "green": ((4, 74, 52), (44, 168, 74)),
    "blue": ((12, 32, 116), (44, 108, 234)),
    "purple": ((62, 18, 100), (158, 70, 198)),
    "white": ((166, 170, 186), (255, 254, 250)),
    "black": ((12, 12, 17), (54, 54, 60)),
}
"""The eight colours in the shade and in full light, sRGB."""

_STEM: tuple[Rgb, Rgb] = ((50, 32, 20), (112, 78, 46))


@dataclass(frozen=True)
class Thing:
    """One object to draw: it stands at (x, base), y down, in a square of side `scale` above."""

    kind: str
    colour: str
    x: float
    base: float
    scale: float
    turn: float  # -1..1: how it is turned, whatever that means for its kind


@dataclass(frozen=True)
class Light:
    """Where the light comes from (right, up, towards the viewer; length 1) and its colour."""

    right: float
    up: float
    near: float
    tint: tuple[float, float, float]


@dataclass(frozen=True)
class Recipe:
    """Everything a picture is drawn from; `things` from left to right."""

    place: str
    numbers: tuple[float, ...]
    light: Light
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class _Patch:
    """The pixels of one rectangle in a thing's own units."""

    where: tuple[slice, slice]
    u: Field
    v: Field


def render(recipe: Recipe, size: int) -> tuple[Pixels, NDArray[np.int8]]:
    """The picture, uint8 [size, size, 3], and each pixel's thing, int8 [size, size], -1 for none.

    A pixel belongs to the foremost thing that covers at least half of it.
    """
    canvas = _place(recipe, size)
    owner = np.full((size, size), -1, np.int8)
    for thing in recipe.things:
        where, shade = _shadow(thing, recipe.light, size)
        canvas[where] *= 1 - shade[..., None]
    for i in back_to_front(recipe.things):
        patch, layers = _layers(recipe.things[i], size)
        target = canvas[patch.where]
        for layer in layers:
            colour = _lit(layer, recipe.things[i], recipe.light, patch)
            target += (colour - target) * layer.cover[..., None]
        owner[patch.where][_cover(layers) >= 0.5] = i
    canvas *= 255 * np.array(recipe.light.tint, np.float32)
    return (np.clip(canvas, 0, 255) + 0.5).astype(np.uint8), owner


def back_to_front(things: tuple[Thing, ...]) -> list[int]:
    """The order of painting: what stands lower in the picture is nearer."""
    return sorted(range(len(things)), key=lambda i: things[i].base)


def touched(thing: Thing, light: Light, size: int, *, shadow: bool = True) -> Bools:
    """Every pixel this thing colours, its soft rim and, if not told otherwise, its shadow too."""
    found = np.zeros((size, size), np.bool_)
    patch, layers = _layers(thing, size)
    found[patch.where] = _cover(layers) > 0
    if shadow:
        where, shade = _shadow(thing, light, size)
        found[where] |= shade > 0
    return found


def _place(recipe: Recipe, size: int) -> Field:
    """The empty place, brighter towards the light."""
    at = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = at[None, :], at[:, None]
    ground = PLACES[recipe.place](x, y, 1 / size, recipe.numbers)
    lamp = 0.5 + 0.7 * recipe.light.right
    fall = 1.04 - 0.15 * ((x - lamp) ** 2 + (y - 0.25) ** 2)
    return np.clip(ground, 0, 1) * fall[..., None]


def _patch(thing: Thing, size: int, left: float, right: float, low: float, high: float) -> _Patch:
    """The part of the picture from `left` to `right` and `low` to `high`, in the thing's units."""
    s = thing.scale
    x0, x1 = math.floor((thing.x + left * s) * size), math.ceil((thing.x + right * s) * size)
    y0, y1 = math.floor((thing.base - high * s) * size), math.ceil((thing.base - low * s) * size)
    x0, x1 = max(x0, 0), min(x1, size)
    y0, y1 = max(y0, 0), min(y1, size)
    u = ((np.arange(x0, x1) + 0.5) / size - thing.x) / s
    v = (thing.base - (np.arange(y0, y1) + 0.5) / size) / s
    where = (slice(y0, y1), slice(x0, x1))
    return _Patch(where, u.astype(np.float32)[None, :], v.astype(np.float32)[:, None])


def _layers(thing: Thing, size: int) -> tuple[_Patch, tuple[Layer, ...]]:
    pixel = 1 / (thing.scale * size)
    patch = _patch(thing, size, -0.5 - 2 * pixel, 0.5 + 2 * pixel, -2 * pixel, 1 + 2 * pixel)
    return patch, KINDS[thing.kind].draw(patch.u, patch.v, pixel, thing.turn)


def _cover(layers: tuple[Layer, ...]) -> Field:
    """The share of each pixel that any layer covers."""
    most = layers[0].cover
    for layer in layers[1:]:
        most = np.maximum(most, layer.cover)
    return most


def _shadow(thing: Thing, light: Light, size: int) -> tuple[tuple[slice, slice], Field]:
    """How much light is lost on the ground: a dark touch under the foot, a soft pool off the light.

    Both fade to exactly zero, so a shadow has an end.
    """
    foot = KINDS[thing.kind].foot
    shift = -0.30 * light.right
    patch = _patch(thing, size, shift - 0.8, shift + 0.8, -0.24, 0.34)
    far_u, far_v = (patch.u - shift) / (foot + 0.30), (patch.v - 0.05) / 0.26
    near_u, near_v = (patch.u - 0.2 * shift) / (foot * 1.12), (patch.v - 0.015) / 0.11
    pool = np.clip(1 - far_u * far_u - far_v * far_v, 0, 1)
    touch = np.clip(1 - near_u * near_u - near_v * near_v, 0, 1)
    return patch.where, 1 - (1 - 0.40 * pool * pool) * (1 - 0.50 * touch)


def _lit(layer: Layer, thing: Thing, light: Light, patch: _Patch) -> Field:
    """The colour of a surface [h, w, 3], between its shade and its full light, and a highlight."""
    right, up = layer.right, layer.up
    near = np.sqrt(np.maximum(1 - right * right - up * up, 0.0))
    lamp = np.maximum(right * light.right + up * light.up + near * light.near, 0.0)
    bounce = np.maximum(-0.1 - up, 0.0)
    ground = np.clip(patch.v * 5, 0, 1)  # less light reaches the foot
    bright = (0.10 + 0.90 * lamp + 0.20 * bounce) * (0.75 + 0.25 * ground) * layer.tone
    half = math.sqrt(light.right**2 + light.up**2 + (light.near + 1) ** 2)
    shine = right * light.right + up * light.up + near * (light.near + 1)
    shine = np.clip(shine / half, 0, 1)
    for _ in range(5):  # to the 32nd power
        shine = shine * shine
    shade, full = np.array(_STEM if layer.stem else COLOURS[thing.colour], np.float32) / 255
    colour: Field = shade + (full - shade) * np.asarray(bright, np.float32)[..., None]
    return colour if layer.stem else colour + (1 - colour) * (0.42 * shine)[..., None]
