"""Convert pictures to tensors and texts to token ids: prepare a request for its flow.

It uses the sizes, tokenizers and schedules of one checkpoint. It runs no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray

from diffedit.algorithm.inputs import EditInputs
from diffedit.algorithm.plan import EditPlan
from diffedit.algorithm.schedule import Schedule
from diffedit.algorithm.transfer import to_device
from diffedit.canvas import Canvas, make_canvas
from diffedit.conditioning.conditioner import Conditioner
from diffedit.conditioning.prompt_syntax import syntax_warnings
from diffedit.focus import Focus
from diffedit.imaging import geometry, photograph
from diffedit.imaging.mask_reader import read_mask
from diffedit.method_options import has_option
from diffedit.notices import Notice
from diffedit.prepared_edit import PreparedEdit
from diffedit.presets import resolve
from diffedit.request import EditRequest, InvalidRequest
from diffedit.stage_timer import StageTimer
from diffedit.visible_text import invisible_warnings
from engine.checkpoint import Checkpoint
from engine.models import ModelFamily
from engine.netspec import Size


class Preprocessor:
    """Prepares requests for one checkpoint."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        sizes: tuple[Size, ...] | None,
        device: torch.device,
        warnings: Sequence[Notice] = (),
    ) -> None:
        self._checkpoint = checkpoint
        self._family = checkpoint.family
        self._sizes = sizes
        self._device = device
        self._warnings = warnings
        self._conditioner = Conditioner(checkpoint)
        self._schedules: dict[tuple[int, Size], Schedule] = {}

    def prepare(self, request: EditRequest) -> PreparedEdit:
        """Fill in the options, read the pictures, fit them to the canvas, tokenize the texts.

        Raises InvalidRequest.
        """
        timer = StageTimer()
        request = resolve(request, self._family.defaults)
        photo = photograph.read(request.image)
        factor = self._family.factor
        size = canvas_size(self._family, photo.size[::-1], self._sizes)
        focus, user_mask, canvas = Focus(request, photo, size, factor), None, None
        if request.mask_image is not None:
            user_mask = read_mask(request.mask_image, photo.size, stored_size=photo.stored_size)
            canvas = focus.choose(user_mask.area, user_mask.soft)
        if canvas is None:
            area, soft = (user_mask.area, user_mask.soft) if user_mask else (None, None)
            canvas = make_canvas(photo.rgb, area, size, factor, soft)
        prompts = _named_prompts(request)
        ids, warnings = self._conditioner.encode_prompts(prompts)
        pairs = [(ids[r], ids[q]) for r, q in _names_of_pairs(request)]
        inputs = EditInputs(
            request=request,
            networks=self._checkpoint.names,
            **self._canvas_inputs(canvas),
            source=pairs[0][0],
            target=pairs[0][1],
            more=tuple(pairs[1:]),
            negative=ids["negative"],
            empty=self._conditioner.empty,
            condition=self._conditioner.condition,
            unguided=self._request_inputs(size, 1.0),
            guided=self._request_inputs(size, request.guidance_scale),
            source_guided=self._request_inputs(size, request.source_guidance_scale or 1.0),
            embeds_guidance=self._family.embeds_guidance,
        )
        schedule = self.schedule(request.num_inference_steps, size)
        of_mask = user_mask.warnings if user_mask else ()
        warnings = (
            *self._warnings,
            *photo.warnings,
            *of_mask,
            *warnings,
            *syntax_warnings(prompts),
            *invisible_warnings(prompts),
            *self._ignored(request, schedule),
        )
        placement = geometry.place(photo.size[::-1], size)
        prepared = PreparedEdit(
            inputs, schedule, photo, placement, factor, user_mask, focus, warnings, timer
        )
        if user_mask is None and focus.is_on:
            inputs = replace(inputs, focus=partial(self._focused, prepared))
        return replace(prepared, inputs=inputs)

    def _focused(self, prepared: PreparedEdit, cells: torch.Tensor) -> EditInputs | None:
        """The inputs of the window around the found cells, bool [h, w]; None without a window."""
        mask = prepared.mask_picture(cells.cpu().numpy())
        canvas = prepared.focus.choose(mask)
        if canvas is None:
            return None
        return replace(prepared.inputs, **self._canvas_inputs(canvas))

    def _canvas_inputs(self, canvas: Canvas) -> dict[str, Any]:
        cells, levels = canvas.user_mask, canvas.user_levels
        return {
            "image": self._to_device(canvas.image),
            "region": self._to_device(canvas.region),
            "user_mask": None if cells is None else self._to_device(cells),
            "user_levels": None if levels is None else self._to_device(levels),
            "image_key": canvas.key,
        }

    def schedule(self, steps: int, size: Size) -> Schedule:
        """The checkpoint's schedule for a number of steps and a canvas. Raises InvalidRequest."""
        if (steps, size) not in self._schedules:
            try:
                self._schedules[steps, size] = schedule_for(self._checkpoint, steps, size)
            except ValueError as error:
                raise InvalidRequest(str(error)) from None
        return self._schedules[steps, size]

    def _ignored(self, request: EditRequest, schedule: Schedule) -> list[Notice]:
        """Warn of options that have no effect, or a bad one, with this model."""
        kind, scale = self._family.defaults.guidance, request.guidance_scale
        if kind == "embedded" and request.negative_prompt:
            return [
                Notice(
                    "negative_prompt_ignored",
                    "This model takes the guidance scale as an input and no negative prompt, so "
                    "the negative prompt is ignored.",
                )
            ]
        if kind == "distilled" and scale != 1:
            return [
                Notice(
                    "guidance_of_distilled",
                    f"This model is distilled: it needs no guidance, and guidance_scale={scale:g} "
                    "costs twice the rows and usually spoils the result; leave it out.",
                )
            ]
        if request.method == "chordedit" and not self._family.defaults.few_steps:
            return [
                Notice(
                    "not_distilled",
                    "This model does not look distilled (its scheduler is not one of Turbo, "
                    "Lightning or LCM). ChordEdit's single step is made for distilled models, so "
                    "the edit may be weak or blurred; use such a checkpoint, a distilling LoRA "
                    "with its scheduler, or another preset.",
                )
            ]
        if not has_option(request.method, "guidance_interval"):
            return []
        low, high = request.guidance_interval
        if scale != 1 and not EditPlan.for_edit(request, schedule).guided:
            where = f"has none of the steps up to strength={request.strength:g}"
            if request.strength <= low:
                where = f"lies above strength={request.strength:g}"
            return [
                Notice(
                    "nothing_guided",
                    f"guidance_interval=({low:g}, {high:g}) {where}, so no step is guided; choose "
                    "another interval, or leave it out.",
                )
            ]
        return []

    def _request_inputs(self, size: Size, guidance_scale: float) -> tuple[torch.Tensor, ...]:
        values = self._family.request_inputs(size, guidance_scale)
        numbers = [torch.tensor(value, dtype=torch.float32) for value in values]
        return tuple(to_device(number, self._device) for number in numbers)

    def _to_device(self, array: NDArray[Any]) -> torch.Tensor:
        return to_device(torch.from_numpy(array), self._device)


def canvas_size(family: ModelFamily, photo: Size, sizes: Sequence[Size] | None) -> Size:
    """The canvas (height, width) on which a model edits a photograph of (height, width)."""
    return geometry.choose_size(photo, sizes, family.native_size, family.factor, family.max_side)


def schedule_for(checkpoint: Checkpoint, steps: int, size: Size) -> Schedule:
    """The schedule of a checkpoint for a number of steps and a canvas (height, width) in pixels.

    Raises ValueError for a number of steps out of range.
    """
    family = checkpoint.family
    return Schedule.from_config(
        checkpoint.scheduler_config,
        steps,
        image_tokens=family.image_tokens(size),
        uniform_sigmas=family.uniform_sigmas,
    )


def _names_of_pairs(request: EditRequest) -> list[tuple[str, str]]:
    """The names of the two texts of each edit, for warnings."""
    if not request.edits:
        return [("source", "prompt")]
    numbers = range(1, len(request.edits) + 1)
    return [(f"source of edit {k}", f"prompt of edit {k}") for k in numbers]


def _named_prompts(request: EditRequest) -> dict[str, str]:
    """Every text of a request by its name."""
    names = zip(_names_of_pairs(request), request.pairs, strict=True)
    texts = {name: text for pair, given in names for name, text in zip(pair, given, strict=True)}
    return texts | {"negative": request.negative_prompt}
