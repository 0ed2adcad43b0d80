"""The command line: draw contact sheets of scenes or edits."""

from __future__ import annotations

import argparse
from pathlib import Path

from demo.scenes.sheets import edit_sheet, scene_sheet


def main() -> None:
    """Parse the arguments and write the sheet."""
    parser = argparse.ArgumentParser("demo.scenes", description=__doc__)
    parser.add_argument("what", choices=("sheet", "edits"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=_seeds, help="FIRST:END, without END")
    parser.add_argument("--size", type=int, default=64, help="side of a scene in pixels")
    args = parser.parse_args()
    if args.size < 16:
        parser.error(f"--size {args.size}: a scene has at least 16 pixels")
    draw, seeds = (scene_sheet, range(48)) if args.what == "sheet" else (edit_sheet, range(16))
    try:
        args.file.parent.mkdir(parents=True, exist_ok=True)
        draw(args.seeds or seeds, args.size).save(args.file)
    except (OSError, ValueError) as error:  # Pillow raises ValueError for an unknown suffix
        parser.error(f"cannot write {args.file}: {error}")
    print(f"wrote {args.file}")


def _seeds(text: str) -> range:
    first, _, end = text.partition(":")
    if not (first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST:END, for example 0:48")
    return range(int(first), int(end))


if __name__ == "__main__":
    main()
