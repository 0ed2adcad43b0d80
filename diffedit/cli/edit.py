"""`edit`: edit one photograph."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated, Literal

from diffedit.cli import options
from diffedit.cli.errors import UsageError
from diffedit.cli.inputs import STDIN, default_output, read_mask, read_photo
from diffedit.cli.model_options import ModelOptions
from diffedit.cli.output_options import OUTPUT, EditOutputOptions
from diffedit.cli.run_edit import OutputPaths, run_edit
from diffedit.request import EditRequest

MaskImage = Annotated[
    str | None,
    options.option(
        options.MASK,
        "Use this mask instead of computing one. White is edited, or the transparent part of a "
        "photograph with a hole.",
        "--mask",
        "--mask-image",
    ),
]
MaskFormat = Annotated[
    Literal["auto", "alpha", "white", "black"],
    options.option(
        options.MASK,
        "Which pixels of --mask are edited: alpha (transparent ones), white or black; auto decides "
        "by their values.",
        "--mask-format",
        metavar="<str>",
    ),
]

Composite = Annotated[
    bool,
    options.option(
        OUTPUT,
        "Outside the mask, keep the photograph's exact pixels, or the decoder's.",
        "--composite/--no-composite",
    ),
]


def edit(
    image: options.Image,
    *,
    prompt: options.OptionalPrompt = None,
    source_prompt: options.Source = "",
    negative_prompt: options.Negative = "",
    edits: options.Edits = None,
    edit_options: options.EditOptions,
    mask_image: MaskImage = None,
    mask_format: MaskFormat = "auto",
    mask_options: options.MaskOptions,
    model_options: ModelOptions,
    output_options: EditOutputOptions,
    composite: Composite = EditRequest.composite,
) -> None:
    """Edit a photograph: change what the prompt describes and keep the rest.

    The region to edit is computed by comparing the two prompts, or given with --mask. The result
    is written next to IMAGE with the ending .edited.png, unless --out is another file. A PNG
    stores every parameter, so that `replay` can repeat the edit.
    """
    paths = OutputPaths.from_options(output_options, default_output(image, "edited"))
    if prompt is None and not edits:
        raise UsageError(
            "No prompt is given; add --prompt, or --edit 'source -> prompt' for each of "
            "several edits."
        )
    parameters = {
        "prompt": prompt or "",
        "edits": edits or (),
        "source_prompt": source_prompt,
        "negative_prompt": negative_prompt,
        "composite": composite,
        **asdict(edit_options),
        **asdict(mask_options),
    }
    mask = b"" if mask_image is not None else None
    request = EditRequest.from_parameters(b"", parameters, mask)
    if image == STDIN == mask_image:
        raise UsageError(
            "The picture and the mask cannot both be read from standard input; pass one as a file."
        )
    if mask_format != "auto" and mask_image is None:
        raise UsageError("--mask-format needs --mask, but none is given; pass a mask.")
    photo = read_photo(image)
    if mask_image is not None:
        request = replace(request, mask_image=read_mask(mask_image, photo, mask_format))
    run_edit(request, photo, model_options, paths, output_options)
