"""Between pictures and tensors: a request made ready for its flow, and its answer made a picture.

It knows one checkpoint's sizes, tokenizer and schedules, and the device that rows live on. It runs
no network.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffedit.algorithm.inputs import EditInputs, EditOutputs
from diffedit.algorithm.schedule import Schedule
from diffedit.conditioning.tokenizer import Tokenizer
from diffedit.imaging import compose, decode, geometry
from diffedit.request import EditRequest, InvalidRequest
from diffedit.result import EditResult, Stats
from engine.batcher import FlowHandle
from engine.checkpoint import Checkpoint
from engine.netspec import Size

if TYPE_CHECKING:
    from PIL.Image import Image


class Stopwatch:
    """When each stage began: wall time on a CPU, events in the stream on a GPU (no sync)."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._began = time.perf_counter()
        self._marks: list[tuple[str, Any]] = []

    @property
    def stage(self) -> str:
        return self._marks[-1][0] if self._marks else ""

    def note(self, stage: str) -> None:
        mark: Any = time.perf_counter()
        if self._cuda:
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
        self._marks.append((stage, mark))

    def seconds(self) -> dict[str, float]:
        """Seconds per stage and in all; call it once the results were read from the device."""
        now: Any = time.perf_counter()
        total = now - self._began
        if self._cuda:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
            now.synchronize()
        ends = [mark for _, mark in self._marks[1:]] + [now]
        spans = {
            stage: begin.elapsed_time(end) / 1e3 if self._cuda else end - begin
            for (stage, begin), end in zip(self._marks, ends, strict=True)
        }
        return {**spans, "total": total}


@dataclass(frozen=True)
class PreparedEdit:
    """A request with everything that is known before the first network call."""

    task: EditInputs
    schedule: Schedule
    photo: Image
    placement: geometry.Placement
    picture: Image | None
    warnings: Sequence[str]
    stopwatch: Stopwatch


class Preprocessor:
    """Prepares requests for one checkpoint, and finishes what their flows return."""

    def __init__(
        self, checkpoint: Checkpoint, sizes: tuple[Size, ...] | None, device: torch.device
    ) -> None:
        self._checkpoint = checkpoint
        self._sizes = sizes
        self._device = device
        self._tokenizer = Tokenizer(checkpoint.folder / "tokenizer", checkpoint.tokens)
        self._schedules: dict[int, Schedule] = {}

    def prepare(
        self,
        request: EditRequest,
        show: Callable[[torch.Tensor, torch.Tensor], None] | None = None,
    ) -> PreparedEdit:
        """Read the pictures, fit them, tokenize the texts; raises InvalidRequest."""
        stopwatch = Stopwatch(self._device)
        photo = decode.load(request.image)
        factor = self._checkpoint.factor
        size = geometry.choose_size(
            (photo.height, photo.width), self._sizes, self._checkpoint.native_size, factor
        )
        array, placement = geometry.fit(photo, size)
        picture = user_mask = None
        if request.mask_image is not None:
            picture = decode.load_mask(request.mask_image, photo.size)
            user_mask = self._to_device(geometry.latent_mask(picture, placement, factor))
        ids, warnings = self._tokenizer.encode_prompts(
            {
                "source": request.source_prompt,
                "prompt": request.prompt,
                "negative": request.negative_prompt,
            }
        )
        task = EditInputs(
            request=request,
            image=self._to_device(array),
            region=self._to_device(geometry.region(placement, factor)),
            source=ids["source"],
            target=ids["prompt"],
            negative=ids["negative"],
            empty=self._tokenizer.encode(""),
            user_mask=user_mask,
            image_key=hashlib.sha256(array.tobytes() + repr(placement).encode()).hexdigest(),
            note=stopwatch.note,
            show=show,
        )
        schedule = self._schedule(request.num_inference_steps)
        return PreparedEdit(task, schedule, photo, placement, picture, warnings, stopwatch)

    def finish(
        self, ready: PreparedEdit, edited: EditOutputs, job: FlowHandle[EditOutputs]
    ) -> EditResult:
        """The result as pictures and arrays; the background is the photograph's own."""
        mask = edited.mask.cpu().numpy()
        request, warnings = ready.task.request, list(ready.warnings)
        picture = self.mask_picture(ready, mask)
        if not mask.any():
            warnings.append(_nothing_found(ready.task))
        if edited.image is None:
            image = ready.photo.copy()
        else:
            image = geometry.to_photo(edited.image.float().cpu().numpy(), ready.placement)
            if request.composite:
                image = compose.composite(ready.photo, image, picture)
        return EditResult(
            image=image,
            mask=picture,
            heatmap=edited.heatmap.float().cpu().numpy(),
            latent_mask=mask,
            latents=edited.latents.float().cpu().numpy(),
            stats=Stats(dict(job.rows), dict(job.calls), ready.stopwatch.seconds()),
            seed=request.seed,
            warnings=tuple(warnings),
        )

    def mask_picture(self, ready: PreparedEdit, mask: NDArray[np.bool_]) -> Image:
        """The mask at the photograph's size: the user's own, or the found cells."""
        if ready.picture is not None:
            return ready.picture
        return geometry.mask_to_photo(mask, ready.placement, self._checkpoint.factor)

    def sketch(self, ready: PreparedEdit, colours: NDArray[np.float32]) -> Image:
        """Colours of the latent grid, [h, w, 3] in [-1, 1], as large as the networks see it."""
        placement = ready.placement
        large = torch.nn.functional.interpolate(
            torch.from_numpy(colours).permute(2, 0, 1)[None], placement.canvas, mode="bilinear"
        )
        return geometry.to_photo(large[0].numpy(), replace(placement, source=placement.fitted))

    def _to_device(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)

    def _schedule(self, steps: int) -> Schedule:
        if steps not in self._schedules:
            try:
                schedule = Schedule.from_config(self._checkpoint.configs["scheduler"], steps)
            except ValueError as error:
                raise InvalidRequest(str(error)) from None
            self._schedules[steps] = schedule
        return self._schedules[steps]


def _nothing_found(task: EditInputs) -> str:
    if task.user_mask is not None:
        return "The mask image is empty, so the picture is returned as it was."
    if task.source == task.target:
        return (
            "The two texts are the same for the text encoder, so there is nothing to edit: the "
            "picture is returned as it was."
        )
    return (
        "No place was found where the two texts disagree enough; the picture is returned as it "
        "was: name what is there and what should be there more plainly, or pass a mask."
    )
