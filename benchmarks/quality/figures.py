"""All figures of one edit on the demo's scenes, by name."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.cases import Case, boxes
from benchmarks.quality.editors import Outcome
from benchmarks.quality.measures import (
    Figures,
    blend_figures,
    mask_figures,
    picture_figures,
    seam_figures,
    squared_error,
)
from benchmarks.quality.settings import Setting
from benchmarks.quality.shift_tolerant import PerceptualDistance
from demo.judge import Judge


def figures(
    setting: Setting,
    case: Case,
    outcome: Outcome,
    judge: Judge,
    cell: int,
    perceptual: PerceptualDistance | None = None,
) -> Figures:
    """The figures of an edit; of a mask alone, those of the mask.

    The mask of an edit is where pixels take at least half of it.

    `success`: the judge, a classifier, finds the right kind and the right colour at the edited
    object's position, and every other object as it was.
    """
    found: Figures = {}
    shown = outcome.mask if outcome.blend is None else outcome.blend >= 128
    if shown is not None:
        found |= mask_figures(shown, case.region, cell)
        found["iou_old"] = mask_figures(shown, case.edit.mask, cell)["iou"]
    if setting.editor == "mask":
        return found
    before, after = case.image, outcome.after
    if outcome.blend is not None:
        found |= blend_figures(outcome.blend, case.region, case.outside)
        found |= seam_figures(after, case.ideal.image, outcome.blend)
    found |= picture_figures(before, after, outcome.mask, case.outside)
    found["mse_picture"] = squared_error(before, after, np.ones_like(case.outside))
    found["mse_ideal"] = squared_error(case.ideal.image, after, case.region)
    if perceptual is not None:
        found["perceptual"] = perceptual(after, case.ideal.image)
    return found | judged(case, outcome, judge)


def judged(case: Case, outcome: Outcome, judge: Judge) -> Figures:
    """What the judge finds in the result, which has the case's size; see `figures`."""
    objects, index = case.scene.objects, case.edit.index
    seen = judge.look(np.stack([outcome.after] * len(objects)), boxes(case))
    kind, colour = seen.kinds[index] == case.edit.kind, seen.colours[index] == case.edit.colour
    others = all(
        (seen.kinds[i], seen.colours[i]) == (thing.kind, thing.colour)
        for i, thing in enumerate(objects)
        if i != index
    )
    return {
        "kind_right": float(kind),
        "colour_right": float(colour),
        "others_right": float(others),
        "success": float(kind and colour and others),
        "confidence": float(seen.confidence[index]),
    }
