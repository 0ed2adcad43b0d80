"""Every figure of one edit of the demo's domain, by name: what the tables are made of."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.cases import Case, boxes
from benchmarks.quality.editors import Outcome
from benchmarks.quality.measures import Figures, mask_figures, picture_figures, squared_error
from benchmarks.quality.settings import Setting
from demo.judge import Judge


def figures(setting: Setting, case: Case, outcome: Outcome, judge: Judge, cell: int) -> Figures:
    """What is known of an edit; a mask alone gives only the mask's figures.

    `success` is what a user wants: the right kind and the right colour where the object stood, and
    every other object still what it was, all three by the judge's word.
    """
    found: Figures = {}
    if outcome.mask is not None:
        found |= mask_figures(outcome.mask, case.region, cell)
        found["iou_old"] = mask_figures(outcome.mask, case.edit.mask, cell)["iou"]
    if setting.editor == "mask":
        return found
    before, after = case.image, outcome.after
    found |= picture_figures(before, after, outcome.mask, case.outside)
    found["mse_picture"] = squared_error(before, after, np.ones_like(case.outside))
    found["mse_ideal"] = squared_error(case.ideal.image, after, case.region)
    return found | _verdict(case, outcome, judge)


def _verdict(case: Case, outcome: Outcome, judge: Judge) -> Figures:
    objects, index = case.scene.objects, case.edit.index
    seen = judge.look(np.stack([outcome.after] * len(objects)), boxes(case))
    told = list(zip(seen.kinds, seen.colours, strict=True))
    kind, colour = seen.kinds[index] == case.edit.kind, seen.colours[index] == case.edit.colour
    others = all(
        told[i] == (thing.kind, thing.colour) for i, thing in enumerate(objects) if i != index
    )
    return {
        "kind_right": float(kind),
        "colour_right": float(colour),
        "others_right": float(others),
        "success": float(kind and colour and others),
        "confidence": float(seen.confidence[index]),
    }
