"""An edit of the photograph by the reference of any method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image

from diffedit import EditRequest
from diffedit.algorithm.reference_models import reference_model
from diffedit.algorithm.reference_setup import Reference
from diffedit.imaging.geometry import fit, region
from diffedit.preprocessor import schedule_for
from tests.families.conftest import FamilyUnderTest

SIZE = (64, 64)
TEXTS = {"source": "a red ball", "target": "sky", "negative": "grass", "empty": ""}


def by_reference(
    edit: Callable[..., Reference],
    family: FamilyUnderTest,
    photo: Image.Image,
    request: EditRequest,
    *,
    all_white: bool = False,
) -> Reference:
    """Edit with the plain loops of a reference module, under `TEXTS` on a canvas of `SIZE`.

    Args:
        edit: the function of `reference`, `flowedit_reference` or `chordedit_reference`.
        family: the checkpoint.
        photo: the photograph.
        request: resolved options.
        all_white: with a mask of the whole photograph.
    """
    checkpoint = family.checkpoint
    array, placement = fit(photo, SIZE)
    ids = {
        name: [torch.tensor([tokens]) for tokens in family.conditioner.encode(text)]
        for name, text in TEXTS.items()
    }
    shown = torch.from_numpy(region(placement, checkpoint.family.factor))
    steps = request.num_inference_steps
    assert steps is not None
    return edit(
        reference_model(checkpoint.family.name, family.networks.modules, ids["empty"]),
        schedule_for(checkpoint, steps, SIZE),
        request,
        torch.from_numpy(array)[None],
        ids,
        shown,
        **({"user_mask": shown} if all_white else {}),
    )
