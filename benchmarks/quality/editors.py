"""Who edits: our pipeline, diffusers' own, or nobody, each behind one call.

An editor takes cases and gives an `Outcome` per case, in order. It measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.quality.cases import Case
from benchmarks.quality.measures import Bools, Pixels
from benchmarks.quality.settings import Setting
from diffedit import DiffEditPipeline, EditRequest
from diffedit.imaging import geometry
from diffedit.request import MASKED_METHODS
from engine.rows import Flow, Row

MASK_STAGE = (
    "num_inference_steps",
    "num_maps_per_mask",
    "mask_encode_strength",
    "mask_thresholding_ratio",
    "mask_dilation",
)
"""The options that decide a mask."""
IN_FLIGHT = 20
"""Edits under way at once: they share the network's calls."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an editor made of a case.

    Attributes:
        after: uint8 [H, W, 3]; the input where only a mask was asked for.
        mask: bool [H, W] at the picture's size, or None where the method has none.
        heatmap: float32 [h, w] on the latent grid, or None.
    """

    after: Pixels
    mask: Bools | None = None
    heatmap: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Models:
    """What is edited with; the last four as in `DiffEditPipeline.from_pretrained`."""

    model: Path
    backend: Any = "auto"
    engines: Path | None = None
    device: str | None = None
    dtype: Any = None


class Editors:
    """Every editor on one checkpoint, opened when first asked for."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self._shared: dict[tuple[Any, ...], Image.Image] = {}

    @cached_property
    def pipeline(self) -> DiffEditPipeline:
        m = self.models
        return DiffEditPipeline.from_pretrained(
            m.model, backend=m.backend, engines=m.engines, device=m.device, dtype=m.dtype
        )

    @cached_property
    def diffusers(self) -> Any:
        from benchmarks.quality.theirs import Theirs

        return Theirs(self.models.model, self.models.device)

    def run(self, setting: Setting, cases: Sequence[Case]) -> Iterator[Outcome]:
        """The outcome of every case under a setting."""
        edit: dict[str, Callable[[], Iterator[Outcome]]] = {
            "ours": lambda: self._ours(setting, cases),
            "mask": lambda: self._masks(setting, cases),
            "diffusers": lambda: (self.diffusers(setting, case) for case in cases),
            "none": lambda: (Outcome(case.image) for case in cases),
            "vae": lambda: (Outcome(self.round_trip(case.image)) for case in cases),
            "ideal": lambda: (Outcome(case.ideal.image) for case in cases),
            "ideal-vae": lambda: (Outcome(self.round_trip(case.ideal.image)) for case in cases),
        }
        return edit[setting.editor]()

    def _ours(self, setting: Setting, cases: Sequence[Case]) -> Iterator[Outcome]:
        masked = setting.options.get("method", "diffedit") in MASKED_METHODS
        requests = (request_of(setting, case, self._mask(setting, case)) for case in cases)
        for result in self.pipeline.edit_many(requests, in_flight=IN_FLIGHT):
            mask = np.asarray(result.mask) > 0 if masked else None
            yield Outcome(np.asarray(result.image), mask, result.heatmap if masked else None)

    def _masks(self, setting: Setting, cases: Sequence[Case]) -> Iterator[Outcome]:
        for case in cases:
            source, target = texts(setting, case)
            options = {**setting.options, "seed": case.seed}
            found = self.pipeline.generate_mask(case.image, target, source, **options)
            yield Outcome(case.image, np.asarray(found.mask) > 0, found.heatmap)

    def _mask(self, setting: Setting, case: Case) -> Image.Image | None:
        """The mask a setting is given, white where to edit; None where it looks for it itself."""
        if setting.mask == "found":
            return None
        if setting.mask == "true":
            return Image.fromarray(case.region)
        source, target = texts(setting, case)
        options = {k: v for k, v in setting.options.items() if k in MASK_STAGE}
        key = (case.seed, source, target, *sorted(options.items()))
        if key not in self._shared:
            found = self.pipeline.generate_mask(
                case.image, target, source, seed=case.seed, **options
            )
            self._shared[key] = found.mask
        return self._shared[key]

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
        seen = pipe.batcher.submit(_round_trip(tensor)).future.result()
        return np.asarray(geometry.to_photo(seen.float().cpu().numpy(), placement))

    def close(self) -> None:
        """Release what was opened."""
        if "pipeline" in self.__dict__:
            self.pipeline.close()


def texts(setting: Setting, case: Case) -> tuple[str, str]:
    """(R, Q): what the editor is told is there, and what should be."""
    source = case.edit.source if setting.source else ""
    return source, case.edit.source if setting.repeat else case.edit.target


def request_of(setting: Setting, case: Case, mask: Image.Image | None = None) -> EditRequest:
    """The request of one case under a setting of our pipeline, with the mask it is given."""
    source, target = texts(setting, case)
    return EditRequest(
        case.image, target, source, mask_image=mask, seed=case.seed, **setting.options
    )


def _round_trip(image: torch.Tensor) -> Flow[torch.Tensor]:
    (latent,) = yield [Row("vae_encode", (image,))]
    (seen,) = yield [Row("vae_decode", (latent,))]
    return seen
