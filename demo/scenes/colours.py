"""The colours of the objects, as pairs of sRGB values: in the shade and in full light."""

from __future__ import annotations

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

STEM: tuple[Rgb, Rgb] = ((50, 32, 20), (112, 78, 46))
"""The stem of a pear has its own colour."""
