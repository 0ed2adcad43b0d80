"""The warnings about empty masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffedit.algorithm.inputs import EditInputs


def empty_mask_warnings(
    inputs: EditInputs, masks: Sequence[NDArray[np.bool_]], cells: NDArray[np.bool_]
) -> list[str]:
    """A sentence for each edit with an empty mask; `masks` are those of several edits."""
    if not masks:
        return [] if cells.any() else [_sentence(inputs.source == inputs.target)]
    edits = zip(inputs.request.pairs, inputs.pairs, masks, strict=True)
    return [
        f"Edit {number} ({prompt!r}) changes nothing. "
        + _sentence(pair[0] == pair[1], one_of_several=True)
        for number, ((_, prompt), pair, mask) in enumerate(edits, 1)
        if not mask.any()
    ]


def _sentence(same_texts: bool, *, one_of_several: bool = False) -> str:
    if same_texts:
        return "Both texts are the same for the text encoder, so there is nothing to edit" + (
            "." if one_of_several else ": the picture is returned unchanged."
        )
    if one_of_several:
        return (
            "Its texts do not differ enough outside the masks of the earlier edits: describe more "
            "plainly what is there and what should be there."
        )
    return (
        "The two texts do not differ enough anywhere in the picture, so it is returned unchanged: "
        "describe more plainly what is there and what should be there, or pass a mask."
    )
