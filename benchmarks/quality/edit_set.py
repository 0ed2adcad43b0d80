"""Measure your own edits with any checkpoint, by the protocols of the paper.

The edits are a file of `diffedit-trt batch`. A line's `mask_image` is the true mask, with which the
result is compared; `out` is not used. A line without a preset uses "paper". The table has one row
for each strength. A picture that cannot be read fails only its own edit.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from benchmarks.configuration import Configuration, open_pipeline
from benchmarks.machine import machine
from benchmarks.quality.measures import Bools, mask_figures, picture_figures
from benchmarks.quality.perceptual import Measure, open_measures
from benchmarks.quality.settings import Fixed
from benchmarks.quality.summary import Estimate, estimate, measurements, summarise, table
from benchmarks.report import remaining
from benchmarks.schema import NotRun, Result
from benchmarks.workload import model_facts
from diffedit import DiffEditPipeline, EditRequest, EditResult
from diffedit.cli.batch_file import read_lines
from diffedit.imaging import photograph
from diffedit.imaging.mask_reader import read_mask
from diffedit.request import InvalidRequest
from engine.errors import DiffEditError

IN_FLIGHT = 8
FIGURES = {
    "lpips": ".3f",
    "clip": ".2f",
    "background_db": ".1f",
    "equal": ".2f",
    "mask_share": ".2f",
    "iou": ".2f",
    "recall": ".2f",
}


@dataclass(frozen=True, eq=False)
class Entry:
    """A checked line; its pictures have not been opened.

    Attributes:
        line: its number in the file, from 1.
        request: the edit, without its photograph.
        mask: the file of the true mask, or None.
    """

    line: int
    request: EditRequest
    image: Path
    mask: Path | None

    def load(self) -> tuple[Image, Bools | None]:
        """The photograph as RGB, and its true mask, bool [H, W]. Raises InvalidRequest."""
        photo = photograph.read(self.image).rgb
        if self.mask is None:
            return photo, None
        return photo, np.asarray(read_mask(self.mask, photo.size).image) > 0


def read_set(path: Path) -> list[Entry]:
    """Check every line of a batch file. Raises InvalidRequest, which names the line."""
    entries = []
    for line in read_lines(str(path)):
        try:
            image, mask = line.path("image"), line.path("mask_image")
            if image is None:
                raise InvalidRequest("it has no image; add the path of a file.")
            chosen = replace(line, fields={"preset": "paper", **line.fields})
            entries.append(Entry(line.number, chosen.request(), image, mask))
        except InvalidRequest as error:
            raise InvalidRequest(f"Line {line.number} of {path}: {error}") from None
    return entries


@dataclass(frozen=True)
class SetRun:
    """The options of a run; of `fixed`, the strength is not used."""

    model: Path
    configuration: Configuration
    edits: Path
    fixed: Fixed
    strengths: Sequence[float]
    method: str
    source: bool
    save: Path | None
    clip: str | None
    lpips: str | None

    def run(self) -> Result:
        """Run every entry at every strength, and print the table."""
        entries = read_set(self.edits)
        for strength in self.strengths:  # refuses bad options before a model is loaded
            EditRequest(b"", "-", **self._options(strength))
        if self.save is not None:
            self.save.mkdir(parents=True, exist_ok=True)
        failed: dict[int, str] = {}
        pipe = open_pipeline(self.model, self.configuration)
        total, number = len(entries) * len(self.strengths), itertools.count(1)
        with pipe, remaining("quality: edits", total) as show:
            learned, missing = open_measures(self.lpips, self.clip, pipe.networks.device)
            measured = {
                f"strength {strength:g}": self._measure(
                    pipe, learned, entries, strength, failed, lambda: show(next(number))
                )
                for strength in self.strengths
            }
        print(
            "\n".join([*failed.values(), *(f"{n}: not measured: {r}" for n, r in missing.items())])
        )
        done = len(entries) - len(failed)
        if not done:
            raise DiffEditError(f"No edit of {self.edits} was made; see the reasons above.")
        print(f"\n{done} of {len(entries)} edits, mean and 95 % interval")
        shown = {f: spec for f, spec in FIGURES.items() if any(f in m for m in measured.values())}
        print(table(measured, shown))
        settings = {key: value for key, value in self._options(0).items() if key != "strength"}
        return Result(
            "quality",
            machine(),
            {"edits": len(entries), **settings, "source": self.source},
            {"backend": self.configuration.backend, "dtype": self.configuration.dtype},
            model_facts(self.model),
            tuple(measurements("edit set", measured, done)),
            not_run=tuple(NotRun(f"line {line}", reason) for line, reason in failed.items()),
        )

    def _options(self, strength: float) -> dict[str, Any]:
        """Options of `EditRequest`, in place of those of a line; n and dilation are the paper's."""
        masks = {"num_maps_per_mask": 10, "mask_dilation": 0}
        options = replace(self.fixed, strength=strength).options(self.method, **masks)
        del options["preset"]  # each line has its own
        return options

    def _measure(
        self,
        pipe: DiffEditPipeline,
        learned: dict[str, Measure],
        entries: Sequence[Entry],
        strength: float,
        failed: dict[int, str],
        done: Callable[[], None],
    ) -> dict[str, Estimate]:
        """Every figure of the set at one strength; adds the lines that fail to `failed`, and calls
        `done` after each edit."""
        columns: dict[str, list[float]] = {}
        running: deque[tuple[Entry, Image, Bools | None]] = deque()

        def requests() -> Iterator[EditRequest]:
            chosen = self._options(strength) | ({} if self.source else {"source_prompt": ""})
            for entry in entries:
                try:
                    photo, truth = entry.load()
                except InvalidRequest as error:
                    failed[entry.line] = f"Line {entry.line}: {error}"
                    done()
                    continue
                running.append((entry, photo, truth))
                yield replace(entry.request, image=photo, **chosen)

        results: Iterator[Any] = pipe.edit_many(requests(), in_flight=IN_FLIGHT, return_errors=True)
        for result in results:
            entry, photo, truth = running.popleft()
            done()
            if isinstance(result, DiffEditError):
                failed[entry.line] = f"Line {entry.line}: {result}"
                continue
            if isinstance(result, Exception):
                raise result
            found = _figures(photo, truth, result)
            for name, measure in learned.items():
                found[name] = measure(photo, result.image, entry.request.prompt)
            for name, value in found.items():
                columns.setdefault(name, []).append(value)
            if self.save is not None:
                name = f"{entry.line}-{entry.image.stem[:40]}-{strength:g}.png"
                result.image.save(self.save / name)
        values = {name: np.array(column) for name, column in columns.items()}
        extra = {n: estimate(values[n]) for n in (*learned, "mask_share") if n in values}
        return extra | summarise(values)


def _figures(photo: Image, truth: Bools | None, result: EditResult) -> dict[str, float]:
    """What was kept, and the agreement with a true mask."""
    mask = np.asarray(result.mask) > 0
    outside = ~mask if truth is None else ~truth
    found = picture_figures(np.asarray(photo), np.asarray(result.image), mask, outside)
    found["mask_share"] = float(mask.mean())
    if truth is not None:
        rows, columns = result.latent_mask.shape
        cell = max(1, round(max(mask.shape[0] / rows, mask.shape[1] / columns)))
        found |= mask_figures(mask, truth, cell)
    return found
