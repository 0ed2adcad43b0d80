"""Which methods are compared, as data.

A `Setting` names an editor and its options. `presets` has the rows that decide which preset is the
default; `table` and `diffusers` compare all editors at one setting; `curves` varies strength and
mask threshold, as figures 4 and 6 of the paper do; `sweeps` varies one option at a time, on the
scenes for choosing settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from diffedit.presets import PRESETS
from diffedit.request import MASKED_METHODS, EditRequest

Editor = Literal["ours", "mask", "diffusers", "none", "vae", "ideal", "ideal-vae"]
"""Our pipeline; its mask stage alone; diffusers' pipeline; the input itself; the input through the
VAE; the perfect edit; the perfect edit through the VAE."""

STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
METHODS = ("diffedit", "masked-sdedit", "encode-decode", "sdedit")
RATIOS = (1.5, 3.0)
"""Clip ratios that correspond to the paper's mask thresholds 0.25 and 0.5.

Clipping at r times the mean and thresholding at 0.5 is one threshold at r / 2 times the mean; the
paper's are shares of a map clipped at 3 means.
"""


@dataclass(frozen=True)
class Fixed:
    """The options that all edits of a table share; the defaults are the paper's.

    Attributes:
        steps: N. guidance: the paper's for COCO and generated pictures; 5 for ImageNet.
        strength: the encoding ratio r. ratio: the clip ratio of the mask.
        noise: the noise level that masks are found at.
    """

    steps: int = 50
    guidance: float = 7.5
    strength: float = 0.8
    ratio: float = 3.0
    noise: float = 0.5

    @classmethod
    def chosen(cls, defaults: Fixed, **given: Any) -> Fixed:
        """`defaults` with every option that is given (not None) in its place."""
        return replace(defaults, **{name: one for name, one in given.items() if one is not None})

    def options(self, method: str = "diffedit", **more: Any) -> dict[str, Any]:
        """Options of `EditRequest`, with `more` on top. Those of no field here are the paper's."""
        chosen = {
            "preset": "paper",
            "method": method,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            "strength": self.strength,
        }
        if method in MASKED_METHODS:
            chosen["mask_thresholding_ratio"] = self.ratio
            chosen["mask_encode_strength"] = self.noise
        return chosen | more

    def __str__(self) -> str:
        return (
            f"N = {self.steps}, guidance {self.guidance:g}, strength {self.strength:g}, "
            f"clip ratio {self.ratio:g}, mask at noise {self.noise:g}"
        )


PAPER = Fixed()
"""What an edit set of your own runs with, at the strengths 0.5 to 0.9 and with n = 10 noises."""
DEMO = Fixed(guidance=5.0, strength=0.9, ratio=4.0, noise=0.7)
"""What the demo's scenes run with. It was the best on 40 development edits of guidance 4, 5 and
7.5, strength 0.8 and 0.9, clip ratio 3 to 4 and noise 0.6 and 0.7; it is measured on other
scenes."""


@dataclass(frozen=True)
class Setting:
    """One editor with its options.

    Attributes:
        name: unique, printed.
        options: of `EditRequest` for "ours" and "mask"; of `EditOptions` for "diffusers".
        mask: "found": the editor finds its mask; "shared": the same, computed once for all settings
            with the same mask options; "true": the editor gets the true region.
        source: whether the editor gets the source text (the reference text R).
        repeat: use the source text as the prompt, so that a perfect editor changes nothing.
        keep: keep pictures and heatmaps for the sheets.
    """

    name: str
    editor: Editor = "ours"
    options: Mapping[str, Any] = field(default_factory=dict)
    mask: Literal["found", "shared", "true"] = "found"
    source: bool = True
    repeat: bool = False
    keep: bool = False

    @property
    def method(self) -> str:
        """The method of our pipeline."""
        return EditRequest(b"", "-", **self.options).method

    @property
    def key(self) -> str:
        """Everything that can change a result, as text."""
        preset = asdict(PRESETS[EditRequest(b"", "-").preset])
        if self.editor in ("ours", "mask"):
            preset = asdict(PRESETS[EditRequest(b"", "-", **self.options).preset])
        facts = [dict(self.options), self.mask, self.source, self.repeat, preset]
        return json.dumps([self.editor, *facts])


PAPER_ROW, BARE_ROW = "DiffEdit", "balanced, no compositing"
DIFFUSERS_ROW = "diffusers, its defaults"
"""Names of settings: the one that the presets are compared with, the one that shows what the edit
does to the background, and the comparison."""


def presets(fixed: Fixed) -> list[Setting]:
    """The paper's setting and the cheaper ones: what decides the default preset."""
    balanced = preset(fixed, "balanced")
    return [
        Setting(PAPER_ROW, options=fixed.options(), keep=True),
        Setting("balanced", options=balanced, keep=True),  # its masks follow the picture's edges
        Setting("balanced, cleaned mask", options={**balanced, "mask_cleaning": "clean"}),
        Setting("draft", options=preset(fixed, "draft")),
        Setting("instant", options=preset(fixed, "instant")),
    ]


def table(fixed: Fixed) -> list[Setting]:
    """Our pipeline in every way at one setting. What is not about the paper's edit itself starts
    from the default preset, whose edits are a quarter of the work."""
    paper, ours = fixed.options(), preset(fixed, "balanced")

    def ablation(method: str) -> dict[str, Any]:
        return preset(fixed, "balanced", method=method, composite=False)

    return [
        Setting("input, untouched", "none"),
        Setting("VAE round trip", "vae"),
        Setting("ideal edit", "ideal"),
        Setting("ideal edit through the VAE", "ideal-vae"),
        *presets(fixed),
        Setting("DiffEdit, cleaned mask", options={**paper, "mask_cleaning": "clean"}),
        Setting("balanced, true mask", options=ours, mask="true"),
        Setting("balanced, paper's mask", options={**ours, "mask_cleaning": "none"}),
        Setting(BARE_ROW, options={**ours, "composite": False}),
        Setting("balanced, mask grown by a cell", options={**ours, "mask_dilation": 1}),
        Setting("balanced, no source text", options=ours, source=False),
        Setting("the program's defaults"),
        Setting("encode-decode", options=ablation("encode-decode")),
        Setting("masked SDEdit", options=ablation("masked-sdedit")),
        Setting("SDEdit", options=ablation("sdedit")),
    ]


def diffusers(fixed: Fixed) -> list[Setting]:
    """diffusers' pipeline, which takes as long as all others together: the default edit, and the
    inversion of the paper."""
    steps = {"steps": fixed.steps}
    same = {**steps, "guidance": fixed.guidance, "strength": fixed.strength}
    plain = {"invert_prompt": "", "invert_guidance": 1.0}
    return [
        Setting(DIFFUSERS_ROW, "diffusers", steps, keep=True),
        Setting("diffusers, plain inversion", "diffusers", {**same, **plain}),
    ]


def preset(fixed: Fixed, name: str, method: str = "diffedit", **more: Any) -> dict[str, Any]:
    """The options of a preset, which sets the number of steps; "instant" also sets strength and
    guidance."""
    if name == "instant":
        return {"preset": name, "mask_thresholding_ratio": fixed.ratio}
    options = fixed.options(method, preset=name, **more)
    del options["num_inference_steps"]
    return options


INSTANT = ((1.0, 0), (1.0, 1), (1.0, 2), (1.5, 0), (1.5, 1), (1.5, 2), (2.0, 1))
"""(factor on the field, refining rows) of the preset instant."""


def instant_name(scale: float, rows: int) -> str:
    """The name of a setting of `instant`."""
    return f"instant, field x {scale:g}, {4 + rows} rows"


def instant(fixed: Fixed) -> list[Setting]:
    """The preset instant: 4 rows for the field and the mask, and its refining rows."""
    return [
        Setting(
            instant_name(scale, rows),
            options={**preset(fixed, "instant"), "step_scale": scale, "refining_rows": rows},
            keep=True,
        )
        for scale, rows in INSTANT
    ]


def curves(fixed: Fixed) -> list[Setting]:
    """Every method at every strength without compositing, DiffEdit at other mask thresholds too.

    High strengths come first: the trajectory of a picture is then encoded once.
    """
    chosen = []
    for method in METHODS:
        for ratio in ratios(fixed) if method == "diffedit" else (fixed.ratio,):
            for strength in reversed(STRENGTHS):
                point = replace(fixed, strength=strength, ratio=ratio)
                name = curve_name(method, strength, ratio)
                mask = "shared" if method in MASKED_METHODS else "found"
                options = point.options(method, composite=False)
                chosen.append(Setting(name, options=options, mask=mask))  # type: ignore[arg-type]
    for strength in reversed(STRENGTHS):
        again = replace(fixed, strength=strength, guidance=1.0).options("encode-decode")
        chosen.append(Setting(f"reconstruct {strength:g}", options=again, repeat=True))
    return chosen


def ratios(fixed: Fixed) -> tuple[float, ...]:
    """The clip ratios of DiffEdit's curves."""
    return tuple(sorted({fixed.ratio, *RATIOS}))


def curve_name(method: str, strength: float, ratio: float) -> str:
    """The name of one point of a curve."""
    clipped = f", clip ratio {ratio:g}" if method == "diffedit" else ""
    return f"{method}{clipped} at {strength:g}"


SWEPT: dict[str, tuple[Any, ...]] = {
    "num_maps_per_mask": (1, 2, 5, 10),
    "mask_encode_strength": (0.2, 0.3, 0.5, 0.6, 0.7, 0.8),
    "mask_thresholding_ratio": (1.0, 1.5, 2.0, 3.0, 4.5),
    "mask_dilation": (0, 1, 2),
    "guidance_scale": (1.0, 3.0, 5.0, 7.5, 15.0),
    "strength": (0.6, 0.7, 0.8, 0.9, 1.0),
    "num_inference_steps": (10, 20, 50),
}
MASK_OPTIONS = ("num_maps_per_mask", "mask_encode_strength", "mask_thresholding_ratio")
"""Options of the mask stage: sweeps over them run that stage only."""


def sweeps(fixed: Fixed) -> list[Setting]:
    """One option at a time around the fixed setting, and the mask without a source text."""
    chosen: list[Setting] = []
    for name, values in SWEPT.items():
        editor: Editor = "mask" if name in MASK_OPTIONS else "ours"
        chosen += [_swept(fixed, name, value, editor) for value in values]
    name = "mask_thresholding_ratio"
    return chosen + [_swept(fixed, name, value, "mask", source=False) for value in SWEPT[name]]


def _swept(fixed: Fixed, name: str, value: Any, editor: Editor, *, source: bool = True) -> Setting:
    suffix = "" if source else ", no source text"
    options = fixed.options(**{name: value})
    return Setting(f"{name}={value:g}{suffix}", editor, options, source=source)
