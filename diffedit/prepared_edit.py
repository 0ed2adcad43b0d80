"""A request with everything that is known before the first network call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffedit.algorithm.inputs import EditInputs
from diffedit.algorithm.schedule import Schedule
from diffedit.focus import Focus
from diffedit.imaging import geometry
from diffedit.imaging.mask_reader import EditMask
from diffedit.imaging.photograph import Photograph
from diffedit.notices import Notice
from diffedit.stage_timer import StageTimer

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
        factor: pixels per latent cell.
        user_mask: the request's mask, or None.
        focus: the part of the photograph that is edited.
        warnings: sentences for the user.
        timer: measures the stages.
    """

    inputs: EditInputs
    schedule: Schedule
    photo: Photograph
    placement: geometry.Placement
    factor: int
    user_mask: EditMask | None
    focus: Focus
    warnings: Sequence[Notice]
    timer: StageTimer

    def mask_picture(self, cells: NDArray[np.bool_]) -> Image:
        """The mask at the photograph's size: the user's own, or the found cells."""
        if self.user_mask is not None:
            return self.user_mask.area
        return geometry.mask_to_photo(cells, self.placement, self.factor)
