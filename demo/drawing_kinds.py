"""The eight kinds of object, as signed distances and surface normals: shape, not colour or light.

A kind is drawn in its own square: `u` runs from -0.5 to 0.5 to the right, `v` from 0 (where it
stands) to 1, and `pixel` is a pixel's side in those units. It answers with layers, to be painted
one over the other. Distances are negative inside; one pixel around zero is the soft edge, which is
all the anti-aliasing there is. Shapes follow Inigo Quilez, "2D distance functions".

Only +, -, x, /, square roots, minima and comparisons are used: IEEE 754 rounds these alike on every
machine, and numpy's sines and exponentials are not rounded alike. It knows no colours or captions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
Point = tuple[float, float]


@dataclass(frozen=True)
class Layer:
    """A piece of surface: where it is, which way it faces, how bright it is.

    `cover` [h, w] in 0..1; `right` and `up` are the normal's first two parts, the third faces the
    viewer; `tone` scales the light; a `stem` has its own brown instead of the object's
    colour.
    """

    cover: Field
    right: Field | float
    up: Field | float
    tone: Field | float = 1.0
    stem: bool = False


@dataclass(frozen=True)
class Kind:
    """A shape and its footing: half the width of the shadow it throws, in its own units."""

    draw: Callable[[Field, Field, float, float], tuple[Layer, ...]]
    foot: float


def soft(distance: Field, pixel: float) -> Field:
    """How much of each pixel lies inside, from the distance of its centre."""
    share: Field = np.clip(0.5 - distance / pixel, 0.0, 1.0)
    return share


def _length(x: Field, y: Field) -> Field:
    return np.sqrt(x * x + y * y)


def _ellipse(u: Field, v: Field, rx: float, ry: float) -> Field:
    """The usual first-order distance to an axis-parallel ellipse around 0."""
    near = _length(u / rx, v / ry)
    steep = _length(u / (rx * rx), v / (ry * ry))
    return near * (near - 1) / np.maximum(steep, 1e-6)


def _beside(u: Field, v: Field, start: Point, end: Point) -> Field:
    """Signed distance to the line from `start` to `end`: positive on its right."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    norm = math.sqrt(dx * dx + dy * dy)
    return (u - start[0]) * (dy / norm) - (v - start[1]) * (dx / norm)


def _slope(distance: Field, pixel: float) -> tuple[Field, Field]:
    """The direction away from the shape, (right, up); rows run down. Zero on the frame."""
    right, up = np.zeros_like(distance), np.zeros_like(distance)
    right[:, 1:-1] = (distance[:, 2:] - distance[:, :-2]) / (2 * pixel)
    up[1:-1] = (distance[:-2] - distance[2:]) / (2 * pixel)
    return right, up


def _ball(u: Field, v: Field, pixel: float, turn: float) -> tuple[Layer, ...]:
    radius = 0.44
    right, up = u / radius, (v - radius) / radius
    return (Layer(soft(_length(u, v - radius) - radius, pixel), right, up),)


def _cube(u: Field, v: Field, pixel: float, turn: float) -> tuple[Layer, ...]:
    """Seen corner on from 25 degrees above, turned by 27 to 63 degrees about the vertical."""
    side, rise, lift = 0.64, 0.42, 0.905
    half = 0.4 + 0.17 * turn  # tangent of half the angle
    c, s = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    near = (side * (s - c) / 2, 0.0)
    right = (near[0] + side * c, side * s * rise)
    left = (near[0] - side * s, side * c * rise)
    high = side * lift
    top = [(x, y + high) for x, y in (near, right, left)]
    far = (right[0] + left[0] - near[0], right[1] + left[1] + high)
    outline = (near, right, top[1], far, top[2], left, near)
    distance = _beside(u, v, near, right)
    for start, end in pairwise(outline[1:]):
        distance = np.maximum(distance, _beside(u, v, start, end))
    edge = 1.6 * pixel + 0.02
    is_top = soft(np.maximum(_beside(u, v, top[0], top[1]), _beside(u, v, top[2], top[0])), edge)
    is_right = soft(near[0] - u, edge)
    # The three normals, (right, up): of the top, of the right and of the left face.
    side_right, side_up = is_right * (s + c) - c, is_right * (s - c) * rise - s * rise
    facing = is_top * (0.0 - side_right) + side_right, is_top * (lift - side_up) + side_up
    return (Layer(soft(distance, pixel), *facing, tone=0.95 + 0.12 * is_top),)


def _cone(u: Field, v: Field, pixel: float, turn: float) -> tuple[Layer, ...]:
    wide, foot, tip = 0.43, 0.11, 0.97
    reach = wide * (tip - v) / (tip - foot)
    slant = (tip - foot) / math.sqrt((tip - foot) ** 2 + wide * wide)
    round_foot = np.where(v < foot, _ellipse(u, v - foot, wide, foot), -1.0)
    distance = np.maximum(np.maximum((np.abs(u) - reach) * slant, v - tip), round_foot)
    return (Layer(soft(distance, pixel), np.clip(u / np.maximum(reach, 0.02), -1, 1) * 0.9, 0.28),)


def _star(u: Field, v: Field, pixel: float, turn: float) -> tuple[Layer, ...]:
    """Five points with flat facets that meet in ridges."""
    lean = 0.07 * turn  # tangent of half the angle
    c, s = (1 - lean * lean) / (1 + lean * lean), 2 * lean / (1 + lean * lean)
    x, y = np.abs(c * u - s * (v - 0.46)), s * u + c * (v - 0.46)
    cos36, sin36, tip, waist = 0.809016994, 0.587785252, 0.475, 0.52
    for sign in (1.0, -1.0):
        beyond = 2 * np.maximum(sign * cos36 * x - sin36 * y, 0.0)
        x, y = x - sign * cos36 * beyond, y + sin36 * beyond
    x, y = np.abs(x), y - tip
    bx, by = waist * sin36, waist * cos36 - 1.0
    along = np.clip((x * bx + y * by) / (bx * bx + by * by), 0.0, tip)
    away = _length(x - bx * along, y - by * along)
    distance = np.where(y * bx > x * by, away, -away) - 0.02
    right, up = _slope(distance, pixel)
    return (Layer(soft(distance, pixel), 0.66 * right, 0.66 * up),)


def _mug(u: Field, v: Field, pixel: float, turn: float) -> tuple[Layer, ...]:
    """A cylinder seen a little from above, its handle to one side."""
    hand = 1.0 if turn > 0 else -1.0
    u = u * hand + 0.10  # from here on the handle is on the right
    wide, top, flat, foot = 0.34, 0.80, 0.085, 0.07
    grip = _length((u - wide) * 0.95, v - 0.44)
    grip_normal = np.clip((grip - 0.18) / 0.06, -1, 1) / np.maximum(grip, 0.02)
    handle = Layer(
        soft(np.abs(grip - 0.18) - 0.06, pixel), grip_normal * (u - wide) * hand,
        grip_normal * (v - 0.44), tone=0.92,
    )  # fmt: skip
    round_foot = np.where(v < foot, _ellipse(u, v - foot, wide, foot), -1.0)
    mouth = _ellipse(u, v - top, wide, flat)
    wall = np.maximum(np.maximum(np.abs(u) - wide, v - top), round_foot)
    bend = np.clip(u / wide, -1, 1) * (0.95 * hand)
    body = Layer(soft(np.minimum(wall, mouth), pixel), bend, 0.10)
    rim = Layer(soft(mouth, pixel), 0.0, 0.72, tone=1.06)
    inside = soft(_ellipse(u, v - top, wide - 0.055, flat - 0.032), pixel)
    return handle, body, rim, Layer(inside, -bend, 0.2, tone=0.35)


def _pear(u: Field, v: Field, pixel: float, turn: float) -> tuple[Layer, ...]:
    """Two spheres in one skin, and a stem."""
    u = u - 0.09 * turn * v * v
    low, high, at, blend = 0.34, 0.17, 0.69, 0.26
    belly, neck = _length(u, v - low) - low, _length(u, v - at) - high
    share = np.clip(0.5 + 0.5 * (belly - neck) / blend, 0, 1)  # of the neck, as in a smooth minimum
    distance = belly + share * (neck - belly) - blend * share * (1 - share)
    right = (u / low) * (1 - share) + (u / high) * share
    up = ((v - low) / low) * (1 - share) + ((v - at) / high) * share * 0.8
    long = np.maximum(np.sqrt(right * right + up * up), 1.0)
    lean = u - (0.04 + 0.03 * turn) * np.clip((v - 0.82) / 0.15, 0, 1)
    stem = np.maximum(np.abs(lean) - 0.028, np.abs(v - 0.90) - 0.075)
    return (
        Layer(soft(stem, pixel), 0.0, 0.0, stem=True),
        Layer(soft(distance, pixel), right / long, up / long),
    )


def _ring(u: Field, v: Field, pixel: float, turn: float) -> tuple[Layer, ...]:
    """A torus that stands upright and looks at the viewer."""
    thick, radius = 0.135, 0.325
    u = u / (1.0 - 0.12 * turn * turn)
    away = np.maximum(_length(u, v - 0.46), 0.02)
    bend = np.clip((away - radius) / thick, -1, 1) / away
    return (Layer(soft(np.abs(away - radius) - thick, pixel), bend * u, bend * (v - 0.46)),)


def _heart(u: Field, v: Field, pixel: float, turn: float) -> tuple[Layer, ...]:
    zoom = 0.80
    x, y = np.abs(u) / zoom, v / zoom
    lobe = _length(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    diagonal = 0.5 * np.maximum(x + y, 0.0)
    flank = np.minimum(_length(x, y - 1.0), _length(x - diagonal, y - diagonal))
    distance = np.where(x + y > 1, lobe, np.where(x > y, flank, -flank)) * zoom
    right, up = _slope(distance, pixel)
    flat = 1 - np.clip(-distance / 0.25, 0, 1)
    return (Layer(soft(distance, pixel), right * flat * 0.95, up * flat * 0.95),)


KINDS: dict[str, Kind] = {
    "ball": Kind(_ball, 0.36),
    "cube": Kind(_cube, 0.46),
    "cone": Kind(_cone, 0.44),
    "star": Kind(_star, 0.38),
    "mug": Kind(_mug, 0.40),
    "pear": Kind(_pear, 0.34),
    "ring": Kind(_ring, 0.30),
    "heart": Kind(_heart, 0.24),
}
