"""`EditHandle`: a submitted edit, its result, cancellation and previews."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffedit.algorithm.inputs import EditOutputs
from diffedit.preprocessor import PreparedEdit, Preprocessor
from diffedit.result import EditResult
from engine.flow_handle import FlowHandle

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")


@dataclass(frozen=True)
class EditHandle:
    """A submitted edit, or a submitted search for a mask."""

    _preprocessor: Preprocessor
    _prepared: PreparedEdit
    _flow: FlowHandle[EditOutputs]

    def result(self) -> EditResult:
        """Wait for the result. An interrupt (Ctrl-C) while waiting cancels the edit."""
        outputs = wait(self._flow)
        return self._preprocessor.finish(self._prepared, outputs, self._flow)

    def cancel(self) -> None:
        """Request cancellation: `result` raises Cancelled within one network call."""
        self._flow.cancel()

    @property
    def done(self) -> bool:
        """Whether the networks have finished, failed or were cancelled."""
        return self._flow.done

    @property
    def future(self) -> Future[EditOutputs]:
        """Resolves when the networks have finished; `result` then only makes pictures."""
        return self._flow.future

    @property
    def canvas(self) -> NDArray[np.float32]:
        """The picture as the networks see it, float32 [3, H, W] in [-1, 1]."""
        return self._prepared.inputs.image.float().cpu().numpy()

    def render_preview(self, colors: NDArray[np.float32]) -> Image:
        """A preview as RGB, at the networks' resolution and the photograph's aspect.

        Args:
            colors: float32 [h, w, 3] in [-1, 1] on the latent grid.
        """
        return self._preprocessor.render_preview(self._prepared, colors)


def wait(flow: FlowHandle[T]) -> T:
    """A flow's result. If the waiting is interrupted, the flow is cancelled."""
    try:
        return flow.future.result()
    except BaseException:
        flow.cancel()  # an interrupt must not leave rows in the queue; a finished flow ignores it
        raise
