"""Run the commands of the tutorials with the demo's model, and draw their results.

    python -m demo.tutorial_pictures [FOLDER] [--only methods]

Writes one WebP file for each row of pictures in the tutorials, one for the example
compare_methods.py, and one that compares presets, into FOLDER (default docs/images).
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from demo.algorithm_pictures import strip
from demo.gallery import GUIDANCE, picks
from diffedit import DiffEditPipeline, EditRequest
from diffedit.presets import PresetName
from docs.generate.console import commands, run_session
from docs.generate.links import ROOT

SHOWN = {
    "first-edit": {
        "5.png": "the picture",
        "red.png": "a red cube",
        "paper.png": "preset paper",
    },
    "python": {
        "6.png": "the picture",
        "red.png": "a red heart",
        "blue.png": "a blue heart",
        "green.png": "a green heart",
    },
    "mask-first": {
        "heat.png": "the heatmap",
        "mask.png": "the mask",
        "smooth.png": "threshold 0.4, grown",
        "with-mask.png": "edited with it",
    },
    "several-edits": {
        "5.png": "the photograph",
        "masks.png": "both masks",
        "both.png": "the result",
    },
    "large-photographs": {
        "6.png": "the photograph",
        "soft.png": "without focus",
        "sharp.png": "with focus",
    },
    "large-photographs-window": {
        "4.png": "the photograph",
        "mask.png": "the mask",
        "pear.png": "the edit",
    },
}
"""Row of pictures -> file that the commands of a tutorial write -> title."""
PAGES = {"large-photographs-window": "large-photographs"}
"""The tutorial of a row of pictures that has another name."""
DETAIL = dict.fromkeys(("large-photographs", "large-photographs-window"), (256, 256, 768, 768))
"""The part that is shown, as left, top, right, bottom in pixels."""
COMPARED: tuple[PresetName, ...] = ("paper", "balanced")
METHODS = ("diffedit", "encode-decode", "masked-sdedit", "sdedit")


def run(page: Path, folder: Path) -> None:
    """Run every command of a page; files that it puts into `build/` go to `folder`."""
    programs = {"python": [sys.executable], "diffedit-trt": [sys.executable, "-m", "diffedit.cli"]}
    for first, *others in commands(page, folder):
        subprocess.run([*programs[first], *others], cwd=ROOT, check=True)
    with contextlib.chdir(ROOT):
        print(run_session(page, folder), end="")


def tutorial(name: str) -> Image.Image:
    """The results of a tutorial in a row."""
    with tempfile.TemporaryDirectory() as temporary:
        run(ROOT / f"docs/tutorials/{PAGES.get(name, name)}.md", Path(temporary))
        tiles = []
        for file, title in SHOWN[name].items():
            (found,) = Path(temporary).rglob(file)
            with Image.open(found) as opened:
                tiles.append((title, opened.convert("RGB").crop(DETAIL.get(name))))
        return strip(tiles)


def methods() -> Image.Image:
    """The picture of examples/compare_methods.py, with titles."""
    ((scene, change),) = picks([970_004])
    with tempfile.TemporaryDirectory() as temporary:
        before, after = Path(temporary) / "in.png", Path(temporary) / "out.png"
        Image.fromarray(scene.image).save(before)
        program = [sys.executable, "examples/compare_methods.py", str(before), str(after)]
        subprocess.run([*program, change.source, change.target], cwd=ROOT, check=True)
        with Image.open(after) as opened:
            row, side = opened.convert("RGB"), opened.height
    tiles = [row.crop((n * side, 0, (n + 1) * side, side)) for n in range(len(METHODS))]
    return strip([*zip(METHODS, tiles, strict=True)])


def presets() -> Image.Image:
    """The edits of the gallery under two presets, two edits a line."""
    chosen = picks()
    with DiffEditPipeline.from_pretrained(ROOT / "demo/model") as pipe:
        results = {
            name: [
                result.image
                for result in pipe.edit_many(
                    EditRequest(
                        scene.image,
                        change.target,
                        change.source,
                        guidance_scale=GUIDANCE,
                        seed=scene.seed,
                        preset=name,
                    )
                    for scene, change in chosen
                )
            ]
            for name in COMPARED
        }
    strips = [
        strip([("the picture", Image.fromarray(scene.image)), *zip(COMPARED, edited, strict=True)])
        for (scene, _), *edited in zip(chosen, *results.values(), strict=True)
    ]
    width, height = strips[0].size
    page = Image.new("RGB", (2 * width, len(strips) // 2 * height))
    for n, one in enumerate(strips):
        page.paste(one, (n % 2 * width, n // 2 * height))
    return page


PICTURES: dict[str, Callable[[], Image.Image]] = {
    f"tutorial-{name}": partial(tutorial, name) for name in SHOWN
} | {"methods": methods, "presets": presets}
"""File name -> function that draws it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "docs/images")
    parser.add_argument("--only", choices=[*PICTURES], help="draw this one alone")
    args = parser.parse_args(arguments)
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in [args.only] if args.only else PICTURES:
        PICTURES[name]().save(args.folder / f"{name}.webp", quality=88, method=6)
        print(f"wrote {args.folder / name}.webp")


if __name__ == "__main__":
    main()
