"""Pictures to tensors and back: prepare a request for its flow, and make its outputs a result.

It knows one checkpoint's sizes, tokenizer and schedules, and the device of the rows. It runs no
network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffedit.algorithm import mask as masks
from diffedit.algorithm.inputs import EditInputs, EditOutputs
from diffedit.algorithm.plan import EditPlan
from diffedit.algorithm.schedule import Schedule
from diffedit.canvas import Canvas, make_canvas
from diffedit.conditioning.conditioner import Conditioner
from diffedit.conditioning.prompt_syntax import syntax_warnings
from diffedit.empty_masks import empty_mask_warnings
from diffedit.focus import Focus
from diffedit.imaging import borders, compare, geometry, photograph
from diffedit.imaging.mask_reader import EditMask, read_mask
from diffedit.imaging.photograph import Photograph
from diffedit.method_options import has_option
from diffedit.presets import resolve
from diffedit.provenance import Provenance
from diffedit.request import MASKED_METHODS, EditRequest, InvalidRequest, parameters
from diffedit.result import EditResult, FoundMask, Stats
from diffedit.soft_map import SoftMap, blend_mask
from diffedit.stage_timer import StageTimer
from diffedit.visible_text import invisible_warnings
from engine.checkpoint import Checkpoint
from engine.flow_handle import FlowHandle
from engine.models import ModelFamily
from engine.netspec import Size

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class PreparedEdit:
    """A request with everything that is known before the first network call.

    Attributes:
        inputs: of the flow.
        schedule: of the request's number of steps.
        photo: the photograph.
        placement: where it is on the networks' canvas.
        user_mask: the request's mask, or None.
        focus: the part of the photograph that is edited.
        warnings: sentences for the user.
        timer: measures the stages.
    """

    inputs: EditInputs
    schedule: Schedule
    photo: Photograph
    placement: geometry.Placement
    user_mask: EditMask | None
    focus: Focus
    warnings: Sequence[str]
    timer: StageTimer


class Preprocessor:
    """Prepares requests for one checkpoint, and makes results of what their flows return."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        sizes: tuple[Size, ...] | None,
        device: torch.device,
        warnings: Sequence[str] = (),
        provenance: Provenance | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._family = checkpoint.family
        self._sizes = sizes
        self._device = device
        self._warnings = warnings
        self._provenance = provenance
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
            inputs, schedule, photo, placement, user_mask, focus, warnings, timer
        )
        if user_mask is None and focus.is_on:
            inputs = replace(inputs, focus=partial(self._focused, prepared))
        return replace(prepared, inputs=inputs)

    def _focused(self, prepared: PreparedEdit, cells: torch.Tensor) -> EditInputs | None:
        """The inputs of the window around the found cells, bool [h, w]; None without a window."""
        mask = self.mask_picture(prepared, cells.cpu().numpy())
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

    def finish(
        self, prepared: PreparedEdit, outputs: EditOutputs, flow: FlowHandle[EditOutputs]
    ) -> EditResult:
        """The result as pictures and arrays; the background is the photograph's own.

        `outputs` are on the CPU. They are copied, so that two results share nothing.
        """
        request, warnings = prepared.inputs.request, list(prepared.warnings)
        cells, heatmap = self._whole_mask(prepared, outputs)
        mask = self.mask_picture(prepared, cells)
        warnings += prepared.focus.warnings
        edits = self._edits(prepared, outputs)
        warnings += empty_mask_warnings(prepared.inputs, [one.latent_mask for one in edits], cells)
        photo, is_users = prepared.photo, prepared.user_mask is not None
        soft_map = None if edits else self._soft_map(prepared, heatmap)
        maps = [one for one in (soft_map, *(edit.soft_map for edit in edits)) if one]
        blend = self._blend_mask(prepared, maps, mask)
        if outputs.image is not None:
            edited = self._edited_photo(prepared, outputs.image.float().numpy())
            warnings += _loss_warnings(photo, mask, is_users=is_users)
            area = blend if request.composite else None
            photo = photograph.edited(photo, edited, area, fill=is_users)
        return EditResult(
            image=photo.image,
            photo=photo,
            mask=mask.copy(),
            blend_mask=blend,
            heatmap=heatmap,
            latent_mask=cells,
            latents=outputs.latents.float().numpy().copy(),
            stats=Stats(
                rows=dict(flow.rows),
                calls=dict(flow.calls),
                seconds=prepared.timer.seconds(),
                denoiser=self._checkpoint.names.denoiser,
            ),
            seed=request.seed,
            parameters=parameters(request),
            warnings=tuple(warnings),
            provenance=self._provenance,
            mask_read_as=prepared.user_mask.read_as if prepared.user_mask else None,
            soft_map=soft_map,
            edits=edits,
            window=prepared.focus.window,
        )

    def _edits(self, prepared: PreparedEdit, outputs: EditOutputs) -> tuple[FoundMask, ...]:
        """The masks of several edits, as pictures and arrays of their own."""
        found = []
        for heat, mask in outputs.parts:
            heatmap, cells = heat.float().numpy().copy(), mask.numpy().copy()
            picture = self.mask_picture(prepared, cells)
            soft_map = self._soft_map(prepared, heatmap)
            found.append(FoundMask(heatmap, cells, picture, soft_map=soft_map))
        return tuple(found)

    def _soft_map(self, prepared: PreparedEdit, heatmap: NDArray[np.float32]) -> SoftMap | None:
        """What the mask was made from, or None if it was not computed."""
        request = prepared.inputs.request
        if prepared.user_mask is not None or request.method not in MASKED_METHODS:
            return None
        own = heatmap.copy()
        own.setflags(write=False)
        return SoftMap(
            own,
            prepared.placement,
            self._family.factor,
            masks.ShapeOptions.of(request),
            request.mask_feather,
            prepared.photo.rgb,
        )

    def _whole_mask(
        self, prepared: PreparedEdit, outputs: EditOutputs
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Copies of the cells and the heatmap on the grid of the whole photograph."""
        if prepared.user_mask is None or prepared.focus.window is None:
            return outputs.mask.numpy().copy(), outputs.heatmap.float().numpy().copy()
        factor = self._family.factor
        cells = geometry.latent_mask(prepared.user_mask.area, prepared.placement, factor)
        return cells, cells.astype(np.float32)

    def _edited_photo(self, prepared: PreparedEdit, image: NDArray[np.float32]) -> Image:
        """The photograph as the networks decoded it, RGB in sRGB."""
        if prepared.focus.window is not None:
            return prepared.focus.put_back(image)
        return geometry.to_photo(image, prepared.placement)

    def mask_picture(self, prepared: PreparedEdit, cells: NDArray[np.bool_]) -> Image:
        """The mask at the photograph's size: the user's own, or the found cells."""
        if prepared.user_mask is not None:
            return prepared.user_mask.area
        return geometry.mask_to_photo(cells, prepared.placement, self._family.factor)

    def _blend_mask(self, prepared: PreparedEdit, maps: Sequence[SoftMap], mask: Image) -> Image:
        """How much of the edit each pixel takes: L, of the photograph's size, inside the mask."""
        request, photo = prepared.inputs.request, prepared.photo
        if not request.composite:
            return mask.point([255] * 256)
        if maps:
            return blend_mask(mask, maps)
        given = prepared.user_mask
        soft, border = (given.soft, given.border) if given else (None, None)
        blend = soft.copy() if soft else borders.faded(mask, request.mask_feather)
        blend = borders.limited(blend, border) if border else blend
        return photograph.filled(photo, blend, mask) if given else blend

    def render_preview(self, prepared: PreparedEdit, colors: NDArray[np.float32]) -> Image:
        """Colors on the latent grid, [h, w, 3] in [-1, 1], enlarged to the networks' resolution."""
        placement, focus = prepared.placement, prepared.focus
        large = torch.nn.functional.interpolate(
            torch.from_numpy(colors).permute(2, 0, 1)[None], placement.canvas, mode="bilinear"
        )[0].numpy()
        if focus.window is None:
            return geometry.to_photo(large, replace(placement, source=placement.fitted))
        return focus.put_back(large).resize(placement.fitted[::-1])

    def schedule(self, steps: int, size: Size) -> Schedule:
        """The checkpoint's schedule for a number of steps and a canvas. Raises InvalidRequest."""
        if (steps, size) not in self._schedules:
            try:
                self._schedules[steps, size] = schedule_for(self._checkpoint, steps, size)
            except ValueError as error:
                raise InvalidRequest(str(error)) from None
        return self._schedules[steps, size]

    def _ignored(self, request: EditRequest, schedule: Schedule) -> list[str]:
        """What this model family cannot use, as sentences."""
        kind, scale = self._family.defaults.guidance, request.guidance_scale
        if kind == "embedded" and request.negative_prompt:
            return [
                "This model takes the guidance scale as an input and no negative prompt, so the "
                "negative prompt is ignored."
            ]
        if kind == "distilled" and scale != 1:
            return [
                f"This model is distilled: it needs no guidance, and guidance_scale={scale:g} "
                "costs twice the rows and usually spoils the result; leave it out."
            ]
        if request.method == "chordedit" and not self._family.defaults.few_steps:
            return [
                "This model does not look distilled (its scheduler is not one of Turbo, Lightning "
                "or LCM). ChordEdit's single step is made for distilled models, so the edit may be "
                "weak or blurred; use such a checkpoint, or another preset."
            ]
        if not has_option(request.method, "guidance_interval"):
            return []
        low, high = request.guidance_interval
        if scale != 1 and not EditPlan.for_edit(request, schedule).guided:
            where = f"has none of the steps up to strength={request.strength:g}"
            if request.strength <= low:
                where = f"lies above strength={request.strength:g}"
            return [
                f"guidance_interval=({low:g}, {high:g}) {where}, so no step is guided; choose "
                "another interval, or leave it out."
            ]
        return []

    def _request_inputs(self, size: Size, guidance_scale: float) -> tuple[torch.Tensor, ...]:
        values = self._family.request_inputs(size, guidance_scale)
        return tuple(torch.tensor(value, dtype=torch.float32).to(self._device) for value in values)

    def _to_device(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def _loss_warnings(photo: Photograph, mask: Image, *, is_users: bool) -> list[str]:
    """What an edit cannot show, because of the photograph's mode."""
    found = []
    if photo.base_mode == "L":
        found.append("The picture is grey, so the edit is grey, too; convert it to RGB for colors.")
    hidden = compare.hidden_share(photo, mask)
    if hidden > 0.5 and not is_users:
        found.append(
            f"{hidden:.0%} of the edited area is transparent in the picture and stays transparent, "
            "so the edit does not show there; pass a mask to make that area opaque."
        )
    return found


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
    """What warnings call the source and the prompt of each edit."""
    if not request.edits:
        return [("source", "prompt")]
    numbers = range(1, len(request.edits) + 1)
    return [(f"source of edit {k}", f"prompt of edit {k}") for k in numbers]


def _named_prompts(request: EditRequest) -> dict[str, str]:
    """Every text of a request by its name."""
    names = zip(_names_of_pairs(request), request.pairs, strict=True)
    texts = {name: text for pair, given in names for name, text in zip(pair, given, strict=True)}
    return texts | {"negative": request.negative_prompt}
