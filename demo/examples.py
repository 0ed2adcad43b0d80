"""Write the example pictures that the server's page shows with the demo's model.

    python -m demo.examples [--out demo/model/examples]

They are development scenes, which neither training nor evaluation uses. The file's form is that of
`diffedit.server.examples`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from PIL import Image

from demo.scenes import scene

ABOUT = (
    "This small demo model knows still lifes of single objects (cubes, balls, cones, mugs, pears, "
    "stars, hearts and rings) in eight colors, and nothing else. For photographs, serve a Stable "
    "Diffusion model."
)
EXAMPLES = {
    970_004: ("black cube", "red cube"),
    970_008: ("red ball", "green ball"),
    970_007: ("blue mug", "yellow mug"),
}
"""Seeds of scenes -> the words of the caption that change, before and after."""
SIDE = 384


def write(folder: Path) -> None:
    """Write the pictures and `examples.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    examples = []
    for seed, (before, after) in EXAMPLES.items():
        drawn = scene(seed, SIDE)
        name = f"{before.replace(' ', '-')}.webp"
        Image.fromarray(drawn.image).save(folder / name, quality=90, method=6)
        words = drawn.caption, drawn.caption.replace(before, after)
        assert words[0] != words[1], f"{before!r} is not in {drawn.caption!r}"
        examples.append({"image": name, "source_prompt": words[0], "prompt": words[1]})
    content = {"about": ABOUT, "examples": examples}
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / "examples.json").write_text(text + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m demo.examples", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("demo/model/examples"), help="folder")
    write(parser.parse_args(arguments).out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
