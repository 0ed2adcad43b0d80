"""The editors: our pipeline, diffusers' pipeline, and the references. They measure nothing.

An editor takes cases and yields an `Outcome` for each, in order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.configuration import Configuration, open_pipeline
from benchmarks.diffusers_baseline import DiffusersBaseline, EditOptions
from benchmarks.networks import DENOISER, NAMES, CountingNetworks
from benchmarks.quality.cases import Case
from benchmarks.quality.measures import Bools, Pixels
from benchmarks.quality.settings import Setting
from diffedit import DiffEditPipeline, EditRequest
from diffedit.imaging import geometry
from diffedit.request import MASKED_METHODS
from engine.rows import Flow, Row

MASK_STAGE = (
    "preset",
    "num_inference_steps",
    "num_maps_per_mask",
    "mask_encode_strength",
    "mask_thresholding_ratio",
    "mask_dilation",
    "mask_threshold",
    "mask_cleaning",
)
"""The options that a mask depends on."""
IN_FLIGHT = 20
"""Edits in flight at once; they share calls of the networks."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of one case.

    Attributes:
        after: uint8 [H, W, 3]; the input where only a mask was computed.
        mask: bool [H, W] at the picture's size, or None for methods without one.
        blend: uint8 [H, W]: the opacity of the edit at each pixel. None if it is the mask.
        heatmap: float32 [h, w] on the latent grid, or None.
        rows: rows that the denoiser ran for this edit, alone and with nothing cached. NaN where
            they were not counted: edits that run together share calls.
        seconds: of that edit.
    """

    after: Pixels
    mask: Bools | None = None
    heatmap: NDArray[np.float32] | None = None
    blend: Pixels | None = None
    rows: float = math.nan
    seconds: float = math.nan


class Editors:
    """All editors on one checkpoint, each opened at its first use."""

    def __init__(self, model: Path, configuration: Configuration) -> None:
        self.model, self.configuration = model, configuration
        self._masks: dict[tuple[Any, ...], Image.Image] = {}

    @cached_property
    def pipeline(self) -> DiffEditPipeline:
        return open_pipeline(self.model, self.configuration)

    @cached_property
    def baseline(self) -> DiffusersBaseline:
        return DiffusersBaseline(self.model, self.configuration.device)

    def run(self, setting: Setting, cases: Sequence[Case]) -> Iterator[Outcome]:
        """The outcome of every case under a setting."""
        edit: dict[str, Callable[[], Iterator[Outcome]]] = {
            "ours": lambda: self._ours(setting, cases),
            "mask": lambda: self._masks_only(setting, cases),
            "diffusers": lambda: (self._diffusers(setting, case) for case in cases),
            "none": lambda: (Outcome(case.image) for case in cases),
            "vae": lambda: (Outcome(self.round_trip(case.image)) for case in cases),
            "ideal": lambda: (Outcome(case.ideal.image) for case in cases),
            "ideal-vae": lambda: (Outcome(self.round_trip(case.ideal.image)) for case in cases),
        }
        return edit[setting.editor]()

    def alone(self, setting: Setting, case: Case) -> tuple[float, float]:
        """(rows, seconds) of one edit by itself with nothing cached; NaN without a denoiser."""
        if setting.editor not in ("ours", "mask"):
            return math.nan, math.nan
        shared = self.pipeline.networks
        networks = CountingNetworks(shared, keep_open=True)
        other = Editors(self.model, self.configuration)
        other.pipeline = DiffEditPipeline(self.pipeline.checkpoint, networks)
        found = replace(setting, mask="found") if setting.mask == "shared" else setting
        began = time.perf_counter()
        list(other.run(found, [case]))
        seconds = time.perf_counter() - began
        other.close()
        return float(sum(networks.calls[DENOISER])), seconds

    def _ours(self, setting: Setting, cases: Sequence[Case]) -> Iterator[Outcome]:
        masked = setting.method in MASKED_METHODS
        requests = (request_of(setting, case, self._mask(setting, case)) for case in cases)
        for result in self.pipeline.edit_many(requests, in_flight=IN_FLIGHT):
            mask = np.asarray(result.mask) > 0 if masked else None
            heatmap = result.heatmap if masked else None
            composited = masked and setting.options.get("composite", True)
            blend = np.asarray(result.blend_mask) if composited else None
            yield Outcome(np.asarray(result.image), mask, heatmap, blend)

    def _masks_only(self, setting: Setting, cases: Sequence[Case]) -> Iterator[Outcome]:
        for case in cases:
            source, target = texts(setting, case)
            options = {**setting.options, "seed": case.seed}
            found = self.pipeline.generate_mask(case.image, target, source, **options)
            yield Outcome(case.image, np.asarray(found.mask) > 0, found.heatmap)

    def _diffusers(self, setting: Setting, case: Case) -> Outcome:
        source, target = texts(setting, case)
        image = Image.fromarray(case.image)
        options = EditOptions(**setting.options)
        began = time.perf_counter()
        edited = self.baseline.edit(image, source, target, case.seed, options)
        seconds = time.perf_counter() - began
        cell = len(case.image) // len(edited.mask)
        mask = edited.mask.repeat(cell, 0).repeat(cell, 1)
        return Outcome(np.asarray(edited.image), mask, rows=edited.rows, seconds=seconds)

    def _mask(self, setting: Setting, case: Case) -> Image.Image | None:
        """The mask that the editor gets, white where to edit; None where it finds its own.

        An empty mask is not a valid mask for a request: the editor then finds it again.
        """
        if setting.mask == "found":
            return None
        if setting.mask == "true":
            return Image.fromarray(case.region)
        source, target = texts(setting, case)
        options = {k: v for k, v in setting.options.items() if k in MASK_STAGE}
        key = (case.seed, source, target, *sorted(options.items()))
        if key not in self._masks:
            found = self.pipeline.generate_mask(
                case.image, target, source, seed=case.seed, **options
            )
            self._masks[key] = found.mask
        return self._masks[key] if self._masks[key].getbbox() else None

    def round_trip(self, image: Pixels) -> Pixels:
        """The picture through the VAE and back."""
        pipe = self.pipeline
        size = geometry.choose_size(
            image.shape[:2],
            pipe.networks.sizes,
            pipe.checkpoint.family.native_size,
            pipe.checkpoint.family.factor,
        )
        array, placement = geometry.fit(Image.fromarray(image), size)
        tensor = torch.from_numpy(array).to(pipe.networks.device)
        pipe.batcher.start()
        decoded = pipe.batcher.submit(_round_trip(tensor)).future.result()
        return np.asarray(geometry.to_photo(decoded.float().cpu().numpy(), placement))

    def close(self) -> None:
        """Release what was opened."""
        if "pipeline" in self.__dict__:
            self.pipeline.close()


def texts(setting: Setting, case: Case) -> tuple[str, str]:
    """(R, Q): the source text and the prompt that the editor gets."""
    source = case.edit.source if setting.source else ""
    return source, case.edit.source if setting.repeat else case.edit.target


def request_of(setting: Setting, case: Case, mask: Image.Image | None = None) -> EditRequest:
    """The request of one case under a setting of our pipeline."""
    source, target = texts(setting, case)
    return EditRequest(
        case.image, target, source, mask_image=mask, seed=case.seed, **setting.options
    )


def _round_trip(image: torch.Tensor) -> Flow[torch.Tensor]:
    (latent,) = yield [Row(NAMES.image_encoder, (image,))]
    decoded: list[torch.Tensor] = yield [Row(NAMES.image_decoder, (latent,))]
    return decoded[0]
