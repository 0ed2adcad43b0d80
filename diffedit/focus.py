"""Focus (crop and stitch): edit a window around the mask at the networks' full resolution.

The mask is found on the whole photograph. Then a part of the photograph around it is encoded and
decoded on the whole canvas, and put back. `diffedit.imaging.window` chooses the part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffedit.canvas import Canvas, make_canvas
from diffedit.imaging import geometry, window
from diffedit.imaging.photograph import Photograph
from diffedit.imaging.window import Box
from diffedit.notices import Notice
from diffedit.request import FOCUSED_METHODS, EditRequest
from engine.netspec import Size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image


class Focus:
    """The window of one edit.

    Attributes:
        is_on: whether a window may be chosen.
        window: the window in the photograph; None before `choose` is called, and if the whole
            photograph is edited.
        canvas: the window on the networks' canvas, or None.
        warnings: sentences for the user.
    """

    def __init__(self, request: EditRequest, photo: Photograph, size: Size, factor: int) -> None:
        self._request, self._photo = request, photo
        self.is_on = bool(request.focus) and request.composite and request.method in FOCUSED_METHODS
        self._size, self._factor = size, factor
        self.window: Box | None = None
        self.canvas: Canvas | None = None
        self.warnings: tuple[Notice, ...] = ()

    def choose(self, mask: Image, soft: Image | None = None) -> Canvas | None:
        """Return the canvas of the window around a mask, or None to edit the whole photograph.

        Args:
            mask: L, 0 or 255, of the photograph's size.
            soft: L, how much each pixel may change; None for a black and white mask.
        """
        box, size = mask.getbbox(), self._photo.size
        if box is None or not self.is_on:
            return None
        if self._request.focus == "auto" and not window.is_worthwhile(box, size, self._size):
            return None
        around = window.window_around(box, size, self._size, self._request.context_factor)
        if window.enlargement(around, size, self._size) <= 1:
            self.warnings = (
                Notice(
                    "focus_unused",
                    "The mask covers too much of the picture for focus, so the whole picture is "
                    "edited; use a smaller mask or a smaller context_factor.",
                ),
            )
            return None
        picture = self._photo.rgb.crop(around)
        self.window = around
        self.canvas = make_canvas(
            picture,
            mask.crop(around),
            self._size,
            self._factor,
            None if soft is None else soft.crop(around),
        )
        return self.canvas

    def put_back(self, image: NDArray[np.float32], box: Box | None = None) -> Image:
        """Return the photograph, RGB in sRGB, with the decoded window, float32 [3, H, W].

        `box` is the part of the photograph to return; None is all of it.
        """
        assert self.canvas is not None
        assert self.window is not None
        left, top, right, bottom = box or (0, 0, *self._photo.size)
        x, y = self.window[:2]
        shown = max(left, x), max(top, y), min(right, self.window[2]), min(bottom, self.window[3])
        part = self._photo.rgb.crop((left, top, right, bottom))
        if shown[0] < shown[2] and shown[1] < shown[3]:
            in_window = shown[0] - x, shown[1] - y, shown[2] - x, shown[3] - y
            decoded = geometry.to_photo(image, self.canvas.placement, in_window)
            part.paste(decoded, (shown[0] - left, shown[1] - top))
        return part
