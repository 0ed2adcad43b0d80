"""The run on an edit set of your own, with any checkpoint: the protocols of the paper.

The table has one row for each strength. A picture that cannot be read is named and left out.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.configuration import Configuration, open_pipeline
from benchmarks.machine import machine
from benchmarks.quality.edit_set import Entry, EntryError, load, read_set
from benchmarks.quality.measures import Bools, mask_figures, picture_figures
from benchmarks.quality.perceptual import Perceptual
from benchmarks.quality.settings import Fixed
from benchmarks.quality.summary import Estimate, estimate, measurements, summarise, text_table
from benchmarks.report import progress
from benchmarks.schema import NotRun, Result
from benchmarks.workload import model_facts
from diffedit import DiffEditPipeline, EditRequest, EditResult
from engine.errors import DiffEditError

IN_FLIGHT = 8
LINE_SECONDS = 20.0
FIGURES = {
    "lpips": ".3f",
    "clip": ".2f",
    "fid": ".1f",
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
    fid: bool = False
    fid_reference: Path | None = None

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


class Read(NamedTuple):
    """An entry with its pictures."""

    entry: Entry
    photo: Image.Image
    truth: Bools | None


def run(model: Path, configuration: Configuration, options: SetOptions) -> Result:
    """Run every entry at every strength, and print the table."""
    entries = read_set(options.edits)
    for strength in options.strengths:  # refuses bad options before a model is loaded
        EditRequest(b"", "-", **options.request(strength))
    if options.save is not None:
        save_folder(options.save)
    measured: dict[str, dict[str, Estimate]] = {}
    failed: dict[int, str] = {}
    pipe, _ = open_pipeline(model, configuration)
    with pipe:
        learned = Perceptual.open(
            options.lpips, options.clip, options.fid, options.fid_reference, pipe.networks.device
        )
        for strength in options.strengths:
            learned.clear()
            one = _Strength(pipe, learned, options, strength)
            measured[f"strength {strength:g}"] = one.measure(entries, failed)
    missing = [f"{name}: not measured: {reason}" for name, reason in learned.missing.items()]
    for sentence in [*failed.values(), *missing, *learned.warnings]:
        print(sentence)
    done = len(entries) - len(failed)
    if not done:
        raise DiffEditError(f"No edit of {options.edits} was made; the lines above give reasons.")
    print(f"\n{done} of {len(entries)} edits, mean and 95 % interval")
    shown = {f: spec for f, spec in FIGURES.items() if any(f in m for m in measured.values())}
    print(text_table(list(measured.items()), shown))
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


class _Strength:
    """One pass over the set."""

    def __init__(
        self,
        pipe: DiffEditPipeline,
        learned: Perceptual,
        options: SetOptions,
        strength: float,
    ) -> None:
        self.pipe, self.learned, self.options, self.strength = pipe, learned, options, strength
        self._read: deque[Read] = deque()

    def measure(self, entries: Sequence[Entry], failed: dict[int, str]) -> dict[str, Estimate]:
        """Every figure of the set; adds the lines that fail to `failed`."""
        columns: dict[str, list[float]] = {}
        last, strength, save = time.monotonic(), self.strength, self.options.save
        results = self.pipe.edit_many(
            self._requests(entries, failed), in_flight=IN_FLIGHT, return_errors=True
        )
        for done, result in enumerate(results, 1):
            read = self._read.popleft()
            if isinstance(result, Exception):
                if not isinstance(result, DiffEditError):
                    raise result
                failed[read.entry.line] = f"Line {read.entry.line}: {result}"
                continue
            for name, value in self._figures(read, result).items():
                columns.setdefault(name, []).append(value)
            if save is not None:
                result.image.save(save / f"{read.entry.name}-{strength:g}.png")
            if time.monotonic() - last > LINE_SECONDS:
                last = time.monotonic()
                progress(f"strength {strength:g}: {done} of {len(entries)} edits")
        values = {name: np.array(column) for name, column in columns.items()}
        whole = {name: Estimate(v, v, v) for name, v in self.learned.result().items()}
        extra = {n: estimate(values[n]) for n in ("lpips", "clip", "mask_share") if n in values}
        return extra | whole | summarise(values)

    def _requests(self, entries: Sequence[Entry], failed: dict[int, str]) -> Iterator[EditRequest]:
        """The requests; each picture is opened when its request is needed."""
        for entry in entries:
            try:
                photo, truth = load(entry)
            except EntryError as error:
                failed[entry.line] = str(error)
                continue
            self._read.append(Read(entry, photo, truth))
            source = entry.source if self.options.source else ""
            options = self.options.request(self.strength)
            yield EditRequest(photo, entry.prompt, source, seed=entry.seed, **options)

    def _figures(self, read: Read, result: EditResult) -> dict[str, float]:
        """What was kept, the agreement with a true mask, LPIPS and CLIP score where available."""
        before, after = np.asarray(read.photo), np.asarray(result.image)
        mask = np.asarray(result.mask) > 0
        outside = ~mask if read.truth is None else ~read.truth
        found = picture_figures(before, after, mask, outside)
        found["mask_share"] = float(mask.mean())
        if read.truth is not None:
            rows, columns = result.latent_mask.shape
            cell = max(1, round(max(mask.shape[0] / rows, mask.shape[1] / columns)))
            found |= mask_figures(mask, read.truth, cell)
        return found | self.learned.add(read.photo, result.image, read.entry.prompt)


def save_folder(path: Path) -> Path:
    """Create a folder. Raises DiffEditError where that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiffEditError(
            f"{path} cannot be created ({error.strerror}); name another folder."
        ) from None
    return path
