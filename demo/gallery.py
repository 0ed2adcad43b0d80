"""Show edits of the demo's scenes: input, heatmap, mask, result.

    python -m demo.gallery OUT.png [--model demo/model] [--engines FOLDER] [--backend auto]
    python -m demo.gallery --inputs FOLDER [--size 128] [--margin 0]

The first form edits the scenes in `SHOWN` in one batch and draws one row for each, through the
Python API. The second writes the scenes as PNG files, named by their number, with `edits.jsonl` for
`diffedit-trt batch`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from demo.scenes import Edit, Scene, scene

SHOWN = tuple(range(970_000, 970_006))
"""Seeds of the scenes; neither training nor evaluation uses them."""

SIZE = 128
"""Side of the scenes in pixels, as in the training of the demo's model."""

GUIDANCE = 4.0
"""Lower than Stable Diffusion's 7.5, at which the colours of a small model saturate."""

_LINE = 30


def picks(seeds: Sequence[int] = SHOWN, size: int = SIZE) -> list[tuple[Scene, Edit]]:
    """Return a scene and one of its edits for each seed, recolourings and replacements."""
    scenes = [scene(seed, size) for seed in seeds]
    return [(s, s.edits()[s.seed % len(s.edits())]) for s in scenes]


def write_inputs(folder: Path, size: int = SIZE, margin: int = 0) -> None:
    """Write the scenes as PNG files, and their edits as lines for `batch`.

    Args:
        folder: created if necessary.
        size: side of a scene in pixels.
        margin: pixels by which the borders are extended on each side, so that objects are small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (one, edit) in enumerate(picks(size=size), 1):
        sides = ((margin, margin), (margin, margin), (0, 0))
        image = np.pad(one.image, sides, mode="edge")
        Image.fromarray(image).save(folder / f"{number}.png")
        lines.append(
            {
                "image": f"{number}.png",
                "out": f"{number}.edited.png",
                "source_prompt": edit.source,
                "prompt": edit.target,
                "guidance_scale": GUIDANCE,
            }
        )
    (folder / "edits.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def gallery(pipe: Any, chosen: Sequence[tuple[Scene, Edit]]) -> Image.Image:
    """Return a page with a panel for every edit under its two texts."""
    from diffedit import EditRequest
    from diffedit.imaging import compose, geometry

    requests = [
        EditRequest(s.image, e.target, e.source, guidance_scale=GUIDANCE, seed=s.seed)
        for s, e in chosen
    ]
    panels = []
    for (one, _), result in zip(chosen, pipe.edit_many(requests), strict=True):
        photo = Image.fromarray(one.image)
        _, placement = geometry.fit(photo, (photo.height, photo.width))
        factor = photo.height // len(result.heatmap)
        overlay = compose.heatmap_overlay(photo, result.heatmap, placement, factor)
        panels.append(compose.panel(photo, overlay, result.blend_mask, result.image))
    return stacked(panels, [f"{e.source}   ->   {e.target}" for _, e in chosen])


def stacked(panels: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Stack pictures vertically, each below its title."""
    width = max(panel.width for panel in panels)
    height = sum(panel.height + _LINE for panel in panels)
    page = Image.new("RGB", (width, height), (250, 250, 248))
    draw, font, top = ImageDraw.Draw(page), ImageFont.load_default(19), 0
    for panel, title in zip(panels, titles, strict=True):
        draw.text((12, top + _LINE // 2 + 4), title, fill=(20, 20, 24), font=font, anchor="lm")
        page.paste(panel, (0, top + _LINE))
        top += panel.height + _LINE
    return page


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, nargs="?", help="the gallery, a PNG file")
    parser.add_argument("--inputs", type=Path, help="write the scenes into this folder instead")
    parser.add_argument("--size", type=int, default=SIZE, help="with --inputs: their side")
    parser.add_argument("--margin", type=int, default=0, help="with --inputs: around each")
    parser.add_argument("--model", type=Path, default=Path("demo/model"))
    parser.add_argument("--engines", type=Path)
    parser.add_argument("--backend", default="auto")
    args = parser.parse_args()
    if (args.file is None) == (args.inputs is None):
        parser.error("pass a PNG file or --inputs FOLDER, not both")
    if args.inputs is not None:
        write_inputs(args.inputs, args.size, args.margin)
        print(f"wrote {len(SHOWN)} scenes into {args.inputs}")
        return
    from diffedit import DiffEditPipeline
    from engine.errors import DiffEditError

    try:
        with DiffEditPipeline.from_pretrained(
            args.model, engines=args.engines, backend=args.backend
        ) as pipe:
            page = gallery(pipe, picks())
        args.file.parent.mkdir(parents=True, exist_ok=True)
        page.reduce(2).save(args.file, optimize=True)
    except (DiffEditError, OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(f"wrote {args.file} ({len(SHOWN)} edits)")


if __name__ == "__main__":
    main()
