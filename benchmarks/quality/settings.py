"""What is compared with what: every way of editing, as data.

A `Setting` names an editor and its options. `table` measures, at one setting for all edits;
`curves` varies strength and threshold as the paper's figures 4 and 6 do; `sweeps` vary one option
at a time, on scenes that measure nothing, to choose by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from diffedit.request import MASKED_METHODS

Editor = Literal["ours", "mask", "diffusers", "none", "vae", "ideal", "ideal-vae"]
"""Who edits: our pipeline; its mask stage alone; diffusers' pipeline; nobody; the VAE's round trip;
the scene drawn as it should be; and that through the VAE."""

STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
METHODS = ("diffedit", "masked-sdedit", "encode-decode", "sdedit")
RATIOS = (1.5, 3.0, 4.5)
"""Clip ratios that stand for the paper's mask thresholds 0.25, 0.5 and 0.75.

Clipping at r times the mean and thresholding at 0.5 is one threshold at r / 2 times the mean; the
paper's are shares of a map clipped at 3 means.
"""


@dataclass(frozen=True)
class Fixed:
    """The one setting that a table measures every edit at; chosen by `sweeps` for the demo."""

    steps: int = 50
    guidance: float = 7.5
    strength: float = 0.8
    ratio: float = 3.0
    noise: float = 0.5

    def options(self, method: str = "diffedit", **more: Any) -> dict[str, Any]:
        """Of `EditRequest`, with `more` on top."""
        found = {
            "method": method,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            "strength": self.strength,
        }
        if method in MASKED_METHODS:
            found["mask_thresholding_ratio"] = self.ratio
            found["mask_encode_strength"] = self.noise
        return found | more

    def __str__(self) -> str:
        return (
            f"N = {self.steps}, guidance {self.guidance:g}, strength {self.strength:g}, "
            f"clip ratio {self.ratio:g}, mask at noise {self.noise:g}"
        )


@dataclass(frozen=True)
class Setting:
    """One way of editing.

    Attributes:
        name: unique, printed.
        editor: who edits.
        options: of `EditRequest` for "ours" and "mask"; for "diffusers", see `theirs`.
        mask: "true" gives the editor the true region instead of letting it look for it; "shared"
            the mask it would find, looked for once for all settings that would find the same.
        source: whether it is told what is there (the reference text R).
        repeat: the prompt is the source text, so that a perfect editor changes nothing.
        keep: keep pictures, for the sheets.
    """

    name: str
    editor: Editor = "ours"
    options: Mapping[str, Any] = field(default_factory=dict)
    mask: Literal["found", "shared", "true"] = "found"
    source: bool = True
    repeat: bool = False
    keep: bool = False

    @property
    def key(self) -> str:
        """Everything that can change a result, as text."""
        return json.dumps([self.editor, dict(self.options), self.mask, self.source, self.repeat])


def table(fixed: Fixed) -> list[Setting]:
    """The comparison at one setting for every edit."""
    ours, bare = fixed.options(), fixed.options(composite=False)
    steps = {"num_inference_steps": fixed.steps}
    same = {**steps, "guidance_scale": fixed.guidance, "strength": fixed.strength}
    plain = {"invert_prompt": "", "invert_guidance": 1.0}
    return [
        Setting("input, untouched", "none"),
        Setting("VAE round trip", "vae"),
        Setting("ideal edit", "ideal"),
        Setting("ideal edit through the VAE", "ideal-vae"),
        Setting("DiffEdit", options=ours, keep=True),
        Setting("DiffEdit, no compositing", options=bare),
        Setting("DiffEdit, mask grown by a cell", options={**ours, "mask_dilation": 1}),
        Setting("DiffEdit, no source text", options=ours, source=False),
        Setting("DiffEdit, true mask", options=ours, mask="true"),
        Setting("DiffEdit, the program's defaults", options=steps),
        Setting("encode-decode", options=fixed.options("encode-decode", composite=False)),
        Setting("masked SDEdit", options=fixed.options("masked-sdedit", composite=False)),
        Setting("SDEdit", options=fixed.options("sdedit", composite=False)),
        Setting("diffusers, its defaults", "diffusers", steps, keep=True),
        Setting("diffusers, same guidance and strength", "diffusers", same),
        Setting("diffusers, plain inversion", "diffusers", {**same, **plain}),
    ]


def curves(fixed: Fixed) -> list[Setting]:
    """Every method at every strength without compositing, DiffEdit at other mask thresholds too.

    Deep strengths come first: an image's trajectory is encoded once.
    """
    points = [
        (method, ratio, strength)
        for method in METHODS
        for ratio in (ratios(fixed) if method == "diffedit" else (fixed.ratio,))
        for strength in reversed(STRENGTHS)
    ]
    found = [
        Setting(
            curve_name(method, strength, ratio),
            options=replace(fixed, strength=strength, ratio=ratio).options(method, composite=False),
            mask="shared" if method in MASKED_METHODS else "found",
        )
        for method, ratio, strength in points
    ]
    for strength in reversed(STRENGTHS):
        again = replace(fixed, strength=strength, guidance=1.0).options("encode-decode")
        found.append(Setting(f"reconstruct {strength:g}", options=again, repeat=True))
    return found


def ratios(fixed: Fixed) -> tuple[float, ...]:
    """The clip ratios that DiffEdit's curves are drawn at."""
    return tuple(sorted({fixed.ratio, *RATIOS}))


def curve_name(method: str, strength: float, ratio: float) -> str:
    """The name of one point of a curve."""
    clipped = f", clip ratio {ratio:g}" if method == "diffedit" else ""
    return f"{method}{clipped} at {strength:g}"


SWEPT: dict[str, tuple[Any, ...]] = {
    "num_maps_per_mask": (1, 2, 5, 10, 20),
    "mask_encode_strength": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "mask_thresholding_ratio": (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.5),
    "mask_dilation": (0, 1, 2),
    "guidance_scale": (1.0, 3.0, 5.0, 7.5, 10.0, 12.0, 15.0),
    "strength": (0.6, 0.7, 0.8, 0.9, 1.0),
    "num_inference_steps": (10, 20, 50),
}
MASK_OPTIONS = ("num_maps_per_mask", "mask_encode_strength", "mask_thresholding_ratio")
"""What only the mask stage looks at: it alone is run."""


def sweeps(fixed: Fixed) -> list[Setting]:
    """One option at a time around the fixed setting, and the mask without a source text."""
    found: list[Setting] = []
    for name, values in SWEPT.items():
        editor: Editor = "mask" if name in MASK_OPTIONS else "ours"
        found += [_swept(fixed, name, value, editor) for value in values]
    name = "mask_thresholding_ratio"
    return found + [_swept(fixed, name, value, "mask", source=False) for value in SWEPT[name]]


def _swept(fixed: Fixed, name: str, value: Any, editor: Editor, *, source: bool = True) -> Setting:
    told = "" if source else ", no source text"
    return Setting(f"{name}={value:g}{told}", editor, fixed.options(**{name: value}), source=source)
