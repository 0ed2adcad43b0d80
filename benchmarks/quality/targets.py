"""The targets of the quality benchmark: functions of what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.quality import settings
from benchmarks.quality.settings import (
    BARE_ROW,
    DIFFUSERS_ROW,
    STRENGTHS,
    Fixed,
    curve_name,
)
from benchmarks.quality.summary import Estimate, Measured
from benchmarks.quality.work import Columns
from benchmarks.schema import Check

CHEAPER = (("balanced", 0.85, 36), ("draft", 0.77, 20), ("instant", 0.60, 8))
"""(setting, least success, most rows) of each preset that is cheaper than the paper's."""


def preset_targets(measured: Measured, ahead: Mapping[str, Mapping[str, Estimate]]) -> list[Check]:
    """Whether each preset succeeds often enough within its rows, and balanced not less often than
    the paper's setting.

    Args:
        measured: setting -> figure -> estimate.
        ahead: setting -> "success" -> its paired difference from the paper's setting.
    """
    checks = []
    for name, success, rows in CHEAPER:
        found, cost = measured[name]["success"], measured[name]["rows"]
        met = found.mean >= success and cost.mean <= rows
        text = f"{name}: success {found} in {cost:.1f} rows ({success:.2f} or more in {rows})"
        checks.append(Check(text, bool(met)))
    behind = ahead["balanced"]["success"]
    text = f"balanced ahead of the paper's setting by {behind:+.3f} (interval reaches 0)"
    return [*checks, Check(text, bool(behind.high >= 0))]


def targets(measured: Measured, columns: Mapping[str, Columns]) -> list[Check]:
    """The targets of this model and the default preset, with the measured values."""
    ours, bare, cleaned = (
        measured[name] for name in ("balanced", BARE_ROW, "DiffEdit, cleaned mask")
    )
    baseline, vae = measured[DIFFUSERS_ROW], measured["VAE round trip"]
    outside, false = bare["outside_mask_db"], ours["false_area"]
    near = vae["background_db"].mean - bare["background_db"].mean
    changed = int(columns["balanced"]["changed_outside_mask"].sum())
    apart = ours["success"].low > baseline["success"].high
    rows: dict[str, Any] = {
        f"mask IoU {ours['iou']} (0.70 or more)": ours["iou"].mean >= 0.7,
        f"mask recall {ours['recall']} (0.9 or more)": ours["recall"].mean >= 0.9,
        f"share of the picture falsely masked {false:.3f} (0.02 or less)": false.mean <= 0.02,
        f"edit success {ours['success']} (0.85 or more)": ours["success"].mean >= 0.85,
        f"the paper's with a cleaned mask {cleaned['success']} (0.82 or more)": (
            cleaned["success"].mean >= 0.82
        ),
        f"seam {ours['seam']} (1.3 or less)": ours["seam"].mean <= 1.3,
        f"diffusers at its defaults {baseline['success']} (below, intervals apart)": apart,
        f"pixels changed outside the mask {changed} (none)": changed == 0,
        f"background outside the mask, no compositing, {outside:.1f} dB (33 or more)": (
            outside.mean >= 33
        ),
        f"background behind the VAE's own round trip by {near:.1f} dB (at most 1)": near <= 1,
    }
    return [Check(text, bool(met)) for text, met in rows.items()]


def focus_targets(measured: Measured) -> list[Check]:
    """Whether an edit with focus is nearly as sharp as its surroundings and as the perfect edit."""
    found = measured["balanced, with focus"]
    return [
        Check(f"with focus, {text} {found[name]} (0.80 or more)", bool(found[name].mean >= 0.8))
        for name, text in (
            ("contrast", "gradient energy inside the mask, of the surroundings'"),
            ("sharpness", "gradient energy inside the mask, of the perfect edit's"),
        )
    ]


def above(measured: Measured, fixed: Fixed) -> list[Check]:
    """Whether DiffEdit's curve is above the others' at each strength from 0.5 to 0.9.

    Above: no other method at any strength succeeds as often and keeps the background as well.
    """
    found = []
    for strength in (s for s in STRENGTHS if 0.5 <= s <= 0.9):
        ours = measured[curve_name("diffedit", strength, fixed.ratio)]
        better = [
            name
            for method in settings.METHODS[1:]
            for name in (curve_name(method, s, fixed.ratio) for s in STRENGTHS)
            if measured[name]["success"].mean >= ours["success"].mean
            and measured[name]["background_db"].mean >= ours["background_db"].mean
        ]
        text = f"DiffEdit at {strength:g} is on the outside of the trade-off"
        text += f", but for {', '.join(better)}" if better else ""
        found.append(Check(text, not better))
    return found
