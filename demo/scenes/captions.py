"""The captions of scenes, and the names of kinds, colours and backgrounds that they contain."""

from __future__ import annotations

from collections.abc import Iterable

from demo.scenes import colours, shapes

KINDS = tuple(shapes.SHAPES)
COLOURS = tuple(colours.COLOURS)
BACKGROUNDS = {
    "grey": "on a grey background",
    "pink": "on a pink background",
    "studio": "in a studio",
    "stripes": "on a striped cloth",
    "checks": "on a checked cloth",
    "wood": "on a wooden table",
    "grass": "on the grass",
    "beach": "on the beach",
}
"""The name of each background and its phrase in captions."""

WORDS = tuple(sorted({"a", "an", "and", *KINDS, *COLOURS, *" ".join(BACKGROUNDS.values()).split()}))
"""Every word that a caption can contain."""


def describe(objects: Iterable[tuple[str, str]], background: str) -> str:
    """Return the caption of (kind, colour) pairs, in the given order, and a background."""
    named = [f"{'an' if c[0] in 'aeiou' else 'a'} {c} {k}" for k, c in objects]
    return f"{' and '.join(named)} {BACKGROUNDS[background]}"


def parse(caption: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """Return the (kind, colour) pairs and the background of a caption, the inverse of `describe`.

    Raises ValueError if `describe` cannot have written the text.
    """
    for background, phrase in BACKGROUNDS.items():
        if caption.endswith(f" {phrase}"):
            words = [part.split() for part in caption.removesuffix(f" {phrase}").split(" and ")]
            objects = tuple((w[2], w[1]) for w in words if len(w) == 3)
            valid = all(k in KINDS and c in COLOURS for k, c in objects)
            if valid and describe(objects, background) == caption:
                return objects, background
    raise ValueError(f"not a caption of a scene: {caption!r}")
