"""The eight kinds of object as signed distance functions and surface normals, without colours.

Each kind is drawn in a unit square: `u` runs from -0.5 to 0.5 to the right, `v` from 0 at the base
to 1 at the top, and `pixel` is the side of a pixel in the same units. A shape returns layers, which
are painted in order. Distances are negative inside. Edges are anti-aliased over one pixel. The
formulas follow Inigo Quilez, "2D distance functions".

Only +, -, x, /, square roots, minima and comparisons are used, because IEEE 754 defines their
rounding: the pictures are identical on every machine. Sines and exponentials in NumPy are not.
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
    """A piece of surface.

    `coverage` [h, w] is the share of each pixel it covers, 0..1. `right` and `up` are the first two
    components of the surface normal; the third points to the viewer. `tone` scales the brightness.
    A `stem` is brown instead of the object's colour.
    """

    coverage: Field
    right: Field | float
    up: Field | float
    tone: Field | float = 1.0
    stem: bool = False


@dataclass(frozen=True)
class Shape:
    """A function (u, v, pixel, turn) that returns layers, and half the width of the shadow."""

    draw: Callable[[Field, Field, float, float], tuple[Layer, ...]]
    foot: float


def _coverage(distance: Field, pixel: float) -> Field:
    """Return the share of each pixel inside the shape, from the distance at its centre."""
    share: Field = np.clip(0.5 - distance / pixel, 0.0, 1.0)
    return share


def _length(x: Field, y: Field) -> Field:
    return np.sqrt(x * x + y * y)


def _ellipse(u: Field, v: Field, rx: float, ry: float) -> Field:
    """Return the first-order distance to an axis-aligned ellipse around the origin."""
    near = _length(u / rx, v / ry)
    steep = _length(u / (rx * rx), v / (ry * ry))
    return near * (near - 1) / np.maximum(steep, 1e-6)


def _line(u: Field, v: Field, start: Point, end: Point) -> Field:
    """Return the signed distance to the line from `start` to `end`, positive on its right."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    norm = math.sqrt(dx * dx + dy * dy)
    return (u - start[0]) * (dy / norm) - (v - start[1]) * (dx / norm)


def _gradient(distance: Field, pixel: float) -> tuple[Field, Field]:
    """Return the gradient of the distance, (right, up), zero at the border. Rows run down."""
    right, up = np.zeros_like(distance), np.zeros_like(distance)
    right[:, 1:-1] = (distance[:, 2:] - distance[:, :-2]) / (2 * pixel)
    up[1:-1] = (distance[:-2] - distance[2:]) / (2 * pixel)
    return right, up


def _ball(u: Field, v: Field, pixel: float, turn: float) -> tuple[Layer, ...]:
    radius = 0.44
    right, up = u / radius, (v - radius) / radius
    return (Layer(_coverage(_length(u, v - radius) - radius, pixel), right, up),)


def _cube(u: Field, v: Field, pixel: float, turn: float) -> tuple[Layer, ...]:
    """A cube seen from 25 degrees above, rotated by 27 to 63 degrees about the vertical axis."""
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
    distance = _line(u, v, near, right)
    for start, end in pairwise(outline[1:]):
        distance = np.maximum(distance, _line(u, v, start, end))
    edge = 1.6 * pixel + 0.02
    is_top = _coverage(np.maximum(_line(u, v, top[0], top[1]), _line(u, v, top[2], top[0])), edge)
    is_right = _coverage(near[0] - u, edge)
    # Blend the normals (right, up) of the top, right and left face.
    side_right, side_up = is_right * (s + c) - c, is_right * (s - c) * rise - s * rise
    facing = is_top * (0.0 - side_right) + side_right, is_top * (lift - side_up) + side_up
    return (Layer(_coverage(distance, pixel), *facing, tone=0.95 + 0.12 * is_top),)


def _cone(u: Field, v: Field, pixel: float, turn: float) -> tuple[Layer, ...]:
    wide, foot, tip = 0.43, 0.11, 0.97
    reach = wide * (tip - v) / (tip - foot)
    slant = (tip - foot) / math.sqrt((tip - foot) ** 2 + wide * wide)
    round_foot = np.where(v < foot, _ellipse(u, v - foot, wide, foot), -1.0)
    distance = np.maximum(np.maximum((np.abs(u) - reach) * slant, v - tip), round_foot)
    return (
        Layer(_coverage(distance, pixel), np.clip(u / np.maximum(reach, 0.02), -1, 1) * 0.9, 0.28),
    )


def _star(u: Field, v: Field, pixel: float, turn: float) -> tuple[Layer, ...]:
    """A star with five points; flat facets meet in ridges."""
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
    right, up = _gradient(distance, pixel)
    return (Layer(_coverage(distance, pixel), 0.66 * right, 0.66 * up),)


def _mug(u: Field, v: Field, pixel: float, turn: float) -> tuple[Layer, ...]:
    """A cylinder seen slightly from above, with a handle on the side given by `turn`."""
    hand = 1.0 if turn > 0 else -1.0
    u = u * hand + 0.10  # mirrored, so that the handle is on the right
    wide, top, flat, foot = 0.34, 0.80, 0.085, 0.07
    grip = _length((u - wide) * 0.95, v - 0.44)
    grip_normal = np.clip((grip - 0.18) / 0.06, -1, 1) / np.maximum(grip, 0.02)
    handle = Layer(
        _coverage(np.abs(grip - 0.18) - 0.06, pixel), grip_normal * (u - wide) * hand,
        grip_normal * (v - 0.44), tone=0.92,
    )  # fmt: skip
    round_foot = np.where(v < foot, _ellipse(u, v - foot, wide, foot), -1.0)
    mouth = _ellipse(u, v - top, wide, flat)
    wall = np.maximum(np.maximum(np.abs(u) - wide, v - top), round_foot)
    bend = np.clip(u / wide, -1, 1) * (0.95 * hand)
    body = Layer(_coverage(np.minimum(wall, mouth), pixel), bend, 0.10)
    rim = Layer(_coverage(mouth, pixel), 0.0, 0.72, tone=1.06)
    inside = _coverage(_ellipse(u, v - top, wide - 0.055, flat - 0.032), pixel)
    return handle, body, rim, Layer(inside, -bend, 0.2, tone=0.35)


def _pear(u: Field, v: Field, pixel: float, turn: float) -> tuple[Layer, ...]:
    """Two spheres joined by a smooth minimum, and a stem."""
    u = u - 0.09 * turn * v * v
    low, high, at, blend = 0.34, 0.17, 0.69, 0.26
    belly, neck = _length(u, v - low) - low, _length(u, v - at) - high
    share = np.clip(0.5 + 0.5 * (belly - neck) / blend, 0, 1)  # weight of the neck
    distance = belly + share * (neck - belly) - blend * share * (1 - share)
    right = (u / low) * (1 - share) + (u / high) * share
    up = ((v - low) / low) * (1 - share) + ((v - at) / high) * share * 0.8
    long = np.maximum(np.sqrt(right * right + up * up), 1.0)
    lean = u - (0.04 + 0.03 * turn) * np.clip((v - 0.82) / 0.15, 0, 1)
    stem = np.maximum(np.abs(lean) - 0.028, np.abs(v - 0.90) - 0.075)
    return (
        Layer(_coverage(stem, pixel), 0.0, 0.0, stem=True),
        Layer(_coverage(distance, pixel), right / long, up / long),
    )


def _ring(u: Field, v: Field, pixel: float, turn: float) -> tuple[Layer, ...]:
    """An upright torus that faces the viewer."""
    thick, radius = 0.135, 0.325
    u = u / (1.0 - 0.12 * turn * turn)
    away = np.maximum(_length(u, v - 0.46), 0.02)
    bend = np.clip((away - radius) / thick, -1, 1) / away
    return (Layer(_coverage(np.abs(away - radius) - thick, pixel), bend * u, bend * (v - 0.46)),)


def _heart(u: Field, v: Field, pixel: float, turn: float) -> tuple[Layer, ...]:
    zoom = 0.80
    x, y = np.abs(u) / zoom, v / zoom
    lobe = _length(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    diagonal = 0.5 * np.maximum(x + y, 0.0)
    flank = np.minimum(_length(x, y - 1.0), _length(x - diagonal, y - diagonal))
    distance = np.where(x + y > 1, lobe, np.where(x > y, flank, -flank)) * zoom
    right, up = _gradient(distance, pixel)
    flat = 1 - np.clip(-distance / 0.25, 0, 1)
    return (Layer(_coverage(distance, pixel), right * flat * 0.95, up * flat * 0.95),)


SHAPES: dict[str, Shape] = {
    "ball": Shape(_ball, 0.36),
    "cube": Shape(_cube, 0.46),
    "cone": Shape(_cone, 0.44),
    "star": Shape(_star, 0.38),
    "mug": Shape(_mug, 0.40),
    "pear": Shape(_pear, 0.34),
    "ring": Shape(_ring, 0.30),
    "heart": Shape(_heart, 0.24),
}
