"""The run on the demo's scenes: measure, print tables and targets, draw plots and sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.configuration import Configuration, open_pipeline
from benchmarks.machine import machine
from benchmarks.quality import focus, plots, settings, sheets
from benchmarks.quality.cases import DEV, case
from benchmarks.quality.settings import DIFFUSERS_ROW, PAPER_ROW, Fixed, Setting
from benchmarks.quality.summary import (
    Measured,
    ahead,
    difference,
    estimate,
    head,
    measurements,
    summarise,
    table,
)
from benchmarks.quality.targets import above, focus_targets, preset_targets, targets
from benchmarks.quality.work import CHUNK, Columns, measure
from benchmarks.schema import Check, Measurement, Result, save
from benchmarks.workload import model_facts
from demo import scenes
from demo.judge import Judge, JudgeError
from engine.errors import DiffEditError

PARTS = ("presets", "table", "curves", "sweeps", "instant", "focus", "speed")
EDITS = dict.fromkeys(("success", "kind_right", "colour_right", "others_right"), ".2f")
BACKGROUNDS = {
    "background_db": ".1f",
    "outside_mask_db": ".1f",
    "equal": ".2f",
    "ideal_db": ".1f",
}
BORDERS = {"leak": ".3f", "miss": ".3f", "seam": ".2f", "perceptual": ".4f"}
COSTS = {"rows": ".1f", "seconds": ".2f"}
BUSY = (
    "Seconds: one edit alone, while other processes may run; --parts speed has a quiet machine's."
)
SPEED_EDITS = 5
"""Edits whose seconds are measured, one after the other."""
PHOTOGRAPHS = 20
"""Large photographs that are edited, at most."""
DEFAULT_ROW = "balanced"
"""The setting of the default preset, which sheets and groups show."""
MASKS = dict.fromkeys(("iou", "iou_old", "iou_dilated", "recall", "precision", "area_ratio"), ".2f")


@dataclass
class SceneRun:
    """One run: its options, the measurements so far, and the tables as Markdown.

    Attributes:
        parts: of `PARTS`.
        count: the number of edits.
        sample: the number of edits of curves, sweeps and diffusers' pipeline, at most `count`.
        curve_steps: N of curves and sweeps.
        fixed: the options of the edits.
        show: seeds of edits to draw.
        out: the folder for everything that is written.
        resume: whether to keep the finished parts of an earlier run.
    """

    model: Path
    configuration: Configuration
    parts: Sequence[str]
    count: int
    sample: int
    curve_steps: int
    fixed: Fixed
    show: Sequence[int]
    workers: int
    out: Path
    resume: bool
    rows: list[Measurement] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    page: list[str] = field(default_factory=list)

    def run(self) -> Result:
        """Run the parts; the result and the tables are written to `out` after each."""
        if self.count < 2:
            raise DiffEditError(
                f"--count is {self.count}, but an interval needs 2 edits; use 2 or more."
            )
        try:
            Judge.open()
        except JudgeError as error:
            raise DiffEditError(f"{error}.") from None
        self.out.mkdir(parents=True, exist_ok=True)
        for part in self.parts:
            getattr(self, part)()
            save(self.out / f"{part}.json", [self.result()])
            (self.out / "tables.md").write_text("\n\n".join(self.page) + "\n")
        print(f"\nplots, sheets and tables: {self.out}")
        return self.result()

    @property
    def quick(self) -> Fixed:
        """The options of curves and sweeps."""
        return replace(self.fixed, steps=self.curve_steps)

    def result(self) -> Result:
        """The result so far."""
        chosen = self.fixed.options()
        del chosen["preset"], chosen["method"], chosen["num_inference_steps"]
        return Result(
            "quality",
            machine(),
            {
                "seeds": {part: self._seeds(part) for part in self.parts},
                "sample": self.sample,
                "steps": self.fixed.steps,
                "curve_steps": self.curve_steps,
                **chosen,
            },
            {"backend": self.configuration.backend, "dtype": self.configuration.dtype},
            model_facts(self.model),
            tuple(self.rows),
            tuple(self.checks),
        )

    def _seeds(self, part: str) -> list[int]:
        """The first seed and the number of edits of a part."""
        counts = {
            "curves": self.sample,
            "sweeps": self.sample,
            "focus": min(self.sample, PHOTOGRAPHS),
            "speed": min(self.count, SPEED_EDITS),
        }
        return [DEV if part == "sweeps" else scenes.EVALUATION, counts.get(part, self.count)]

    def _range(self, part: str) -> range:
        first, count = self._seeds(part)
        return range(first, first + count)

    def presets(self) -> None:
        """The settings that decide the default preset, each compared with the paper's."""
        chosen = settings.presets(self.fixed)
        columns, measured = self._measure(chosen, self._range("presets"))
        self._say(f"{self.count} edits under each preset; {self.fixed}", BUSY)
        self._show(measured, {**COSTS, "success": ".2f", "iou": ".2f", "recall": ".2f"})
        self._show(measured, {**COSTS, "ideal_db": ".1f", **BORDERS})
        self._keep("presets", measured)
        plots.rows(measured, self.out / "presets.png")
        paper = columns.pop(PAPER_ROW)
        found = {
            name: {f: difference(one, paper, f) for f in ("success", "iou")}
            for name, one in columns.items()
        }
        self._say("Difference from the paper's setting, edit by edit")
        self._show(found, {"success": "+.3f", "iou": "+.3f"})
        self._keep("ahead of the paper", found)
        self._check(preset_targets(measured, found))

    def speed(self) -> None:
        """Rows and seconds of every editor: a few edits in one process, one after the other."""
        every = (*settings.table(self.fixed), *settings.diffusers(self.fixed))
        chosen = [s for s in every if s.editor in ("ours", "diffusers")]
        _, measured = self._measure(chosen, self._range("speed"), chunk=1, workers=1)
        self._say(f"Rows and seconds of an edit alone, with nothing cached; {self.fixed}")
        self._show(measured, COSTS)
        costs = {n: {f: m[f] for f in COSTS} for n, m in measured.items()}
        self._keep("speed", costs, self._seeds("speed")[1])

    def table(self) -> None:
        """All editors at one setting; diffusers' pipeline on the first edits only."""
        columns, ours = self._measure(settings.table(self.fixed), self._range("table"))
        some = self._range("table")[: self.sample]
        few, theirs = self._measure(settings.diffusers(self.fixed), some)
        measured = {**ours, **theirs}
        self._say(f"{self.count} edits, {self.sample} by diffusers; {self.fixed}", BUSY)
        for figures in (EDITS, BACKGROUNDS, {**MASKS, "false_area": ".3f"}, BORDERS):
            shown = {n: m for n, m in measured.items() if set(figures) & set(m)}
            self._show(shown, {**COSTS, **figures})
        self._keep("table", ours)
        self._keep("table", theirs, self.sample)
        self._groups(columns[DEFAULT_ROW])
        first = {name: head(columns[name], self.sample) for name in (DEFAULT_ROW, PAPER_ROW)}
        self._keep("ahead of", ahead(first, few, "success"), self.sample)
        self._check(targets(measured, columns))
        self._sheets(columns, {**first, DIFFUSERS_ROW: few[DIFFUSERS_ROW]})
        plots.rows(measured, self.out / "rows.png")

    def _groups(self, columns: Columns) -> None:
        """Success by the kind of edit and by the number of objects."""
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
        self._show(found, dict.fromkeys(("success", "iou", "recall"), ""))
        self._keep("groups", found)

    def _sheets(self, columns: Mapping[str, Columns], first: Mapping[str, Columns]) -> None:
        sheets.best_and_worst(columns[DEFAULT_ROW], self.out / "best-and-worst.png")
        sheets.side_by_side(first, range(min(16, self.sample)), self.out / "side-by-side.png")
        if self.show:
            sheets.chosen(columns[DEFAULT_ROW], self.show, self.out / "shown.png")

    def curves(self) -> None:
        """Every method at every strength: figures 4 and 6 of the paper."""
        chosen = settings.curves(self.quick)
        _, measured = self._measure(chosen, self._range("curves"))
        plots.trade_off(measured, self.quick, self.out / "trade-off.png")
        edits = {n: m for n, m in measured.items() if not n.startswith("reconstruct")}
        self._say(f"{self.sample} edits at other strengths, without compositing; {self.quick}")
        figures = {"success": ".2f", "background_db": ".1f", "ideal_db": ".1f"}
        self._show(edits, {**COSTS, **figures})
        again = {n: m for n, m in measured.items() if n not in edits}
        self._say("Encode-decode with the source text and no guidance: the loss of a round trip")
        self._show(again, {"picture_db": ".1f"})
        self._keep("curves", measured, self.sample)
        self._check(above(measured, self.quick))

    def sweeps(self) -> None:
        """One option at a time, on the scenes for choosing settings."""
        _, measured = self._measure(settings.sweeps(self.quick), self._range("sweeps"))
        plots.sweeps(measured, self.out / "sweeps.png")
        self._say(f"One option at a time, on {self.sample} other scenes, around {self.quick}")
        figures = {"success": ".2f", "iou": ".2f", "recall": ".2f", "background_db": ".1f"}
        self._show(measured, {**COSTS, **figures})
        self._keep("sweeps", measured, self.sample)

    def focus(self) -> None:
        """Photographs of 12 megapixels, without and with a window around the mask."""
        chosen = settings.preset(self.fixed, "balanced")
        with open_pipeline(self.model, self.configuration) as pipe:
            sheet = self.out / "focus.png"
            count = self._seeds("focus")[1]
            found = focus.measure(pipe, chosen, focus.seeds(count), sheet)
        measured = {name: focus.summarise(columns) for name, columns in found.items()}
        height, width = focus.SIZE
        options = ", ".join(f"{name}={value}" for name, value in chosen.items())
        self._say(f"{count} edits of photographs of {width} x {height}; {options}", BUSY)
        self._show(measured, focus.FIGURES)
        self._keep("focus", measured, count)
        self._check(focus_targets(measured))

    def instant(self) -> None:
        """The preset instant: at most 8 rows per edit."""
        chosen = settings.instant(self.fixed)
        columns, measured = self._measure(chosen, self._range("instant"))
        self._say(f"The preset instant on {self.count} edits; clip ratio {self.fixed.ratio:g}")
        figures = {"success": ".2f", "iou": ".2f", "recall": ".2f", "ideal_db": ".1f"}
        self._show(measured, {**COSTS, **figures})
        self._keep("instant", measured)
        sheets.refining_rows(columns, self.out / "instant.png")
        best = max((m["success"] for m in measured.values()), key=lambda one: one.mean)
        self._check([Check(f"instant success {best} (0.60 or more)", bool(best.mean >= 0.6))])

    def _say(self, *lines: str) -> None:
        """Print sentences, and add them to the page."""
        print("\n" + "\n".join(lines))
        self.page.append("\n".join(f"- {line}" for line in lines) if lines[1:] else lines[0])

    def _show(self, rows: Measured, figures: Mapping[str, str]) -> None:
        """Print a table, and add it to the page."""
        self.page.append(table(rows, figures))
        print("\n" + self.page[-1])

    def _keep(self, part: str, measured: Measured, count: int | None = None) -> None:
        self.rows += measurements(part, measured, self.count if count is None else count)

    def _check(self, checks: Sequence[Check]) -> None:
        self._say(*map(str, checks))
        self.checks += checks

    def _measure(
        self,
        chosen: Sequence[Setting],
        seeds: Sequence[int],
        *,
        chunk: int = CHUNK,
        workers: int | None = None,
    ) -> tuple[dict[str, Columns], Measured]:
        """The values of every case, and their means, by the settings' names."""
        columns = measure(
            self.model,
            self.configuration,
            chosen,
            seeds,
            root=self.out / "parts",
            workers=workers or self.workers,
            resume=self.resume,
            chunk=chunk,
        )
        self.resume = True  # parts of this run share a folder
        return columns, {name: summarise(found) for name, found in columns.items()}
