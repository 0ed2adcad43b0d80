"""The run on the demo's scenes: measure, print tables and targets, draw plots and sheets."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.quality import plots, settings, sheets
from benchmarks.quality.cases import DEV, case
from benchmarks.quality.editors import Models
from benchmarks.quality.settings import STRENGTHS, Fixed, Setting, curve_name
from benchmarks.quality.summary import (
    Estimate,
    Rows,
    as_json,
    difference,
    estimate,
    markdown_table,
    summarise,
    text_table,
)
from benchmarks.quality.work import Columns, measure
from demo import scenes
from demo.judge import Judge, JudgeError
from engine.errors import DiffEditError

Measured = dict[str, dict[str, Estimate]]

OURS, THEIRS = "DiffEdit", "diffusers, its defaults"
EDITS = {"success": ".2f", "kind_right": ".2f", "colour_right": ".2f", "others_right": ".2f"}
BACKGROUNDS = {
    "background_db": ".1f",
    "outside_mask_db": ".1f",
    "equal": ".2f",
    "ideal_db": ".1f",
}
MASKS = dict.fromkeys(("iou", "iou_old", "iou_dilated", "recall", "precision", "area_ratio"), ".2f")


class Runner:
    """One run: its options, and where everything goes."""

    def __init__(self, args: argparse.Namespace, models: Models) -> None:
        if args.count < 2:
            raise DiffEditError(f"--count is {args.count}, but an interval needs 2 edits or more.")
        self.args, self.models = args, models
        self.fixed = Fixed(args.steps, args.guidance, args.strength, args.ratio, args.noise)
        self.quick = replace(self.fixed, steps=args.curve_steps)
        self.found: dict[str, Any] = {}
        self.page: list[str] = []  # what is printed, as Markdown
        self._resume = args.resume

    def table(self) -> None:
        """Everybody at one setting."""
        chosen = settings.table(self.fixed)
        columns = self._measure(chosen, scenes.evaluation_seeds(self.args.count))
        measured = {name: summarise(found) for name, found in columns.items()}
        self._say(
            f"{self.args.count} edits of scenes nothing was trained or chosen on; {self.fixed}"
        )
        for figures in (EDITS, BACKGROUNDS, {**MASKS, "false_area": ".3f"}):
            rows = [(n, m) for n, m in measured.items() if set(figures) & set(m)]
            self._show(rows, figures)
        self._split(columns[OURS])
        ahead = {
            name: difference(columns[OURS], found, "success").as_list()
            for name, found in columns.items()
            if "diffusers" in name
        }
        verdicts = targets(measured, columns)
        self._say(*(line for line, _ in verdicts))
        sheets.best_and_worst(columns[OURS], self.args.out / "best-and-worst.png")
        both = {name: columns[name] for name in (OURS, THEIRS)}
        sheets.side_by_side(
            both, range(min(16, self.args.count)), self.args.out / "side-by-side.png"
        )
        if self.args.show:
            sheets.chosen(columns[OURS], self.args.show, self.args.out / "shown.png")
        self.found["table"] = as_json(measured)
        self.found["ahead_of"] = ahead
        self.found["targets"] = dict(verdicts)

    def _split(self, columns: Columns) -> None:
        """Success by what was asked and by how much stands in the picture."""
        cases = [case(int(seed)) for seed in columns["seed"]]
        changes = np.array([c.edit.change for c in cases])
        counts = np.array([len(c.scene.objects) for c in cases])
        groups = {change: changes == change for change in ("recolour", "replace")}
        groups |= {f"{n} object{'s' * (n > 1)}": counts == n for n in (1, 2, 3)}
        found = {
            name: {f: estimate(columns[f][where]) for f in ("success", "iou", "recall")}
            for name, where in groups.items()
            if where.any()
        }
        self._show(list(found.items()), dict.fromkeys(("success", "iou", "recall"), ""))
        self.found["groups"] = as_json(found)

    def curves(self) -> None:
        """Every method at every strength: the paper's figures 4 and 6."""
        chosen = settings.curves(self.quick)
        columns = self._measure(chosen, scenes.evaluation_seeds(self.args.count))
        measured = {name: summarise(found) for name, found in columns.items()}
        plots.trade_off(measured, self.quick, self.args.out / "trade-off.png")
        edits = [(n, m) for n, m in measured.items() if not n.startswith("reconstruct")]
        self._say(f"At other strengths, without compositing; {self.quick}")
        self._show(edits, {"success": ".2f", "background_db": ".1f", "ideal_db": ".1f"})
        again = [(n, m) for n, m in measured.items() if n.startswith("reconstruct")]
        self._say("Encode-decode with the source text and no guidance: what a round trip loses")
        self._show(again, {"picture_db": ".1f"})
        verdicts = above(measured, self.quick)
        self._say(*(line for line, _ in verdicts))
        self.found["curves"] = as_json(measured)
        self.found["above"] = dict(verdicts)

    def sweeps(self) -> None:
        """One option at a time, on scenes that measure nothing."""
        chosen = settings.sweeps(self.quick)
        columns = self._measure(chosen, range(DEV, DEV + self.args.count))
        measured = {name: summarise(found) for name, found in columns.items()}
        plots.sweeps(measured, self.args.out / "sweeps.png")
        self._say(f"One option at a time, on {self.args.count} other scenes, around {self.quick}")
        figures = {"success": ".2f", "iou": ".2f", "recall": ".2f", "background_db": ".1f"}
        self._show(list(measured.items()), figures)
        self.found["sweeps"] = as_json(measured)

    def _say(self, *lines: str) -> None:
        """Print sentences, and keep them for the page."""
        print("\n" + "\n".join(lines))
        self.page.append("\n".join(f"- {line}" for line in lines) if lines[1:] else lines[0])

    def _show(self, rows: Rows, figures: Mapping[str, str]) -> None:
        """Print a table, and keep it for the page."""
        print("\n" + text_table(rows, figures))
        self.page.append(markdown_table(rows, figures))

    def _measure(self, chosen: Sequence[Setting], seeds: Sequence[int]) -> dict[str, Columns]:
        root, workers = self.args.out / "parts", self.args.workers
        resume, self._resume = self._resume, True  # the parts of this run's own share a folder
        return measure(self.models, chosen, seeds, root=root, workers=workers, resume=resume)


def run(args: argparse.Namespace, models: Models) -> dict[str, Any]:
    """All parts asked for; what is found so far is kept in `--out`, even if a later part fails."""
    runner = Runner(args, models)
    try:
        Judge.open()
    except JudgeError as error:
        raise DiffEditError(f"{error}.") from None
    args.out.mkdir(parents=True, exist_ok=True)
    for part in args.parts:
        getattr(runner, part)()
        (args.out / f"{part}.json").write_text(json.dumps(runner.found) + "\n")
        (args.out / "tables.md").write_text("\n\n".join(runner.page) + "\n")
    print(f"\nplots, sheets and tables: {args.out}")
    return {
        "model": str(args.model),
        "backend": args.backend,
        "seeds": {
            part: [DEV if part == "sweeps" else scenes.EVALUATION, args.count]
            for part in args.parts
        },
        "steps": args.steps,
        "curve_steps": args.curve_steps,
        "guidance_scale": args.guidance,
        "strength": args.strength,
        "mask_thresholding_ratio": args.ratio,
        "mask_encode_strength": args.noise,
        **runner.found,
    }


def targets(measured: Mapping[str, Mapping[str, Estimate]], columns: Mapping[str, Columns]) -> Any:
    """What this model and method set out to reach: sentences with their figures, and whether."""
    ours, bare = measured[OURS], measured["DiffEdit, no compositing"]
    theirs, vae = measured[THEIRS], measured["VAE round trip"]
    outside = bare["outside_mask_db"]
    ideal = columns["VAE round trip"]["mse_background"]
    near = vae["background_db"].mean - bare["background_db"].mean
    changed = int(columns[OURS]["changed_outside_mask"].sum())
    rows = [
        (f"mask IoU {ours['iou']} (0.75 or more)", ours["iou"].mean >= 0.75),
        (f"mask recall {ours['recall']} (0.9 or more)", ours["recall"].mean >= 0.9),
        (
            f"share of the picture falsely masked {ours['false_area']:.3f} (0.02 or less)",
            ours["false_area"].mean <= 0.02,
        ),
        (f"edit success {ours['success']} (0.80 or more)", ours["success"].mean >= 0.8),
        (
            f"diffusers at its defaults {theirs['success']} (below, intervals apart)",
            ours["success"].low > theirs["success"].high,
        ),
        (f"pixels changed outside the mask {changed} (none)", changed == 0),
        (
            f"background outside the mask, no compositing, {outside:.1f} dB (33 or more)",
            outside.mean >= 33,
        ),
        (
            f"background behind the VAE's own round trip by {near:.1f} dB (at most 1)",
            bool(len(ideal)) and near <= 1,
        ),
    ]
    return [(f"{'reached' if met else 'MISSED '}  {text}", bool(met)) for text, met in rows]


def above(measured: Mapping[str, Mapping[str, Estimate]], fixed: Fixed) -> list[tuple[str, bool]]:
    """Whether DiffEdit's curve lies above the others' at each strength from 0.5 to 0.9.

    Above: no other method at any strength both succeeds as often and keeps the background as well.
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
        found.append((f"{'reached' if not better else 'MISSED '}  {text}", not better))
    return found
