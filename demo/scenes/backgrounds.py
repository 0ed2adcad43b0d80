"""The eight backgrounds. Each function paints the whole picture before the objects are drawn.

A painter takes the pixel centres `x` [1, w] and `y` [h, 1] in 0..1 (`y` runs down), the side of a
pixel in the same units, and eight random numbers in 0..1 that vary the background. It returns an
array in 0..1 that broadcasts to [h, w, 3]. The colours are muted and of middle brightness, so that
white and black objects both contrast with them. The arithmetic follows the rules of
`demo.scenes.shapes`: results are identical on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from demo.scenes.shapes import Field

Numbers = tuple[float, ...]
Painter = Callable[[Field, Field, float, Numbers], Field]

_NOISE: Field = np.random.Generator(np.random.PCG64(1)).random((64, 64)).astype(np.float32) - 0.5

_EYE = 0.40  # distance of the vanishing line above the table's edge: a high viewpoint


def _mix(a: tuple[float, ...], b: tuple[float, ...], share: Field | float) -> Field:
    """Interpolate from colour `a` to colour `b`; `share` has no channel axis."""
    start, end = np.array(a, np.float32) / 255, np.array(b, np.float32) / 255
    return start + (end - start) * np.asarray(share, np.float32)[..., None]


def _step(value: Field, width: Field | float) -> Field:
    """Return 0 below zero, 1 above, and a linear ramp of `width` around zero."""
    ramp: Field = np.clip(value / width + 0.5, 0.0, 1.0)
    return ramp


def _wave(phase: Field) -> Field:
    """Approximate a sine of period 1 by parabolas, -1..1."""
    t = 2 * (phase - np.floor(phase)) - 1
    arcs: Field = 4 * t * (np.abs(t) - 1)
    return arcs


def _bands(phase: Field, width: Field | float) -> Field:
    """Alternate between 0 and 1 with period 1 and edges of `width`."""
    t = phase - np.floor(phase)
    bands: Field = np.clip((0.25 - np.abs(t - 0.5)) / width + 0.5, 0.0, 1.0)
    return bands


def _noise(x: Field, y: Field) -> Field:
    """Return smooth value noise of about +-0.4 with a grid of 1, periodic after 64."""
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = x - x0, y - y0
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    left, upper = x0.astype(np.int32) & 63, y0.astype(np.int32) & 63
    right, lower = (left + 1) & 63, (upper + 1) & 63
    above = _NOISE[upper, left] * (1 - fx) + _NOISE[upper, right] * fx
    below = _NOISE[lower, left] * (1 - fx) + _NOISE[lower, right] * fx
    hills: Field = above * (1 - fy) + below * fy
    return hills


def _wall(y: Field, r: Numbers) -> Field:
    """A painted wall, slightly darker towards the table."""
    warm, cool = (208, 194, 172), (168, 186, 198)
    return _mix(warm, cool, r[7]) * (1.02 - 0.22 * y)[..., None]


def _depth(y: Field, horizon: float) -> Field:
    """Return the relative distance of a table point: 1 at the lower border, more above."""
    depth: Field = (1 - horizon + _EYE) / np.maximum(y - horizon + _EYE, 0.05)
    return depth


def _table(x: Field, y: Field, pixel: float, r: Numbers, cloth: Field, horizon: float) -> Field:
    """`cloth` below the horizon, a wall above it, and a dark line between them."""
    edge = _step(y - horizon, pixel)[..., None]
    shade = 1 - 0.16 * np.clip(1 - np.abs(y - horizon) / 0.06, 0, 1)[..., None]
    wall = _wall(y, r)
    room: Field = (wall + (cloth - wall) * edge) * shade
    return room


def _grey(x: Field, y: Field, pixel: float, r: Numbers) -> Field:
    return _mix((134, 139, 146), (160, 162, 166), r[0]) * (0.97 + 0.08 * y)[..., None]


def _pink(x: Field, y: Field, pixel: float, r: Numbers) -> Field:
    return _mix((222, 150, 164), (230, 172, 178), r[0]) * (0.96 + 0.06 * y)[..., None]


def _studio(x: Field, y: Field, pixel: float, r: Numbers) -> Field:
    """A teal backdrop with a bright spot of light."""
    spot = (x - 0.3 - 0.4 * r[0]) ** 2 + 1.3 * (y - 0.8) ** 2
    glow = 1 / (1 + 4.0 * spot)
    deep = (60 + 30 * r[1], 112 + 16 * r[1], 128 + 12 * r[2])
    return _mix(deep, (188, 210, 206), glow)


def _stripes(x: Field, y: Field, pixel: float, r: Numbers) -> Field:
    """A striped cloth in perspective; the stripes run away from the viewer."""
    horizon = 0.26 + 0.10 * r[0]
    depth = _depth(y, horizon)
    count = 4.0 + 2.0 * r[1]
    phase = (x - 0.5) * depth * count + (1.4 * r[2] - 0.7) * depth * count * 0.3 + r[3]
    band = _bands(phase, 2 * pixel * depth * count)
    cloth = _mix((214, 200, 172), (104 + 30 * r[4], 134, 164), band)
    return _table(x, y, pixel, r, cloth, horizon)


def _checks(x: Field, y: Field, pixel: float, r: Numbers) -> Field:
    """A checked tablecloth, darkest where two bands cross."""
    horizon = 0.26 + 0.10 * r[0]
    depth = _depth(y, horizon)
    count = 3.6 + 1.4 * r[1]
    across = _bands((x - 0.5) * depth * count + r[2], 2 * pixel * depth * count)
    slope = depth * depth * count / (1 - horizon + _EYE)
    along = _bands(depth * count * 0.95 + r[3], 2 * pixel * slope)
    cloth = _mix((222, 210, 190), (170, 96 + 16 * r[4], 110), 0.42 * (across + along))
    return _table(x, y, pixel, r, cloth, horizon)


def _wood(x: Field, y: Field, pixel: float, r: Numbers) -> Field:
    """Horizontal boards with wood grain; each has its own brightness."""
    horizon = 0.28 + 0.12 * r[0]
    depth = _depth(y, horizon)
    row = (1 - 1 / depth) * (4.2 + r[1]) + r[2]
    board = np.floor(row)
    tone = _NOISE[board.astype(np.int32) & 63, int(r[3] * 63)] * 0.12
    within = row - board
    seam = np.clip(1 - np.minimum(within, 1 - within) * 13, 0, 1) * 0.20
    bend = _noise(x * 3 + 9 * board + 50 * r[4], row * 1.5)
    grain = _wave(row * 2.5 + 1.6 * bend) * 0.045
    light = 1.0 + tone + grain - seam
    plank = _mix((166, 116, 74), (186, 138, 94), r[5]) * light[..., None]
    return _table(x, y, pixel, r, plank, horizon)


def _grass(x: Field, y: Field, pixel: float, r: Numbers) -> Field:
    """A lawn under a pale sky; blades are finer in the distance."""
    horizon = 0.24 + 0.12 * r[0]
    hill = horizon + 0.015 * _wave(x * 1.3 + r[1])
    depth = _depth(y, horizon)
    side = (x - 0.5) * 26 * depth + 64 * r[2]
    back = depth * 7 + 40 * r[3]
    blades = _noise(side + 1.1 * back, back) + 0.7 * _noise(1.7 * side - 1.9 * back, 1.3 * back)
    patches = _noise(x * 3 + 30 * r[4], y * 4 + 7)
    near = np.clip((y - horizon) / 0.7, 0, 1)
    lawn = _mix((164, 188, 116), (122, 164, 74), near)
    lawn = lawn * (1 + 0.20 * blades * (0.4 + 0.6 * near) + 0.16 * patches)[..., None]
    sky = _mix((158, 196, 224), (208, 224, 228), np.clip(y / horizon, 0, 1))
    meadow: Field = sky + (lawn - sky) * _step(y - hill, pixel)[..., None]
    return meadow


def _beach(x: Field, y: Field, pixel: float, r: Numbers) -> Field:
    """Sand, a strip of sea, and the sky."""
    shore = 0.34 + 0.10 * r[0]
    horizon = shore - 0.10 - 0.06 * r[1]
    line = shore + 0.012 * _wave(x * 0.9 + r[2]) + 0.006 * _wave(x * 2.3 + r[3])
    ripple = _wave(y * 9 + 0.7 * _noise(x * 3 + 30 * r[4], y * 3)) * 0.018
    speck = 0.06 * _noise(x * 30 + 64 * r[5], y * 30)
    sand = _mix((214, 192, 152), (224, 204, 166), y) * (1 + ripple + speck)[..., None]
    sea = _mix((128, 184, 196), (156, 206, 208), (y - horizon) / (shore - horizon))
    sky = _mix((164, 202, 230), (220, 224, 220), np.clip(y / horizon, 0, 1))
    foam = np.clip(1 - np.abs(y - line) / 0.018, 0, 1)[..., None]
    far = sky + (sea - sky) * _step(y - horizon, pixel)[..., None]
    ground = far + (sand - far) * _step(y - line, pixel)[..., None]
    return ground + (0.96 - ground) * 0.75 * foam


PAINTERS: dict[str, Painter] = {
    "grey": _grey,
    "pink": _pink,
    "studio": _studio,
    "stripes": _stripes,
    "checks": _checks,
    "wood": _wood,
    "grass": _grass,
    "beach": _beach,
}
