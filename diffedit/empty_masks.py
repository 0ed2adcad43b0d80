"""The warnings about empty masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffedit.algorithm.inputs import EditInputs
from diffedit.notices import Notice


def empty_mask_warnings(
    inputs: EditInputs, masks: Sequence[NDArray[np.bool_]], cells: NDArray[np.bool_]
) -> list[Notice]:
    """A sentence for each edit with an empty mask; `masks` are those of several edits."""
    if not masks:
        return [] if cells.any() else [_notice(inputs.source == inputs.target)]
    edits = zip(inputs.request.pairs, inputs.pairs, masks, strict=True)
    return [
        _notice(pair[0] == pair[1], f"Edit {number} ({prompt!r}) changes nothing. ")
        for number, ((_, prompt), pair, mask) in enumerate(edits, 1)
        if not mask.any()
    ]


def _notice(same_texts: bool, beginning: str = "") -> Notice:
    """The warning; with a beginning, about one of several edits."""
    if same_texts:
        end = "." if beginning else ": the picture is returned unchanged."
        same = "Both texts are the same for the text encoder, so there is nothing to edit"
        return Notice("same_texts", beginning + same + end)
    if beginning:
        return Notice(
            "nothing_found",
            f"{beginning}Its texts do not differ enough outside the masks of the earlier edits: "
            "describe more plainly what is there and what should be there.",
        )
    return Notice(
        "nothing_found",
        "The two texts do not differ enough anywhere in the picture, so it is returned unchanged: "
        "describe more plainly what is there and what should be there, or pass a mask.",
    )
