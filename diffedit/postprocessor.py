"""Convert tensors to pictures: the outputs of a flow to a result, and latents to previews."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from diffedit.algorithm import mask as masks
from diffedit.algorithm.inputs import EditOutputs
from diffedit.empty_masks import empty_mask_warnings
from diffedit.imaging import borders, compare, compose, geometry, photograph
from diffedit.imaging.photograph import Photograph
from diffedit.notices import Notice
from diffedit.prepared_edit import PreparedEdit
from diffedit.provenance import Provenance
from diffedit.request import MASKED_METHODS, parameters
from diffedit.result import EditResult, FoundMask, Stats
from diffedit.soft_map import SoftMap, blend_mask
from engine.flow_handle import FlowHandle

if TYPE_CHECKING:
    from PIL.Image import Image


class Postprocessor:
    """Converts the outputs of one pipeline's flows to results.

    Args:
        denoiser: name of the network that runs at every step.
        provenance: the model and backend of the pipeline.
    """

    def __init__(self, denoiser: str, provenance: Provenance | None = None) -> None:
        self._denoiser = denoiser
        self._provenance = provenance

    def finish(
        self, prepared: PreparedEdit, outputs: EditOutputs, flow: FlowHandle[EditOutputs]
    ) -> EditResult:
        """The result as pictures and arrays; the background is the photograph's own.

        `outputs` are on the CPU. They are copied, so that results share no memory.
        """
        request, warnings = prepared.inputs.request, list(prepared.warnings)
        cells, heatmap = self._whole_mask(prepared, outputs)
        mask = prepared.mask_picture(cells)
        warnings += prepared.focus.warnings
        edits = self._edits(prepared, outputs)
        warnings += empty_mask_warnings(prepared.inputs, [one.latent_mask for one in edits], cells)
        photo, is_users = prepared.photo, prepared.user_mask is not None
        soft_map = None if edits else self._soft_map(prepared, heatmap)
        maps = [one for one in (soft_map, *(edit.soft_map for edit in edits)) if one]
        blend = self._blend_mask(prepared, maps, mask)
        if outputs.image is not None:
            decoded = outputs.image.float().numpy()
            warnings += _loss_warnings(photo, mask, is_users=is_users)
            area = blend if request.composite else None
            edited = partial(self._edited_part, prepared, decoded)
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
                denoiser=self._denoiser,
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
            picture = prepared.mask_picture(cells)
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
            prepared.factor,
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
        factor = prepared.factor
        cells = geometry.latent_mask(prepared.user_mask.area, prepared.placement, factor)
        return cells, cells.astype(np.float32)

    def _edited_part(
        self, prepared: PreparedEdit, image: NDArray[np.float32], box: compose.Box
    ) -> Image:
        """A part of the photograph as the networks decoded it, RGB in sRGB."""
        if prepared.focus.window is not None:
            return prepared.focus.put_back(image, box)
        return geometry.to_photo(image, prepared.placement, box)

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


def _loss_warnings(photo: Photograph, mask: Image, *, is_users: bool) -> list[Notice]:
    """Warn of changes that the photograph's mode cannot show."""
    found = []
    if photo.base_mode == "L":
        sentence = "The picture is grey, so the edit is grey, too; convert it to RGB for colors."
        found.append(Notice("edit_is_grey", sentence))
    hidden = compare.hidden_share(photo, mask)
    if hidden > 0.5 and not is_users:
        found.append(
            Notice(
                "edit_is_hidden",
                f"{hidden:.0%} of the edited area is transparent in the picture and stays "
                "transparent, so the edit does not show there; pass a mask to make that area "
                "opaque.",
            )
        )
    return found
