"""`restore`: keep another editor's changes, and restore the photograph's pixels elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffedit.cli import options, output_files
from diffedit.cli.edit import MaskImage
from diffedit.cli.errors import UsageError, say
from diffedit.cli.inputs import STDIN, STDOUT, default_output, read_mask, read_photo
from diffedit.cli.output_files import OutputFiles, encode, write_stdout
from diffedit.cli.output_options import RestoreOutputOptions
from diffedit.cli.run_edit import OutputPaths
from diffedit.notices import warning_facts

if TYPE_CHECKING:
    from diffedit.imaging.photograph import Photograph
    from diffedit.imaging.restore import RestoredImage

OriginalPicture = Annotated[
    str, typer.Argument(metavar="ORIGINAL", help="The photograph; - reads standard input.")
]
EditedPicture = Annotated[
    str,
    typer.Argument(
        metavar="EDITED", help="The other editor's result, of the same size; - reads stdin."
    ),
]
CHANGES = "Changes"


@dataclass(frozen=True)
class ChangeOptions:
    """What counts as a change on purpose. Fields as in `diffedit.restore`."""

    threshold: Annotated[
        float,
        options.option(
            CHANGES,
            "Smallest change, in multiples of the noise between the pictures; lower values "
            "find weaker changes.",
            "--threshold",
        ),
    ] = 4.0
    grow: Annotated[
        float,
        options.option(CHANGES, "Enlarge the regions by this share of the longer side.", "--grow"),
    ] = 0.01
    match_colors: Annotated[
        bool,
        options.option(
            CHANGES,
            "Shift the colors of the edited picture to the original's.",
            "--match-colors/--no-match-colors",
        ),
    ] = True


def restore(
    original: OriginalPicture,
    edited: EditedPicture,
    *,
    mask_image: MaskImage = None,
    changes: ChangeOptions,
    output_options: RestoreOutputOptions,
) -> None:
    """Keep another editor's changes, and restore the photograph's pixels elsewhere.

    Editors that repaint the whole picture change every pixel a little. This command finds the
    regions that changed much more than the rest, takes only those from the edited picture, and
    keeps all other pixels of the original bit for bit. It needs no model. The result is written
    next to ORIGINAL with the ending .restored.png, unless --out is another file.
    """
    paths = OutputPaths.from_options(output_options, default_output(original, "restored"))
    if [original, edited, mask_image].count(STDIN) > 1:
        raise UsageError("Only one picture can be read from standard input; pass files.")
    from diffedit.imaging.restore import restore as restore_image

    before, after = read_photo(original), read_photo(edited)
    mask = None if mask_image is None else read_mask(mask_image, before)
    with OutputFiles(force=output_options.force) as files:
        for path in paths.files:
            files.reserve(path)
        result = restore_image(
            before,
            after,
            mask_image=mask,
            threshold=changes.threshold,
            grow=changes.grow,
            match_colors=changes.match_colors,
        )
        for path, data in _encoded_files(paths, before, after, result).items():
            files.write(path, data)
        files.commit()
    if paths.out == STDOUT:
        write_stdout(encode(result.photo))
    _print_outcome(result, paths, output_options)


def _encoded_files(
    paths: OutputPaths, before: Photograph, after: Photograph, result: RestoredImage
) -> dict[Path, bytes]:
    """Return the contents of every output file."""
    contents: dict[Path, bytes] = {}
    if paths.out != STDOUT:
        contents[Path(paths.out)] = encode(result.photo, Path(paths.out))
    if paths.mask is not None:
        contents[paths.mask] = encode(result.mask, paths.mask)
    if paths.panel is not None:
        from diffedit.imaging import compose

        labels = ("original", "edited elsewhere", "changed on purpose", "restored")
        panel = compose.panel(before.rgb, after.rgb, result.mask, result.photo.rgb, labels)
        contents[paths.panel] = encode(panel, paths.panel)
    return contents


def _print_outcome(result: RestoredImage, paths: OutputPaths, output: RestoreOutputOptions) -> None:
    lost = [] if paths.out == STDOUT else output_files.losses(result.photo, Path(paths.out))
    for warning in (*result.warnings, *lost):
        say(f"warning: {warning}")
    if output.as_json:
        names = ("share", "noise", "differing", "max_abs_diff_outside_mask")
        figures = {name: getattr(result, name) for name in names}
        figures |= warning_facts(result.warnings)
        print(json.dumps({**paths.by_name(), **figures}))  # noqa: T201
    if output.quiet:
        return
    kept = "" if result.noise is None else f"; noise elsewhere {result.noise:.1f} of 255"
    say(
        f"wrote {paths.names}: {result.share:.1%} of the picture is the edited one, the rest "
        f"differs from the original by at most {result.max_abs_diff_outside_mask}{kept}"
    )
    if paths.out == STDOUT:
        return
    if note := output_files.format_note(Path(paths.out), has_record=False):
        say(f"note: {note}")
