"""The run on an edit set of the user's own, with any checkpoint: the paper's protocols.

One line of the table per strength. A picture that cannot be read is named and left out; the rest of
the set goes on.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.quality.editors import Models
from benchmarks.quality.measures import Bools, mask_figures, picture_figures
from benchmarks.quality.perceptual import Perceptual
from benchmarks.quality.summary import Estimate, as_json, estimate, summarise, text_table
from benchmarks.quality.user_set import Entry, EntryError, load, read_set
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


class Read(NamedTuple):
    """A line's pictures."""

    entry: Entry
    photo: Image.Image
    truth: Bools | None


def run(args: argparse.Namespace, models: Models) -> dict[str, Any]:
    """Every entry at every strength; prints the table, returns what the json line holds."""
    entries = read_set(args.edits)
    options = {
        "num_inference_steps": args.steps,
        "guidance_scale": args.guidance,
        "mask_thresholding_ratio": args.ratio,
        "mask_encode_strength": args.noise,
        "method": args.method,
    }
    for strength in args.strengths:  # before any model is loaded
        EditRequest(b"", "-", strength=strength, **options)
    if args.save is not None:
        save_folder(args.save)
    found: dict[str, dict[str, Estimate]] = {}
    failed: dict[int, str] = {}
    with DiffEditPipeline.from_pretrained(
        models.model,
        backend=models.backend,
        engines=models.engines,
        device=models.device,
        dtype=models.dtype,
    ) as pipe:
        learned = Perceptual.open(
            args.lpips, args.clip, args.fid, args.fid_reference, pipe.networks.device
        )
        for strength in args.strengths:
            learned.clear()
            one = _Strength(pipe, learned, {**options, "strength": strength}, args)
            found[f"strength {strength:g}"] = one.measure(entries, failed)
    missing = [f"{name}: not measured: {why}" for name, why in learned.missing.items()]
    for sentence in [*failed.values(), *missing, *learned.warnings]:
        print(sentence)
    if len(failed) == len(entries):
        raise DiffEditError(f"No edit of {args.edits} could be made; the lines above say why.")
    print(f"\n{len(entries) - len(failed)} of {len(entries)} edits, mean and 95 % interval")
    shown = {f: spec for f, spec in FIGURES.items() if any(f in m for m in found.values())}
    print(text_table(list(found.items()), shown))
    return {
        "model": str(args.model),
        "edits": len(entries),
        "failed": failed,
        **options,
        "source": not args.no_source,
        "strengths": as_json(found),
    }


class _Strength:
    """One pass over the set."""

    def __init__(
        self,
        pipe: DiffEditPipeline,
        learned: Perceptual,
        options: dict[str, Any],
        args: argparse.Namespace,
    ) -> None:
        self.pipe, self.learned, self.options = pipe, learned, options
        self.source, self.save = not args.no_source, args.save
        self._read: deque[Read] = deque()

    def measure(self, entries: Sequence[Entry], failed: dict[int, str]) -> dict[str, Estimate]:
        """Every figure of the set; lines that fail go into `failed`."""
        columns: dict[str, list[float]] = {}
        last, strength = time.monotonic(), self.options["strength"]
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
            if self.save is not None:
                result.image.save(self.save / f"{read.entry.name}-{strength:g}.png")
            if time.monotonic() - last > LINE_SECONDS:
                last = time.monotonic()
                print(f"strength {strength:g}: {done} of {len(entries)} edits", flush=True)
        values = {name: np.array(column) for name, column in columns.items()}
        whole = {name: Estimate(v, v, v) for name, v in self.learned.result().items()}
        extra = {n: estimate(values[n]) for n in ("lpips", "clip", "mask_share") if n in values}
        return extra | whole | summarise(values)

    def _requests(self, entries: Sequence[Entry], failed: dict[int, str]) -> Iterator[EditRequest]:
        """Opens pictures only as they are needed."""
        for entry in entries:
            try:
                photo, truth = load(entry)
            except EntryError as error:
                failed[entry.line] = str(error)
                continue
            self._read.append(Read(entry, photo, truth))
            source = entry.source if self.source else ""
            yield EditRequest(photo, entry.prompt, source, seed=entry.seed, **self.options)

    def _figures(self, read: Read, result: EditResult) -> dict[str, float]:
        """LPIPS and CLIP score where they can be had; what was kept; against a true mask."""
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
    """Make it; DiffEditError where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiffEditError(f"{path} cannot be made ({error.strerror}); name another.") from None
    return path
