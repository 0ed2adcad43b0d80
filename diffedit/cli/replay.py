"""`replay`: repeat the edit that a PNG stores, and compare the results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffedit.cli import options
from diffedit.cli.errors import UsageError, say
from diffedit.cli.inputs import default_output, read_photo
from diffedit.cli.model_options import ModelOptions
from diffedit.cli.output_options import EditOutputOptions
from diffedit.cli.run_edit import OutputPaths, run_edit
from diffedit.imaging.metadata import EditRecord, pixel_digest, read_record
from diffedit.request import EditRequest, InvalidRequest

if TYPE_CHECKING:
    from diffedit.cli.model_options import ModelOptions
    from diffedit.imaging.photograph import Photograph
    from diffedit.result import EditResult

EditedFile = Annotated[Path, typer.Argument(metavar="EDITED", help="A PNG that `edit` wrote.")]
AnyInput = Annotated[
    bool,
    options.option(
        options.EDIT,
        "Accept another picture than the one the edit was made from.",
        "--any-input",
        show_default=False,
    ),
]


def replay(
    edited: EditedFile,
    image: options.Image,
    *,
    any_input: AnyInput = False,
    model_options: ModelOptions,
    output_options: EditOutputOptions,
) -> None:
    """Repeat the edit that a PNG stores, and report whether the result is identical.

    The result is written next to EDITED with the ending .replay.png, unless --out is another file.
    """
    paths = OutputPaths.from_options(output_options, default_output(str(edited), "replay"))
    record = read_record(edited)
    photo = read_photo(image)
    if pixel_digest(photo.rgb) != record.input:
        if not any_input:
            raise UsageError(
                f"{image} is not the picture that {edited} was made from (the pixels differ); pass "
                "that picture, or add --any-input to apply the same edit to this one."
            )
        say(f"warning: {image} is not the picture that {edited} was made from.")
    recorded_size = None
    if model_options.size is None and not any_input and record.size is not None:
        recorded_size = "{}x{}".format(*record.size)
        model_options = replace(model_options, size=recorded_size)
    request = _stored_request(edited, record, image, photo)
    try:
        result = run_edit(request, photo, model_options, paths, output_options)
    except InvalidRequest as error:
        if recorded_size is None or error.field != "size":
            raise
        raise UsageError(
            f"{edited} was made at {recorded_size} pixels, which this model does not support "
            f"({error}); pass the model that it was made with."
        ) from None
    differences = [*_differences(record, result), *_other_size(record, model_options)]
    if differences:
        say(f"warning: {edited} was made in a different way: {'; '.join(differences)}.")
    if not output_options.quiet:
        if any_input:
            say("done; the input is another picture, so the results are not compared.")
        else:
            say(_comparison(edited, result.photo, record, bool(differences)))


def _differences(record: EditRecord, result: EditResult) -> list[str]:
    """Return how the model and the backend in use differ from those of a record."""
    now = result.provenance
    if record.provenance is None or now is None:
        return []
    return record.provenance.differences(now)


def _other_size(record: EditRecord, options: ModelOptions) -> list[str]:
    """Return the difference if --size is not the size of a record."""
    size = options.pipeline_arguments()["size"]
    if record.size is None or size in (None, record.size):
        return []
    return ["the size is {}x{}, not {}x{}".format(*size, *record.size)]


def _stored_request(edited: Path, record: EditRecord, image: str, photo: Photograph) -> EditRequest:
    """Return the edit that a record describes. Its errors refer to the record, not to options."""
    try:
        request = EditRequest.from_parameters(photo, record.parameters)
    except InvalidRequest as error:
        raise UsageError(f"{edited} stores parameters that cannot be used: {error}") from None
    if record.mask is None:
        return request
    from diffedit.imaging.mask_reader import stored_mask

    try:
        mask = stored_mask(record.mask, photo.size)
    except InvalidRequest as error:
        raise UsageError(
            f"The mask that {edited} stores does not fit {image} ({error}); replay it on a picture "
            "of the same size, or run `edit` with a new mask."
        ) from None
    return replace(request, mask_image=replace(mask, read_as=record.mask_read_as or mask.read_as))


def _comparison(edited: Path, photo: Photograph, record: EditRecord, warned: bool) -> str:
    """Return one sentence about the difference between the stored and the repeated result.

    Args:
        edited: the file with the stored result.
        photo: the repeated result.
        record: of `edited`.
        warned: whether a warning has already listed the differences.
    """
    from diffedit.imaging.compare import largest_difference

    original = read_photo(str(edited))
    if original.size != photo.size:
        return f"differs from {edited}: the sizes are different."
    largest = largest_difference(original, photo)
    if largest == 0:
        return f"identical to {edited} in every pixel."
    if record.provenance is None:
        reason = f"it was made with {record.model} on {record.backend}"
    else:
        reason = "see the warning above" if warned else "everything that it records is the same"
    return f"differs from {edited} by at most {largest} of 255; {reason}."
