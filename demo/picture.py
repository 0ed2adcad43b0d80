"""Draw a test picture: a red ball and a green cube on a table.

    python -m demo.picture FILE [--size 512]

The picture is drawn at four times its size and reduced, for anti-aliasing. It is deterministic.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Point = tuple[float, float]

_SCALE = 4
_HORIZON = 0.60


def still_life(width: int = 512, height: int = 512) -> Image.Image:
    """Return the picture in RGB, `width` x `height` pixels."""
    w, h = width * _SCALE, height * _SCALE
    picture = _room(w, h)
    side, middle = min(w, h), w / 2
    ball, radius = (middle - 0.19 * side, 0.64 * h), 0.185 * side
    corner, edge = (middle + 0.17 * side, 0.80 * h), 0.18 * side
    ground = (ball[0] + 0.15 * radius, ball[1] + 0.93 * radius)
    picture = _shadow(picture, ground, 1.1 * radius, 0.22 * radius)
    ground = (corner[0] + 0.40 * edge, corner[1] - 0.28 * edge)
    picture = _shadow(picture, ground, 1.25 * edge, 0.34 * edge)
    _cube(picture, corner, edge)
    _ball(picture, ball, radius)
    return picture.resize((width, height), Image.Resampling.BOX)


def _room(w: int, h: int) -> Image.Image:
    """Draw a wall, lit from the upper left, above a wooden table."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    y, x = y / h, x / w
    light = np.clip(1.05 - 0.35 * np.hypot(x - 0.2, y - 0.1), 0, 1)[..., None]
    wall = np.array([222, 214, 198], np.float32) * light
    depth = np.clip((y - _HORIZON) / (1 - _HORIZON), 0, 1)
    grain = np.sin(60 * depth**0.6 + 2.0 * np.sin(3 * x + 9 * depth)) * 0.05
    plank = np.array([164, 116, 74], np.float32) * (0.78 + 0.28 * depth + grain)[..., None]
    edge = np.clip((y - _HORIZON) * h / _SCALE, 0, 1)[..., None]
    room = wall * (1 - edge) + plank * edge
    return Image.fromarray(np.clip(room, 0, 255).astype(np.uint8))


def _shadow(picture: Image.Image, centre: Point, rx: float, ry: float) -> Image.Image:
    """Draw a soft dark ellipse on the table."""
    alpha = Image.new("L", picture.size, 0)
    box = (centre[0] - rx, centre[1] - ry, centre[0] + rx, centre[1] + ry)
    ImageDraw.Draw(alpha).ellipse(box, fill=150)
    alpha = alpha.filter(ImageFilter.GaussianBlur(ry / 2.5))
    return Image.composite(Image.new("RGB", picture.size, (58, 38, 24)), picture, alpha)


def _ball(picture: Image.Image, centre: Point, radius: float) -> None:
    """Draw a shaded sphere: diffuse light, reflected light from the table, one highlight."""
    box = [math.floor(centre[0] - radius), math.floor(centre[1] - radius)]
    size = 2 * math.ceil(radius) + 2
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    nx, ny = (x + box[0] - centre[0]) / radius, (y + box[1] - centre[1]) / radius
    inside = nx**2 + ny**2 <= 1
    nz = np.sqrt(np.clip(1 - nx**2 - ny**2, 0, 1))
    diffuse = np.clip(-0.45 * nx - 0.55 * ny + 0.70 * nz, 0, 1)
    bounce = 0.18 * np.clip(ny, 0, 1)
    shine = np.clip(-0.32 * nx - 0.42 * ny + 0.85 * nz, 0, 1) ** 60
    colour = np.array([206, 34, 38], np.float32) * (0.28 + 0.78 * diffuse + bounce)[..., None]
    colour += 190 * shine[..., None]
    _paste(picture, colour, inside, box[0], box[1])


def _paste(
    picture: Image.Image, colour: NDArray[np.float32], inside: NDArray[np.bool_], x: int, y: int
) -> None:
    patch = Image.fromarray(np.clip(colour, 0, 255).astype(np.uint8))
    picture.paste(patch, (x, y), Image.fromarray(inside.astype(np.uint8) * 255))


def _cube(picture: Image.Image, bottom: Point, side: float) -> None:
    """Draw a cube with a light top and two faces; `bottom` is its nearest corner."""
    x, y = bottom
    right, back, up = 1.08 * side, 0.42 * side, 1.28 * side
    left_edge, right_edge = (x - 0.72 * side, y - 0.30 * side), (x + right, y - back)
    far = (x + right - 0.72 * side, y - back - 0.30 * side)

    def raised(p: Point) -> Point:
        return p[0], p[1] - up

    faces: list[tuple[Colour, list[Point]]] = [
        ((58, 152, 84), [bottom, left_edge, raised(left_edge), raised(bottom)]),
        ((34, 104, 58), [bottom, right_edge, raised(right_edge), raised(bottom)]),
        ((118, 204, 138), [raised(p) for p in (bottom, left_edge, far, right_edge)]),
    ]
    draw = ImageDraw.Draw(picture)
    for colour, corners in faces:
        draw.polygon(corners, fill=colour)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--size", type=int, default=512, help="side in pixels")
    args = parser.parse_args()
    args.file.parent.mkdir(parents=True, exist_ok=True)
    still_life(args.size, args.size).save(args.file)
    print(f"wrote {args.file} ({args.size} x {args.size})")


if __name__ == "__main__":
    main()
