"""The run on edits of your own, with any checkpoint: the protocols of the paper.

The edits are a file of `diffedit-trt batch`. A line's `mask_image` is the true mask, which results
are compared with; `out` is not used. The table has one row for each strength. A picture that
cannot be read fails its own edit only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
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
from benchmarks.quality.summary import Estimate, estimate, measurements, summarise, text_table
from benchmarks.report import progress
from benchmarks.schema import NotRun, Result
from benchmarks.workload import model_facts
from diffedit import DiffEditPipeline, EditRequest, EditResult
from diffedit.cli.batch import read_lines
from diffedit.imaging import decode
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


@dataclass(frozen=True)
class SetOptions:
    """The options of a run; of `fixed`, the strength is not used."""

    edits: Path
    fixed: Fixed
    strengths: Sequence[float]
    method: str = "diffedit"
    source: bool = True
    save: Path | None = None
    clip: str | None = None
    lpips: str | None = None

    def request(self, strength: float) -> dict[str, Any]:
        """Options of `EditRequest`."""
        return {
            "num_inference_steps": self.fixed.steps,
            "guidance_scale": self.fixed.guidance,
            "mask_thresholding_ratio": self.fixed.ratio,
            "mask_encode_strength": self.fixed.noise,
            "method": self.method,
            "strength": strength,
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
        photo = decode.load(self.image)
        if self.mask is None:
            return photo, None
        return photo, np.asarray(decode.load_mask(self.mask, photo.size)) > 0


def read_set(path: Path) -> list[Entry]:
    """Check every line of a batch file. Raises InvalidRequest, which names the line."""
    entries = []
    for line in read_lines(str(path)):
        try:
            image, mask = line.path("image"), line.path("mask_image")
            if image is None:
                raise InvalidRequest("it has no image; add the path of a file.")
            entries.append(Entry(line.number, line.request(), image, mask))
        except InvalidRequest as error:
            raise InvalidRequest(f"Line {line.number} of {path}: {error}") from None
    return entries


def run(model: Path, configuration: Configuration, options: SetOptions) -> Result:
    """Run every entry at every strength, and print the table."""
    entries = read_set(options.edits)
    for strength in options.strengths:  # refuses bad options before a model is loaded
        EditRequest(b"", "-", **options.request(strength))
    if options.save is not None:
        options.save.mkdir(parents=True, exist_ok=True)
    measured: dict[str, dict[str, Estimate]] = {}
    failed: dict[int, str] = {}
    pipe = open_pipeline(model, configuration)
    with pipe:
        learned, missing = open_measures(options.lpips, options.clip, pipe.networks.device)
        for strength in options.strengths:
            progress(f"quality: {len(entries)} edits at strength {strength:g}")
            one = _Strength(pipe, learned, options, strength)
            measured[f"strength {strength:g}"] = one.measure(entries, failed)
    unmeasured = [f"{name}: not measured: {reason}" for name, reason in missing.items()]
    print("\n".join([*failed.values(), *unmeasured]))
    done = len(entries) - len(failed)
    if not done:
        raise DiffEditError(f"No edit of {options.edits} was made; the lines above give reasons.")
    print(f"\n{done} of {len(entries)} edits, mean and 95 % interval")
    shown = {f: spec for f, spec in FIGURES.items() if any(f in m for m in measured.values())}
    print(text_table(measured, shown))
    settings = {key: value for key, value in options.request(0).items() if key != "strength"}
    return Result(
        "quality",
        machine(),
        {"edits": len(entries), **settings, "source": options.source},
        {"backend": configuration.backend, "dtype": configuration.dtype},
        model_facts(model),
        tuple(measurements("edit set", measured, done)),
        not_run=tuple(NotRun(f"line {line}", reason) for line, reason in failed.items()),
    )


@dataclass
class _Strength:
    """One pass over the set."""

    pipe: DiffEditPipeline
    learned: dict[str, Measure]
    options: SetOptions
    strength: float

    def measure(self, entries: Sequence[Entry], failed: dict[int, str]) -> dict[str, Estimate]:
        """Every figure of the set; adds the lines that fail to `failed`."""
        columns: dict[str, list[float]] = {}
        running: deque[tuple[Entry, Image, Bools | None]] = deque()

        def requests() -> Iterator[EditRequest]:
            for entry in entries:
                try:
                    photo, truth = entry.load()
                except InvalidRequest as error:
                    failed[entry.line] = f"Line {entry.line}: {error}"
                    continue
                running.append((entry, photo, truth))
                yield self._request(entry, photo)

        results: Iterator[Any] = self.pipe.edit_many(
            requests(), in_flight=IN_FLIGHT, return_errors=True
        )
        for result in results:
            entry, photo, truth = running.popleft()
            if isinstance(result, DiffEditError):
                failed[entry.line] = f"Line {entry.line}: {result}"
                continue
            if isinstance(result, Exception):
                raise result
            for name, value in self._figures(entry, photo, truth, result).items():
                columns.setdefault(name, []).append(value)
            if self.options.save is not None:
                name = f"{entry.line}-{entry.image.stem[:40]}-{self.strength:g}.png"
                result.image.save(self.options.save / name)
        values = {name: np.array(column) for name, column in columns.items()}
        extra = {n: estimate(values[n]) for n in (*self.learned, "mask_share") if n in values}
        return extra | summarise(values)

    def _request(self, entry: Entry, photo: Image) -> EditRequest:
        """The edit at this strength; the options of the run replace those of the line."""
        source = entry.request.source_prompt if self.options.source else ""
        options = self.options.request(self.strength)
        return replace(entry.request, image=photo, source_prompt=source, **options)

    def _figures(
        self, entry: Entry, photo: Image, truth: Bools | None, result: EditResult
    ) -> dict[str, float]:
        """What was kept, the agreement with a true mask, LPIPS and CLIP score where available."""
        mask = np.asarray(result.mask) > 0
        outside = ~mask if truth is None else ~truth
        found = picture_figures(np.asarray(photo), np.asarray(result.image), mask, outside)
        found["mask_share"] = float(mask.mean())
        if truth is not None:
            rows, columns = result.latent_mask.shape
            cell = max(1, round(max(mask.shape[0] / rows, mask.shape[1] / columns)))
            found |= mask_figures(mask, truth, cell)
        pictures = photo, result.image, entry.request.prompt
        return found | {name: measure(*pictures) for name, measure in self.learned.items()}
